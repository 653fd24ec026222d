//! Streaming evaluation: rows come in blocks, sums stay.

mod block;
mod curves;
mod options;
mod ranking;
mod sums;

use std::sync::Arc;

use rayon::prelude::*;

use crate::csr::{CsrPattern, CsrView};
use crate::error::{Error, Result};
use crate::metric::{Kind, Metric};
use crate::propensity::check_weights;
use crate::rank::Score;
pub use options::{EmptyRows, Options, PsNdcg};

use block::Block;
use curves::Discounts;
use ranking::{Ids, Rankings};
use sums::{Lane, Sums};

/// Rows whose terms are added up in order before the sum joins the total.
const BLOCK_ROWS: usize = 4096;

/// The terms of one metric, a number for each row of the stream.
#[derive(Debug, Clone, PartialEq)]
pub enum RowValues {
    /// The metric is the mean of these values; NaN where a row is skipped.
    Mean(Vec<f64>),
    /// The metric is the sum of the numerators over the sum of the denominators; NaN as above.
    Ratio {
        /// Weighted hits.
        numerators: Vec<f64>,
        /// The best that was possible.
        denominators: Vec<f64>,
    },
}

/// Everything that stays the same while rows come in.
#[derive(Debug, PartialEq)]
struct Plan {
    n_labels: usize,
    metrics: Vec<Metric>,
    max_k: usize,
    options: Options,
    discounts: Discounts,
}

impl Plan {
    /// Numbers kept for each row.
    fn row_width(&self) -> usize {
        if !self.options.keep_rows {
            return 0;
        }
        self.metrics.iter().map(|metric| 1 + usize::from(metric.kind().is_weighted())).sum()
    }

    fn require_weights(&self, metric: Metric) -> Result<()> {
        if metric.kind().is_weighted() && self.options.inv_propensity.is_none() {
            return Err(Error::MissingWeights { metric });
        }
        Ok(())
    }
}

/// Numbers of rows and pairs met.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    rows: usize,
    empty: usize,
    excluded: usize,
    excluded_positives: usize,
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.empty += other.empty;
        self.excluded += other.excluded;
        self.excluded_positives += other.excluded_positives;
    }
}

/// Scores rankings against the truth, row block by row block.
///
/// Every kind of metric is summed at every k up to the largest k of the list given, so that any of
/// them can be read at the end. Terms are added in row order within blocks of 4,096 rows counted
/// from the first row of the stream, and blocks in block order: the result is the same to the last
/// bit for any number of threads and however the stream is cut into updates. Threads work on
/// different blocks, so updates of many thousand rows use them best.
///
/// A failing update leaves everything as it was. Rows in its error count from its own first row.
#[derive(Debug, Clone)]
pub struct Evaluator {
    plan: Arc<Plan>,
    counts: Counts,
    /// Sum of the closed blocks.
    total: Sums,
    /// Sum of the last block, which is not full.
    open: Sums,
    open_rows: usize,
    /// Kept numbers, row-major, `Plan::row_width` a row.
    kept: Vec<f64>,
}

impl Evaluator {
    /// An evaluator for `n_labels` labels that has seen no row.
    ///
    /// # Errors
    /// [`Error::Parameter`] if `metrics` is empty; [`Error::MissingWeights`] for a PS metric without
    /// `inv_propensity`; [`Error::Length`] or [`Error::BadWeight`] if those are not `n_labels` finite
    /// positive numbers.
    pub fn new(n_labels: usize, metrics: &[Metric], options: Options) -> Result<Self> {
        let Some(max_k) = metrics.iter().map(|metric| metric.k()).max() else {
            let (name, rule, value) = ("metrics", "must name at least one", "none".to_owned());
            return Err(Error::Parameter { name, rule, value });
        };
        if n_labels > i32::MAX as usize {
            let (name, rule) = ("n_labels", "must be below 2^31");
            return Err(Error::Parameter { name, rule, value: n_labels.to_string() });
        }
        if let Some(weights) = &options.inv_propensity {
            if weights.len() != n_labels {
                let (name, what) = ("inv_propensity".to_owned(), "weights");
                let (expected, found) = (n_labels, weights.len());
                return Err(Error::Length { name, what, expected, found });
            }
            check_weights(weights)?;
        }
        let (metrics, discounts) = (metrics.to_vec(), Discounts::new(max_k));
        let plan = Plan { n_labels, metrics, max_k, options, discounts };
        for &metric in &plan.metrics {
            plan.require_weights(metric)?;
        }
        Ok(Self {
            plan: Arc::new(plan),
            counts: Counts::default(),
            total: Sums::new(max_k),
            open: Sums::new(max_k),
            open_rows: 0,
            kept: Vec::new(),
        })
    }

