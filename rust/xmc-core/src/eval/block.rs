//! The rows of one block, one after another.

use std::ops::Range;

use super::cuts::{CutRows, CutSums, Place};
use super::fixed::Weights;
use super::groups::{GroupSums, Splitter};
use super::labelwise::Log;
use super::ranking::{RankScratch, Rankings};
use super::rows::{push_at_its_k, push_terms, width};
use super::sums::{Row, Sums};
use super::truth::{Finder, positives};
use super::{Counts, EmptyRows, Plan};
use crate::csr::{CsrPattern, CsrView};
use crate::error::{Error, Result};
use crate::memory::with_room;
use crate::rank::{Excluded, keep_best};

/// Rows whose weights are looked up together: reads beyond the cache then wait side by side.
const BATCH: usize = 16;

/// Positives that are put in order by counting.
const SHORT: usize = 32;
/// Classes that leave room for a position below them.
const MOST_CLASSES: usize = i32::MAX as usize / SHORT;

/// What the rows of a block add up to.
pub(super) struct Block {
    pub(super) sums: Sums,
    pub(super) cuts: CutSums,
    pub(super) groups: Vec<GroupSums>,
    pub(super) counts: Counts,
    pub(super) kept: Vec<f64>,
    pub(super) log: Log,
}

impl Block {
    /// Adds up the rows `rows`.
    pub(super) fn compute<R: Rankings>(
        plan: &Plan,
        y_true: CsrView<'_>,
        rankings: &R,
        exclude: Option<CsrPattern<'_>>,
        rows: Range<usize>,
    ) -> Result<Self> {
        let mut block = Self {
            sums: Sums::new(&plan.layout),
            cuts: CutSums::new(&plan.cuts)?,
            groups: GroupSums::all(plan)?,
            counts: Counts { rows: rows.len(), ..Counts::default() },
            kept: with_room(rows.len() * plan.row_width())?,
            log: Log::default(),
        };
        let mut scratch = RankScratch::<R::Key>::new();
        let (mut labels, mut excluded) = (Vec::new(), Excluded::default());
        let (mut finder, mut hits) = (Finder::new(plan.max_k), Vec::new());
        let (mut gathered, mut next) = (Vec::new(), 0);
        let (mut classes, mut ideal) = (Vec::new(), Ideal::default());
        let hits_only = plan.needs_hits_only();
        let (mut splitter, mut cut_rows) = (Splitter::default(), CutRows::default());

        for row in rows.clone() {
            if (row - rows.start) % BATCH == 0 {
                gathered.clear();
                next = 0;
                for row in row..(row + BATCH).min(rows.end) {
                    plan.gather(y_true.row(row).0, &mut gathered);
                }
            }
            let at_row = |name, fault| Error::at_row(name, row, fault);
            excluded.load(exclude, row);
            let (row_labels, values) = y_true.row(row);
            let truth = positives(row_labels, values, &mut labels);
            let found = hits_only
                && excluded.is_empty()
                && truth.as_ref().is_ok_and(|truth| {
                    rankings.find_hits(row, plan, truth.labels, &mut finder, &mut hits)
                });
            let (ranking, scores, n_excluded) = if found {
                (&[][..], &[][..], 0)
            } else {
                rankings.rank(row, plan, &excluded, &mut scratch)?
            };
            let truth = truth.map_err(|fault| at_row(y_true.name(), fault))?;
            block.counts.excluded += n_excluded;
            let positive = |label: &i32| truth.labels.binary_search(label).is_ok();
            block.counts.excluded_positives += excluded.iter().filter(positive).count();

            // The weight class of each positive; none of them if no metric needs weights.
            let row_classes = &gathered[next..][..row_labels.len().min(gathered.len() - next)];
            next += row_classes.len();
            let row_classes = if truth.plain {
                row_classes
            } else {
                classes.clear();
                plan.gather(truth.labels, &mut classes);
                &classes
            };
            if truth.labels.is_empty() {
                hits.clear();
                cut_rows.load(plan, ranking, scores, &hits);
                block.add_empty(plan, &cut_rows.places);
            } else {
                if !found {
                    finder.find(ranking, truth.labels, &mut hits);
                }
                if let Some(weights) = &plan.weights {
                    for hit in &mut hits {
                        hit.weight = weights.of(row_classes[hit.index as usize]);
                    }
                    ideal.load(weights, row_classes, plan.max_k);
                }
                let n_positives = truth.labels.len();
                let terms = Row { n_positives, hits: &hits, ideal: &ideal.weights };
                block.sums.add_row(plan, &terms);
                splitter.add_row(plan, truth.labels, row_classes, &hits, &mut block.groups);
                if plan.options.keep_rows {
                    cut_rows.load(plan, ranking, scores, &hits);
                    let (n_labels, kept) = (plan.n_labels, &mut block.kept);
                    for &metric in &plan.metrics {
                        if metric.kind().is_at_its_k() {
                            push_at_its_k(metric, &cut_rows.places, n_positives, n_labels, kept);
                        } else {
                            push_terms(plan, metric, &terms, kept);
                        }
                    }
                }
            }
            if plan.cuts.width > 0 {
                cut_rows.load(plan, ranking, scores, &hits);
                let groups = block.groups.iter_mut().map(|group| &mut group.cuts);
                cut_rows.add_row(plan, truth.labels, &mut block.cuts, groups);
            }
            if plan.log_width > 0 {
                block.log.push(ranking, &hits, plan.log_width);
            }
        }
        block.sums.settle();
        block.groups.iter_mut().for_each(|group| group.sums.settle());
        Ok(block)
    }

