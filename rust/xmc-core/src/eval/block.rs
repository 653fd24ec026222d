//! The rows of one block, one after another.

use std::cmp::Reverse;
use std::ops::Range;

use super::curves::Curves;
use super::ranking::{RankScratch, Rankings};
use super::sums::Sums;
use super::{Counts, EmptyRows, Plan};
use crate::bitmap::Bitmap;
use crate::csr::{CsrPattern, CsrView};
use crate::error::{Error, Fault, Result};
use crate::rank::Excluded;

/// What the rows of a block add up to.
pub(super) struct Block {
    pub(super) sums: Sums,
    pub(super) counts: Counts,
    pub(super) kept: Vec<f64>,
}

/// The truth of one row.
struct Truth {
    /// Positives of the row; empty between rows.
    positives: Bitmap,
    n_positives: usize,
    /// The largest weights of the positives, largest first.
    ideal: Vec<f64>,
}

impl Block {
    /// Adds the rows `rows` to `sums`, in order.
    pub(super) fn compute<R: Rankings>(
        plan: &Plan,
        sums: Sums,
        y_true: CsrView<'_>,
        rankings: &R,
        exclude: Option<CsrPattern<'_>>,
        rows: Range<usize>,
    ) -> Result<Self> {
        let kept = Vec::with_capacity(rows.len() * plan.row_width());
        let counts = Counts { rows: rows.len(), ..Counts::default() };
        let mut block = Self { sums, counts, kept };
        let mut scratch = RankScratch::<R::Key>::new(plan.n_labels);
        let positives = Bitmap::new(plan.n_labels);
        let mut truth = Truth { positives, n_positives: 0, ideal: Vec::new() };
        let mut excluded = Excluded::default();
        let mut curves = Curves::new(plan.max_k);
        let mut hits = Vec::with_capacity(plan.max_k);
        let weights = plan.options.inv_propensity.as_deref();

        for row in rows {
            excluded.load(exclude, row);
            let n_excluded = rankings
                .rank(row, plan.max_k, plan.n_labels, &excluded, &mut scratch)
                .map_err(|fault| Error::at_row(rankings.name(), row, fault))?;
            truth
                .load(y_true.row(row), weights, plan.max_k)
                .map_err(|fault| Error::at_row(y_true.name(), row, fault))?;
            block.counts.excluded += n_excluded;
            block.counts.excluded_positives +=
                excluded.iter().filter(|&label| truth.positives.contains(label)).count();

            hits.clear();
            for (rank, &label) in scratch.ranking.iter().enumerate() {
                if truth.positives.contains(label) {
                    hits.push((rank, weights.map_or(0.0, |weights| weights[label as usize])));
                }
            }
            truth.clear(y_true.row(row).0);

            if truth.n_positives == 0 {
                block.add_empty(plan);
                continue;
            }
            curves.set(&plan.discounts, truth.n_positives, &hits, &truth.ideal);
            curves.add_to(&mut block.sums, plan.options.psndcg, weights.is_some());
            if plan.options.keep_rows {
                for &metric in &plan.metrics {
                    curves.push_terms(metric, plan.options.psndcg, &mut block.kept);
                }
            }
        }
        Ok(block)
    }

    /// A row without positives adds nothing to any sum.
    fn add_empty(&mut self, plan: &Plan) {
        self.counts.empty += 1;
        let value = match plan.options.empty_rows {
            EmptyRows::Zero => 0.0,
            EmptyRows::Skip => f64::NAN,
        };
        self.kept.extend(std::iter::repeat_n(value, plan.row_width()));
    }
}

impl Truth {
    /// Marks the positives of a row.
    fn load(
        &mut self,
        (labels, values): (&[i32], &[f32]),
        weights: Option<&[f64]>,
        k: usize,
    ) -> std::result::Result<(), Fault> {
        self.n_positives = 0;
        self.ideal.clear();
        for (&label, &value) in labels.iter().zip(values) {
            if !(value >= 0.0) {
                return Err(Fault::BadTruth { label, value });
            }
            // A stored zero is marked too, so that a duplicate of it is found.
            if !self.positives.insert(label) {
                return Err(Fault::DuplicateLabel { label });
            }
            if value > 0.0 {
                self.n_positives += 1;
                self.ideal.extend(weights.map(|weights| weights[label as usize]));
            }
        }
        if self.n_positives < labels.len() {
            for (&label, &value) in labels.iter().zip(values) {
                if value == 0.0 {
                    self.positives.remove(label);
                }
            }
        }
        // Weights are positive, and positive floats are ordered like their bits.
        let descending = |weight: &f64| Reverse(weight.to_bits());
        if self.ideal.len() > k {
            self.ideal.select_nth_unstable_by_key(k - 1, descending);
            self.ideal.truncate(k);
        }
        self.ideal.sort_unstable_by_key(descending);
        Ok(())
    }

    fn clear(&mut self, labels: &[i32]) {
        for &label in labels {
            self.positives.remove(label);
        }
    }
}