    /// Adds points with ranked labels.
    ///
    /// `ids` holds `y_true.n_rows()` rows of `width` labels, row-major, best first, padded with -1.
    /// Pairs in `exclude` are dropped before the cut at k.
    ///
    /// # Errors
    /// [`Error::Length`] if shapes disagree; [`Error::Narrow`] if `width` is below the largest k;
    /// [`Error::Content`] for a label out of range, after padding or twice in a row, and for a truth
    /// value that is negative or NaN.
    pub fn update_ids<I: Copy + Into<i64> + Sync>(
        &mut self,
        y_true: CsrView<'_>,
        ids: &[I],
        width: usize,
        exclude: Option<CsrPattern<'_>>,
    ) -> Result<()> {
        let expected = y_true.n_rows().saturating_mul(width);
        if ids.len() != expected {
            let (name, what, found) = ("ids".to_owned(), "labels", ids.len());
            return Err(Error::Length { name, what, expected, found });
        }
        if width < self.plan.max_k {
            return Err(Error::Narrow { width, k: self.plan.max_k });
        }
        self.update(y_true, &Ids { ids, width }, exclude)
    }

    /// Adds points with scored labels; every stored entry is ranked.
    ///
    /// Pairs in `exclude` are dropped before the cut at k.
    ///
    /// # Errors
    /// [`Error::Length`] if shapes disagree; [`Error::Content`] for a NaN score, a label twice in a
    /// row, and for a truth value that is negative or NaN.
    pub fn update_scores<S: Score>(
        &mut self,
        y_true: CsrView<'_>,
        y_pred: CsrView<'_, S>,
        exclude: Option<CsrPattern<'_>>,
    ) -> Result<()> {
        y_pred.pattern().check_shape(y_true.n_rows(), self.plan.n_labels)?;
        self.update(y_true, &y_pred, exclude)
    }

    fn update<R: Rankings>(
        &mut self,
        y_true: CsrView<'_>,
        rankings: &R,
        exclude: Option<CsrPattern<'_>>,
    ) -> Result<()> {
        let (plan, n_rows) = (&*self.plan, y_true.n_rows());
        y_true.pattern().check_shape(n_rows, plan.n_labels)?;
        if let Some(exclude) = exclude {
            exclude.check_shape(n_rows, plan.n_labels)?;
        }
        // The first block goes on where the last update stopped.
        let first = (BLOCK_ROWS - self.open_rows).min(n_rows);
        let starts = std::iter::once(0).chain((first..n_rows).step_by(BLOCK_ROWS));
        let starts: Vec<usize> = starts.collect();
        let blocks: Vec<Result<Block>> = starts
            .par_iter()
            .map(|&start| {
                let end = if start == 0 { first } else { (start + BLOCK_ROWS).min(n_rows) };
                let sums = if start == 0 { self.open.clone() } else { Sums::new(plan.max_k) };
                Block::compute(plan, sums, y_true, rankings, exclude, start..end)
            })
            .collect();
        let blocks = blocks.into_iter().collect::<Result<Vec<_>>>()?;

        // Nothing below can fail.
        for block in blocks {
            self.open = block.sums;
            self.open_rows += block.counts.rows;
            self.counts.add(block.counts);
            self.kept.extend(block.kept);
            if self.open_rows == BLOCK_ROWS {
                self.close_block();
            }
        }
        Ok(())
    }

    fn close_block(&mut self) {
        self.total.add(&self.open);
        self.open = Sums::new(self.plan.max_k);
        self.open_rows = 0;
    }