    /// A row without positives adds nothing to any sum.
    /// But sets of labels and probabilities can be wrong in it.
    fn add_empty(&mut self, plan: &Plan, places: &[Place]) {
        self.counts.empty += 1;
        if !plan.options.keep_rows {
            return;
        }
        for &metric in &plan.metrics {
            match plan.options.empty_rows {
                EmptyRows::Zero if metric.kind().is_at_its_k() => {
                    push_at_its_k(metric, places, 0, plan.n_labels, &mut self.kept);
                }
                EmptyRows::Zero => self.kept.extend(std::iter::repeat_n(0.0, width(metric))),
                EmptyRows::Skip => self.kept.extend(std::iter::repeat_n(f64::NAN, width(metric))),
            }
        }
    }
}

/// The heaviest positives of a row.
#[derive(Default)]
struct Ideal {
    classes: Vec<u32>,
    /// Heaviest first.
    weights: Vec<i64>,
}

impl Ideal {
    fn load(&mut self, weights: &Weights, classes: &[u32], k: usize) {
        match classes.len() {
            _ if weights.len() > MOST_CLASSES => self.sort(weights, classes, k),
            0..=8 => self.count::<8>(weights, classes, k),
            9..=16 => self.count::<16>(weights, classes, k),
            17..=24 => self.count::<24>(weights, classes, k),
            25..=SHORT => self.count::<SHORT>(weights, classes, k),
            _ => self.sort(weights, classes, k),
        }
    }

    /// Puts each weight where it belongs, behind all that are heavier: without a branch, a short row
    /// is ordered in less time than sorting takes.
    fn count<const N: usize>(&mut self, weights: &Weights, classes: &[u32], k: usize) {
        let mut keys = [i32::MAX; N];
        for (key, (at, &class)) in keys.iter_mut().zip((0..).zip(classes)) {
            *key = class as i32 * SHORT as i32 + at;
        }
        self.weights.clear();
        self.weights.resize(classes.len(), 0);
        for (&key, &class) in keys.iter().zip(classes) {
            let rank: i32 = keys.iter().map(|&other| i32::from(other < key)).sum();
            self.weights[rank as usize] = weights.of(class);
        }
        self.weights.truncate(k);
    }

    fn sort(&mut self, weights: &Weights, classes: &[u32], k: usize) {
        self.classes.clear();
        self.classes.extend_from_slice(classes);
        keep_best(&mut self.classes, k);
        self.classes.sort_unstable();
        self.weights.clear();
        self.weights.extend(self.classes.iter().map(|&class| weights.of(class)));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn heaviest_first_for_any_length() {
        let of_label: Vec<f64> = (0..90).map(|label| 1.0 + f64::from(label * 7 % 50)).collect();
        let weights = Weights::new(&of_label).unwrap();
        let (mut ideal, mut classes) = (Ideal::default(), Vec::new());
        for n in 0..90 {
            let labels: Vec<i32> = (0..n).map(|i| i * 11 % 90).collect();
            classes.clear();
            weights.gather(&labels, &mut classes);
            let mut expected: Vec<i64> = classes.iter().map(|&class| weights.of(class)).collect();
            expected.sort_unstable_by(|a, b| b.cmp(a));
            for k in [1, 5, 40, 100] {
                ideal.load(&weights, &classes, k);
                assert_eq!(ideal.weights, expected[..k.min(expected.len())], "{n} {k}");
            }
        }
    }
}
