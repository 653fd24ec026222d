//! Streaming evaluation: rows arrive in blocks, only sums are kept.

mod block;
mod cuts;
mod fixed;
mod groups;
mod labelwise;
mod options;
mod ranking;
mod read;
mod rows;
mod state;
mod sums;
mod truth;

use std::sync::Arc;

use rayon::prelude::*;

use crate::csr::{CsrPattern, CsrView};
use crate::error::{Error, Result};
use crate::ids::Id;
use crate::metric::Metric;
use crate::propensity::check_weights;
use crate::rank::Score;
pub use options::{EmptyRows, Grouping, Options, PsNdcg, Ties};
pub use read::GroupCounts;
pub use rows::RowValues;

use block::Block;
use cuts::{CutSums, Cuts};
use fixed::{Discounts, Weights};
use groups::GroupSums;
use labelwise::LabelCounts;
use ranking::{Ids, Rankings};
use sums::{Layout, Sums};

/// The fewest rows that are worth a task of their own.
const MIN_TASK_ROWS: usize = 64;
/// Tasks per thread: several, so that no thread waits long for the last; one if their sums are large.
const TASKS_A_THREAD: usize = 8;
/// Sums of up to this many cells count as small.
const FEW_CELLS: usize = 1 << 16;

/// Everything that does not change while rows arrive.
#[derive(Debug)]
struct Plan {
    n_labels: usize,
    metrics: Vec<Metric>,
    max_k: usize,
    options: Options,
    discounts: Discounts,
    /// Weights of the labels, if a metric needs them.
    weights: Option<Weights>,
    layout: Layout,
    cuts: Cuts,
    /// Places of each ranking that label-wise metrics look at.
    log_width: usize,
}

impl Plan {
    /// Numbers kept for each row.
    fn row_width(&self) -> usize {
        if !self.options.keep_rows {
            return 0;
        }
        self.metrics.iter().map(|&metric| rows::width(metric)).sum()
    }

    /// Whether metrics need nothing of a ranking but its hits.
    fn needs_hits_only(&self) -> bool {
        self.cuts.width == 0 && self.log_width == 0
    }

    /// Appends the weight classes of labels, if there are weights.
    #[inline]
    fn gather(&self, labels: &[i32], out: &mut Vec<u32>) {
        if let Some(weights) = &self.weights {
            weights.gather(labels, out);
        }
    }

    /// Checks that this metric is summed.
    fn require(&self, metric: Metric) -> Result<()> {
        if metric.kind().is_weighted() && self.options.inv_propensity.is_none() {
            return Err(Error::MissingWeights { metric });
        }
        if metric.k() > self.max_k {
            return Err(Error::BeyondK { metric, max_k: self.max_k });
        }
        let alike = |listed: &Metric| listed.kind() == metric.kind();
        if self.metrics.iter().any(alike) { Ok(()) } else { Err(Error::NotSummed { metric }) }
    }
}

/// Numbers of rows and pairs seen.
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
/// Every kind of metric in the list given is summed at every k up to the largest k of the list; the
/// label-wise ones, average precision, and metrics of sets and of probabilities at their own k only. Sums are integers, so that the result is the same
/// to the last bit for any number of threads, and however the stream is cut into updates and merged.
/// Threads share the rows of an update, so updates of many thousand rows use them best.
///
/// A failing update leaves everything as it was. Rows in its error count from its own first row.
#[derive(Debug, Clone)]
pub struct Evaluator {
    plan: Arc<Plan>,
    counts: Counts,
    sums: Sums,
    cuts: CutSums,
    /// Of all groupings, one after another.
    groups: Vec<GroupSums>,
    labels: LabelCounts,
    /// Kept numbers, row-major, `Plan::row_width` a row.
    kept: Vec<f64>,
}