    /// Adds the rows of another evaluator with the same settings after the rows of this one.
    ///
    /// The sum depends on the order of merges, in its last bits only.
    ///
    /// # Errors
    /// [`Error::Incompatible`] if a setting differs.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        let (a, b) = (&*self.plan, &*other.plan);
        let differences = [
            (a.n_labels != b.n_labels, "n_labels"),
            (a.metrics != b.metrics, "metrics"),
            (a.options.empty_rows != b.options.empty_rows, "empty_rows"),
            (a.options.psndcg != b.options.psndcg, "psndcg"),
            (a.options.keep_rows != b.options.keep_rows, "keep_rows"),
            (a.options.inv_propensity != b.options.inv_propensity, "inv_propensity"),
        ];
        if let Some(&(_, what)) = differences.iter().find(|(differs, _)| *differs) {
            return Err(Error::Incompatible { what });
        }
        self.close_block();
        self.total.add(&other.total);
        self.total.add(&other.open);
        self.counts.add(other.counts);
        self.kept.extend_from_slice(&other.kept);
        Ok(())
    }

    /// The metric over all rows so far.
    ///
    /// # Errors
    /// [`Error::BeyondK`] for a k above the largest of the list; [`Error::MissingWeights`];
    /// [`Error::NoRows`] or [`Error::ZeroDenominator`] if there is nothing to divide by.
    pub fn value(&self, metric: Metric) -> Result<f64> {
        let (plan, k) = (&*self.plan, metric.k());
        plan.require_weights(metric)?;
        if k > plan.max_k {
            return Err(Error::BeyondK { metric, max_k: plan.max_k });
        }
        let skipped = match plan.options.empty_rows {
            EmptyRows::Zero => 0,
            EmptyRows::Skip => self.counts.empty,
        };
        let n_rows = (self.counts.rows - skipped) as f64;
        let sum = |lane| self.total.at(lane, k) + self.open.at(lane, k);
        let mean = |lane, scale: f64| {
            if n_rows > 0.0 { Ok(sum(lane) / (scale * n_rows)) } else { Err(Error::NoRows) }
        };
        let ratio = |hits, ideal| {
            if self.counts.rows == 0 {
                return Err(Error::NoRows);
            }
            let ideal = sum(ideal);
            if ideal > 0.0 { Ok(sum(hits) / ideal) } else { Err(Error::ZeroDenominator { metric }) }
        };
        match metric.kind() {
            Kind::P => mean(Lane::Hits, k as f64),
            Kind::Ndcg => mean(Lane::Ndcg, 1.0),
            Kind::R => mean(Lane::Recall, 1.0),
            Kind::Mrr => mean(Lane::ReciprocalRank, 1.0),
            Kind::Psp => ratio(Lane::Gain, Lane::IdealGain),
            Kind::PsNdcg => ratio(Lane::PsDcg, Lane::IdealPsDcg),
            Kind::Psr => ratio(Lane::PsRecall, Lane::IdealPsRecall),
        }
    }

    /// The terms of a metric of the list, one for each row.
    ///
    /// # Errors
    /// [`Error::NotKept`] if the metric is not of the list or [`Options::keep_rows`] is off.
    pub fn row_values(&self, metric: Metric) -> Result<RowValues> {
        let plan = &*self.plan;
        let position = plan.metrics.iter().position(|&kept| kept == metric);
        let Some(position) = position.filter(|_| plan.options.keep_rows) else {
            return Err(Error::NotKept { metric });
        };
        let before = plan.metrics[..position].iter();
        let first: usize = before.map(|metric| 1 + usize::from(metric.kind().is_weighted())).sum();
        let column = |at: usize| self.kept.chunks(plan.row_width()).map(|row| row[at]).collect();
        if metric.kind().is_weighted() {
            let (numerators, denominators) = (column(first), column(first + 1));
            return Ok(RowValues::Ratio { numerators, denominators });
        }
        Ok(RowValues::Mean(column(first)))
    }

    /// The metrics of the list given.
    #[must_use]
    pub fn metrics(&self) -> &[Metric] {
        &self.plan.metrics
    }

    /// Number of labels.
    #[must_use]
    pub fn n_labels(&self) -> usize {
        self.plan.n_labels
    }

    /// Rows so far.
    #[must_use]
    pub const fn n_rows(&self) -> usize {
        self.counts.rows
    }

    /// Rows without positives.
    #[must_use]
    pub const fn n_empty(&self) -> usize {
        self.counts.empty
    }

    /// Entries dropped from rankings because their pair was excluded.
    #[must_use]
    pub const fn n_excluded(&self) -> usize {
        self.counts.excluded
    }

    /// Positives whose pair was excluded, each a sure miss.
    #[must_use]
    pub const fn n_excluded_positives(&self) -> usize {
        self.counts.excluded_positives
    }
}
