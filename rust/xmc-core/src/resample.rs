//! How sure a metric is: bootstrap, paired bootstrap, and a sign-flip test between two systems.
//!
//! Every resample has a generator of its own for each block of units, so results depend on the seed
//! and the numbers of the resamples only: neither on threads nor on how a run is cut into calls.

mod bootstrap;
mod flips;
mod matrix;
mod summary;
mod units;

use std::ops::Range;

use rayon::prelude::*;

use crate::error::{Error, Fault, Result};
use crate::eval::RowValues;
use matrix::{BLOCK, Matrix};
pub use summary::{Interval, interval, p_value};
use units::{Columns, Sum, Units};

/// Resamples worked on at once: enough that a block in cache is used often, few enough that their
/// sums stay in cache.
const BATCH: u64 = 256;
/// Most runs of blocks into which the units are cut; each gives a partial sum for every resample.
const MAX_RUNS: usize = 64;

/// The terms of one metric of one system, a number for each row.
///
/// The metric is the sum of the numerators over the sum of the denominators, or the mean of the
/// numerators where there are no denominators. A NaN numerator marks a skipped row.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// Name that messages give it, such as `PSP@5`.
    pub name: &'a str,
    /// Numerators.
    pub numerators: &'a [f64],
    /// Denominators; without them every row that is not skipped counts 1.
    pub denominators: Option<&'a [f64]>,
}

impl<'a> Terms<'a> {
    /// The terms that an evaluator has kept.
    #[must_use]
    pub fn new(name: &'a str, rows: &'a RowValues) -> Self {
        match rows {
            RowValues::Mean(values) => Self { name, numerators: values, denominators: None },
            RowValues::Ratio { numerators, denominators } => {
                Self { name, numerators, denominators: Some(denominators) }
            }
        }
    }

    fn check(&self, n_rows: usize) -> Result<()> {
        for terms in [Some(self.numerators), self.denominators].into_iter().flatten() {
            if terms.len() != n_rows {
                let (name, what) = (self.name.to_owned(), "terms");
                return Err(Error::Length { name, what, expected: n_rows, found: terms.len() });
            }
            if let Some(row) = terms.par_iter().position_first(|term| term.is_infinite()) {
                return Err(Error::at_row(self.name, row, Fault::BadTerm { value: terms[row] }));
            }
        }
        Ok(())
    }

    fn numerator(&self, row: usize) -> f64 {
        if self.skips(row) { 0.0 } else { self.numerators[row] }
    }

    fn denominator(&self, row: usize) -> f64 {
        if self.skips(row) { 0.0 } else { self.denominators.map_or(1.0, |terms| terms[row]) }
    }

    fn skips(&self, row: usize) -> bool {
        self.numerators[row].is_nan() || self.denominators.is_some_and(|terms| terms[row].is_nan())
    }
}

/// The difference of the two systems in one metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// Second system less the first.
    pub value: f64,
    /// How far rounding may move it: 10^-12 of the sum of the units' absolute differences, divided
    /// as the metric is. [`p_value`] takes differences as close as this as equal.
    pub tolerance: f64,
}

/// The terms of one or two systems, laid out for resampling.
///
/// What is drawn are units: rows, or clusters of rows that belong together, whose terms are added
/// up first.
#[derive(Debug)]
pub struct Resampler {
    n_units: usize,
    /// Numerators and denominators of the first system's metrics, then of the second's.
    values: Vec<(Sum, Sum)>,
    drawn: Matrix,
    differences: Vec<Difference>,
    /// Difference of the systems' numerators over the metric's denominator.
    swapped: Matrix,
}

