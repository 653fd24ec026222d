//! What the sums of an evaluator say.

use super::groups::GroupSums;
use super::rows::{self, RowValues};
use super::{EmptyRows, Evaluator};
use crate::error::{Error, Result};
use crate::metric::{Kind, Metric};

/// What is known of one group of labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupCounts {
    /// Labels in the group.
    pub labels: usize,
    /// Rows with a positive in the group, over which its metrics are averaged.
    pub rows: usize,
    /// Positives in the group.
    pub positives: usize,
}

impl Evaluator {
    /// Rows over which means are taken.
    fn n_averaged(&self) -> usize {
        match self.plan.options.empty_rows {
            EmptyRows::Zero => self.counts.rows,
            EmptyRows::Skip => self.counts.rows - self.counts.empty,
        }
    }

    /// A mean over the labels picked.
    fn label_wise(&self, metric: Metric, picked: impl Fn(usize) -> bool) -> Result<f64> {
        if !self.plan.metrics.contains(&metric) {
            return Err(Error::NotSummed { metric });
        }
        self.labels.value(metric, picked).ok_or(Error::NoRows)
    }

    /// The metric over all rows so far.
    ///
    /// # Errors
    /// [`Error::NotSummed`] for a kind that is not of the list, or a label-wise metric that is not;
    /// [`Error::BeyondK`] for a k above the largest of the list; [`Error::MissingWeights`];
    /// [`Error::NoRows`] or [`Error::ZeroDenominator`] if there is nothing to divide by.
    pub fn value(&self, metric: Metric) -> Result<f64> {
        self.plan.require(metric)?;
        if self.counts.rows == 0 {
            return Err(Error::NoRows);
        }
        if metric.kind().is_label_wise() {
            return self.label_wise(metric, |_| true);
        }
        if metric.kind().is_at_its_k() {
            return self.cuts.value(&self.plan, metric);
        }
        self.sums.value(&self.plan, metric, self.n_averaged())
    }

    /// A group, by the position of its grouping and its own.
    fn group(&self, grouping: usize, group: usize) -> Result<&GroupSums> {
        let groupings = &self.plan.options.groupings;
        let found = groupings.get(grouping).filter(|grouping| group < grouping.n_groups);
        let before = groupings.iter().take(grouping).map(|grouping| grouping.n_groups);
        let sums = found.and_then(|_| self.groups.get(before.sum::<usize>() + group));
        sums.ok_or_else(|| {
            let (name, rule) = ("group", "must be one of label_groups");
            Error::Parameter { name, rule, value: format!("{grouping}, {group}") }
        })
    }

    fn is_member(&self, grouping: usize, group: usize) -> impl Fn(usize) -> bool + '_ {
        let of_label = &self.plan.options.groupings[grouping].of_label;
        move |label| of_label[label] == group as i32
    }

    /// The metric with the truth restricted to the labels of a group: rows without a positive in it
    /// are left out, and label-wise metrics are means over its labels. Sets and probabilities are those
    /// of predicted labels of the group; rows without such a label and without a positive of the group
    /// are left out. Groups and groupings count
    /// from 0, in the order of [`Options::groupings`](super::Options::groupings).
    ///
    /// # Errors
    /// As [`Evaluator::value`], and [`Error::Parameter`] for a group that does not exist.
    pub fn group_value(&self, grouping: usize, group: usize, metric: Metric) -> Result<f64> {
        self.plan.require(metric)?;
        let sums = self.group(grouping, group)?;
        if metric.kind().is_label_wise() {
            return self.label_wise(metric, self.is_member(grouping, group));
        }
        if metric.kind().is_at_its_k() {
            return sums.cuts.value(&self.plan, metric);
        }
        sums.sums.value(&self.plan, metric, sums.n_rows)
    }

    /// The part of P@k that is hits of a group: over groups that hold every label once, the parts
    /// add up to P@k.
    ///
    /// # Errors
    /// As [`Evaluator::group_value`]; P must be one of the metrics.
    pub fn contribution(&self, grouping: usize, group: usize, k: usize) -> Result<f64> {
        let metric = Metric::new(Kind::P, k)?;
        self.plan.require(metric)?;
        let sums = &self.group(grouping, group)?.sums;
        match self.n_averaged() {
            0 => Err(Error::NoRows),
            n_rows => Ok(sums.hits(&self.plan, k) as f64 / (k as f64 * n_rows as f64)),
        }
    }

    /// Numbers of labels, rows and positives of a group.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a group that does not exist.
    pub fn group_counts(&self, grouping: usize, group: usize) -> Result<GroupCounts> {
        let sums = self.group(grouping, group)?;
        let is_member = self.is_member(grouping, group);
        let labels = (0..self.plan.n_labels).filter(|&label| is_member(label)).count();
        Ok(GroupCounts { labels, rows: sums.n_rows, positives: sums.n_positives })
    }

    /// The terms of a metric of the list, one for each row.
    ///
    /// # Errors
    /// [`Error::LabelWise`] for a mean over labels or an error of bins; [`Error::NotKept`] if the metric is not of the
    /// list or [`Options::keep_rows`](super::Options::keep_rows) is off.
    pub fn row_values(&self, metric: Metric) -> Result<RowValues> {
        if !metric.kind().has_row_values() {
            return Err(Error::LabelWise { metric });
        }
        let plan = &*self.plan;
        let position = plan.metrics.iter().position(|&kept| kept == metric);
        let Some(position) = position.filter(|_| plan.options.keep_rows) else {
            return Err(Error::NotKept { metric });
        };
        let before = plan.metrics[..position].iter();
        let first: usize = before.map(|&metric| rows::width(metric)).sum();
        let column = |at: usize| self.kept.chunks(plan.row_width()).map(|row| row[at]).collect();
        if metric.kind().is_ratio() {
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
