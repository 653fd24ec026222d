//! Counts of each label, for the metrics that are means over labels.

use rayon::prelude::*;

use super::sums::Hit;
use crate::csr::CsrView;
use crate::error::{Error, Result};
use crate::memory::zeroed;
use crate::metric::{Kind, Metric};

/// Threads that count, each its own range of labels: every one of them reads all entries.
const MAX_PARTS: usize = 8;
/// Entries that are worth a thread.
const ENTRIES_A_PART: usize = 1 << 16;
/// A place without a label in a log.
const NOTHING: u32 = u32::MAX;

/// How often each label was a positive, and at each cut of the list: predicted, and predicted rightly.
#[derive(Debug, Clone)]
pub(super) struct LabelCounts {
    /// The cuts, growing; empty if no metric of the list needs counts.
    ks: Vec<usize>,
    /// Of each label: positives, then for each cut hits and predictions between the cut before and it.
    pub(super) cells: Vec<u32>,
}

/// The heads of rankings in a fixed width: twice the label, plus one for a hit.
#[derive(Debug, Default)]
pub(super) struct Log(Vec<u32>);

impl Log {
    /// Appends the first `width` places of a ranking.
    pub(super) fn push(&mut self, ranking: &[i32], hits: &[Hit], width: usize) {
        let (start, head) = (self.0.len(), &ranking[..ranking.len().min(width)]);
        self.0.extend(head.iter().map(|&label| (label as u32) << 1));
        for hit in hits.iter().take_while(|hit| (hit.rank as usize) < head.len()) {
            self.0[start + hit.rank as usize] |= 1;
        }
        self.0.resize(start + width, NOTHING);
    }
}

impl LabelCounts {
    /// Nothing counted yet.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub(super) fn new(n_labels: usize, metrics: &[Metric]) -> Result<Self> {
        let n_cells = Self::n_cells(n_labels, metrics);
        let n_cells = n_cells.ok_or(Error::OutOfMemory { bytes: usize::MAX })?;
        Ok(Self { ks: cuts(metrics), cells: zeroed(n_cells)? })
    }

    /// How many numbers are kept; `None` on overflow.
    pub(super) fn n_cells(n_labels: usize, metrics: &[Metric]) -> Option<usize> {
        match cuts(metrics).len() {
            0 => Some(0),
            n_cuts => n_labels.checked_mul(1 + 2 * n_cuts),
        }
    }

    /// Places of a ranking that count; 0 if nothing is counted.
    pub(super) fn width(&self) -> usize {
        self.ks.last().copied().unwrap_or(0)
    }

    fn stride(&self) -> usize {
        1 + 2 * self.ks.len()
    }

    /// Counts rows that have been checked.
    pub(super) fn count(&mut self, y_true: CsrView<'_>, logs: &[Log]) {
        let (width, stride) = (self.width(), self.stride());
        let n_labels = self.cells.len() / stride;
        if width == 0 || n_labels == 0 {
            return;
        }
        let n_entries = y_true.n_rows() * width;
        let n_parts = rayon::current_num_threads().min(MAX_PARTS);
        let n_parts = n_parts.min(n_entries / ENTRIES_A_PART + 1);
        let size = n_labels.div_ceil(n_parts);
        // The pair of cells of each rank.
        let pair = |rank: usize| 1 + 2 * self.ks.partition_point(|&k| k <= rank);
        let pairs: Vec<usize> = (0..width).map(pair).collect();
        self.cells.par_chunks_mut(size * stride).enumerate().for_each(|(part, cells)| {
            let first = part * size;
            for row in 0..y_true.n_rows() {
                let (labels, values) = y_true.row(row);
                for (&label, &value) in labels.iter().zip(values) {
                    let at = (label as usize).wrapping_sub(first).wrapping_mul(stride);
                    if let Some(cell) = cells.get_mut(at) {
                        *cell += u32::from(value > 0.0);
                    }
                }
            }
            for ranking in logs.iter().flat_map(|log| log.0.chunks_exact(width)) {
                for (&entry, pair) in ranking.iter().zip(&pairs) {
                    let at = (entry as usize >> 1).wrapping_sub(first).wrapping_mul(stride);
                    if entry != NOTHING && at < cells.len() {
                        cells[at + pair] += entry & 1;
                        cells[at + pair + 1] += 1;
                    }
                }
            }
        });
    }

    /// Adds the counts of other rows.
    pub(super) fn add(&mut self, other: &Self) {
        for (cell, other) in self.cells.iter_mut().zip(&other.cells) {
            *cell += other;
        }
    }

    /// A metric over the labels picked; `None` if its cut is not of the list, or without a label.
    pub(super) fn value(&self, metric: Metric, picked: impl Fn(usize) -> bool) -> Option<f64> {
        let cut = self.ks.iter().position(|&k| k == metric.k())?;
        let (mut sum, mut n) = (0.0, 0);
        let labels = self.cells.chunks_exact(self.stride()).enumerate();
        for (_, cells) in labels.filter(|&(label, _)| picked(label)) {
            let upto = |at: usize| -> u64 {
                cells[at..].iter().step_by(2).take(cut + 1).map(|&cell| u64::from(cell)).sum()
            };
            let (positives, hits, predicted) = (u64::from(cells[0]), upto(1), upto(2));
            let (a, b) = match metric.kind() {
                Kind::MacroP => (hits, predicted),
                Kind::MacroR => (hits, positives),
                Kind::MacroF => (2 * hits, predicted + positives),
                _ => (u64::from(hits > 0), 1),
            };
            sum += a as f64 / b.max(1) as f64;
            n += 1;
        }
        (n > 0).then(|| sum / f64::from(n))
    }
}

/// Every k of a label-wise metric, growing.
fn cuts(metrics: &[Metric]) -> Vec<usize> {
    let label_wise = metrics.iter().filter(|metric| metric.kind().is_label_wise());
    let mut ks: Vec<usize> = label_wise.map(|metric| metric.k()).collect();
    ks.sort_unstable();
    ks.dedup();
    ks
}