impl Resampler {
    /// Lays out the metrics of one system, or of two: `second` is empty, or holds the metrics of
    /// `first` in the same order.
    ///
    /// `clusters` gives the cluster of each row, counted from 0 without gaps.
    ///
    /// # Errors
    /// [`Error::Length`] if lengths disagree; [`Error::Parameter`] without rows or metrics and for
    /// clusters with gaps; [`Error::Content`] for an infinite term, or where the two systems differ
    /// in a denominator and so in their truth.
    pub fn new(
        first: &[Terms<'_>],
        second: &[Terms<'_>],
        clusters: Option<&[u32]>,
    ) -> Result<Self> {
        let n_rows = first.first().map_or(0, |terms| terms.numerators.len());
        if n_rows == 0 {
            let (name, rule) = ("terms", "must hold at least one metric and one row");
            return Err(Error::Parameter { name, rule, value: "none".to_owned() });
        }
        if !second.is_empty() && second.len() != first.len() {
            let (name, what) = ("second".to_owned(), "metrics");
            return Err(Error::Length { name, what, expected: first.len(), found: second.len() });
        }
        first.iter().chain(second).try_for_each(|terms| terms.check(n_rows))?;
        for (a, b) in first.iter().zip(second) {
            let differs = |row: &usize| differ(a.denominator(*row), b.denominator(*row));
            if let Some(row) = (0..n_rows).into_par_iter().find_first(differs) {
                let fault = Fault::Denominators { a: a.denominator(row), b: b.denominator(row) };
                return Err(Error::at_row(a.name, row, fault));
            }
        }
        let units = Units::new(n_rows, clusters)?;

        let mut columns = Columns::new(units.n_units());
        let mut values = Vec::new();
        for terms in first.iter().chain(second) {
            let numerators = columns.add(units.sums(|row| terms.numerator(row)));
            values.push((numerators, columns.add(units.sums(|row| terms.denominator(row)))));
        }
        let (mut differences, mut swapped) = (Vec::new(), Vec::new());
        for (a, b) in first.iter().zip(second) {
            let total: f64 = units.sums(|row| a.denominator(row)).iter().sum();
            let mut column = units.sums(|row| b.numerator(row) - a.numerator(row));
            for term in &mut column {
                *term /= total;
            }
            let magnitude: f64 = column.iter().map(|term| term.abs()).sum();
            let value = column.iter().sum();
            differences.push(Difference { value, tolerance: 1e-12 * magnitude });
            swapped.push(column);
        }
        let n_units = units.n_units();
        let drawn = Matrix::new(n_units, columns.all());
        let swapped = Matrix::new(n_units, &swapped);
        Ok(Self { n_units, values, drawn, differences, swapped })
    }

    /// Number of rows or clusters drawn.
    #[must_use]
    pub fn n_units(&self) -> usize {
        self.n_units
    }

    /// The difference of the systems in each metric; empty for one system.
    #[must_use]
    pub fn differences(&self) -> &[Difference] {
        &self.differences
    }

    /// Values of the metrics in bootstrap samples: as many units as there are, drawn with
    /// replacement. One draw serves all metrics and both systems.
    ///
    /// Returns a row for each metric of the first system, then of the second, each with a value for
    /// each of `resamples`: NaN where a sample has the denominator 0. `keep_going` is asked now and
    /// then.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when `keep_going` returns false.
    pub fn bootstrap(
        &self,
        seed: u64,
        resamples: Range<u64>,
        keep_going: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<f64>> {
        let width = resamples.end.saturating_sub(resamples.start) as usize;
        let mut out = vec![0.0; width * self.values.len()];
        for batch in batches(&resamples) {
            let sums = bootstrap::sums(&self.drawn, self.n_units, seed, &batch, keep_going)?;
            let start = (batch.start - resamples.start) as usize;
            let mut sums = sums.chunks_exact(self.drawn.width().max(1));
            for i in start..start + (batch.end - batch.start) as usize {
                let sums = sums.next().unwrap_or_default(); // nothing is drawn: every sum is fixed
                for (metric, (numerator, denominator)) in self.values.iter().enumerate() {
                    let denominator = denominator.of(sums);
                    out[metric * width + i] = if denominator == 0.0 {
                        f64::NAN
                    } else {
                        numerator.of(sums) / denominator
                    };
                }
            }
        }
        Ok(out)
    }

    /// Differences of the systems when each unit's terms are swapped between them with probability
    /// 1/2: what the differences would look like if the systems were alike.
    ///
    /// Returns a row for each metric with a difference for each of `resamples`.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when `keep_going` returns false.
    pub fn sign_flips(
        &self,
        seed: u64,
        resamples: Range<u64>,
        keep_going: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<f64>> {
        let width = resamples.end.saturating_sub(resamples.start) as usize;
        let mut out = vec![0.0; width * self.differences.len()];
        for batch in batches(&resamples) {
            let sums = flips::sums(&self.swapped, self.n_units, seed, &batch, keep_going)?;
            let start = (batch.start - resamples.start) as usize;
            for (i, sums) in sums.chunks_exact(self.swapped.width().max(1)).enumerate() {
                for metric in 0..self.differences.len() {
                    out[metric * width + start + i] = sums[metric];
                }
            }
        }
        Ok(out)
    }
}

/// Whether two systems differ in a row: of the same truth they have the same bits.
#[expect(clippy::float_cmp, reason = "computed alike from the same numbers")]
fn differ(a: f64, b: f64) -> bool {
    a != b
}

/// `resamples` cut into batches.
fn batches(resamples: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let end = resamples.end;
    (resamples.start..end)
        .step_by(BATCH as usize)
        .map(move |start| start..start.saturating_add(BATCH).min(end))
}

/// Sums for a batch, row-major: `work` fills those of one run of blocks, and runs are added in order.
fn sum_runs(
    n_units: usize,
    size: usize,
    work: impl Fn(Range<usize>, &mut [f64]) -> Result<()> + Sync,
) -> Result<Vec<f64>> {
    let n_blocks = n_units.div_ceil(BLOCK);
    let run = n_blocks.div_ceil(MAX_RUNS);
    let starts: Vec<usize> = (0..n_blocks).step_by(run).collect();
    let partial: Vec<Vec<f64>> = starts
        .into_par_iter()
        .map(|start| {
            let mut sums = vec![0.0; size];
            work(start..(start + run).min(n_blocks), &mut sums)?;
            Ok(sums)
        })
        .collect::<Result<_>>()?;
    let mut total = vec![0.0; size];
    for sums in partial {
        total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
    }
    Ok(total)
}