impl Evaluator {
    /// An evaluator for `n_labels` labels that has seen no row.
    ///
    /// # Errors
    /// [`Error::Parameter`] if `metrics` is empty; [`Error::MissingWeights`] for a PS metric without
    /// `inv_propensity`; [`Error::Length`] or [`Error::BadWeight`] if those are not `n_labels` finite
    /// positive numbers, [`Error::Parameter`] if one is 2^20 times another; [`Error::Length`] or
    /// [`Error::BadGroup`] for a bad grouping.
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
        groups::check(&options.groupings, n_labels)?;
        let discounts = Discounts::new(max_k);
        let weighted = metrics.iter().any(|metric| metric.kind().is_weighted());
        let weights = options.inv_propensity.as_deref().filter(|_| weighted);
        let weights = weights.map(Weights::new).transpose()?;
        let layout = Layout::new(metrics, max_k, discounts.rows_before_overflow());
        let labels = LabelCounts::new(n_labels, metrics)?;
        let (cuts, metrics) = (Cuts::new(metrics), metrics.to_vec());
        let log_width = labels.width();
        let plan =
            Plan { n_labels, metrics, max_k, options, discounts, weights, layout, cuts, log_width };
        plan.metrics.iter().try_for_each(|&metric| plan.require(metric))?;
        Ok(Self {
            counts: Counts::default(),
            sums: Sums::new(&plan.layout),
            cuts: CutSums::new(&plan.cuts)?,
            groups: GroupSums::all(&plan)?,
            labels,
            kept: Vec::new(),
            plan: Arc::new(plan),
        })
    }

    /// Adds points with ranked labels.
    ///
    /// `y_pred` holds `y_true.n_rows()` rows of `width` labels, row-major, best first, padded with -1.
    /// Pairs in `exclude` are dropped before the cut at k.
    ///
    /// # Errors
    /// [`Error::Length`] if shapes disagree; [`Error::Narrow`] if `width` is below the largest k;
    /// [`Error::NoProbabilities`] if a metric needs scores;
    /// [`Error::Content`] for a label out of range, after padding or twice in a row, and for a truth
    /// value that is negative or NaN.
    pub fn update_ids<I: Id>(
        &mut self,
        y_true: CsrView<'_>,
        y_pred: &[I],
        width: usize,
        exclude: Option<CsrPattern<'_>>,
    ) -> Result<()> {
        let expected = y_true.n_rows().saturating_mul(width);
        if y_pred.len() != expected {
            let (name, what, found) = ("y_pred".to_owned(), "labels", y_pred.len());
            return Err(Error::Length { name, what, expected, found });
        }
        let mut metrics = self.plan.metrics.iter();
        if let Some(&metric) = metrics.find(|metric| metric.kind().needs_probabilities()) {
            return Err(Error::NoProbabilities { metric });
        }
        if width < self.plan.max_k {
            return Err(Error::Narrow { width, k: self.plan.max_k });
        }
        self.update(y_true, &Ids { ids: y_pred, width }, exclude)
    }

    /// Adds points with scored labels; every stored entry is ranked.
    ///
    /// Pairs in `exclude` are dropped before the cut at k.
    ///
    /// # Errors
    /// [`Error::Length`] if shapes disagree; [`Error::Content`] for a NaN score, a score outside 0..1
    /// if a metric needs probabilities, a label twice in a row, and for a truth value that is negative
    /// or NaN.
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
        self.check_room(n_rows)?;
        let few = plan.layout.n_cells() * (1 + self.groups.len()) <= FEW_CELLS;
        let n_tasks = rayon::current_num_threads() * if few { TASKS_A_THREAD } else { 1 };
        let size = n_rows.div_ceil(n_tasks).max(MIN_TASK_ROWS);
        let starts: Vec<usize> = (0..n_rows).step_by(size).collect();
        let blocks: Vec<Result<Block>> = starts
            .par_iter()
            .map(|&start| {
                let rows = start..(start + size).min(n_rows);
                Block::compute(plan, y_true, rankings, exclude, rows)
            })
            .collect();
        let blocks = blocks.into_iter().collect::<Result<Vec<_>>>()?;

        // Nothing below can fail.
        let mut logs = Vec::new();
        for block in blocks {
            self.sums.add(&block.sums);
            self.cuts.add(&block.cuts);
            self.groups.iter_mut().zip(&block.groups).for_each(|(sums, new)| sums.add(new));
            self.counts.add(block.counts);
            self.kept.extend(block.kept);
            logs.push(block.log);
        }
        self.labels.count(y_true, &logs);
        Ok(())
    }

    /// The counts of labels have 32 bits.
    fn check_room(&self, n_rows: usize) -> Result<()> {
        let n_rows = self.counts.rows.saturating_add(n_rows);
        if self.plan.log_width > 0 && u32::try_from(n_rows).is_err() {
            let (name, rule) = ("rows", "must be below 2^32 with metrics over labels");
            return Err(Error::Parameter { name, rule, value: n_rows.to_string() });
        }
        Ok(())
    }

    /// Adds the rows of another evaluator with the same settings after the rows of this one.
    ///
    /// The result is the same in any order, but for the order of kept rows.
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
            (a.options.ties != b.options.ties, "ties"),
            (a.options.groupings != b.options.groupings, "label_groups"),
            (a.options.keep_rows != b.options.keep_rows, "keep_rows"),
            (a.options.inv_propensity != b.options.inv_propensity, "inv_propensity"),
        ];
        if let Some(&(_, what)) = differences.iter().find(|(differs, _)| *differs) {
            return Err(Error::Incompatible { what });
        }
        self.check_room(other.counts.rows)?;
        self.sums.add(&other.sums);
        self.cuts.add(&other.cuts);
        self.groups.iter_mut().zip(&other.groups).for_each(|(sums, other)| sums.add(other));
        self.labels.add(&other.labels);
        self.counts.add(other.counts);
        self.kept.extend_from_slice(&other.kept);
        Ok(())
    }
}
