//! What a row can still gain from common columns: most postings of a search need not be read.
//!
//! A few hundred columns, such as pairs of letters, hold most of the postings and say little. A search
//! adds up all other columns. What the common ones can add to a row is at most the product of two
//! lengths, those of row and query in the common columns (Cauchy-Schwarz). The k rows with the largest
//! bounds are then scored in full; the k-th of these scores is a threshold, and only rows whose bound
//! reaches it are scored at all.

use rayon::prelude::*;

use super::lazy::{LazyRows, Terms};
use super::search::LANES;
use crate::csr::CsrView;
use crate::error::Result;
use crate::memory::with_room;
use crate::postings::Postings;
use crate::rank::{Score, keep_best};

/// A column is common if it has more postings than this part of the rows.
const COMMON_PART: usize = 4;
/// Bounds pay if a query's common columns have more postings than this times the rows.
const LEAST: usize = 8;
/// More than all rounding of a sum of products that are not negative, and of a score in `f32`.
const SLACK: f64 = 1.0 + 1e-6;
/// Scores below may be rounded more coarsely.
const SMALLEST: f32 = 1e-30;

/// The lengths of rows in their common columns.
#[derive(Debug)]
pub(super) struct Bounds {
    /// Which columns are common.
    common: Vec<bool>,
    /// For each row, rounded up; empty if there is no use for it.
    lengths: Vec<f32>,
    /// Mean number of entries of a row.
    n_entries: usize,
    /// Whether a value is below 0: then there is no use for bounds.
    negative: bool,
}

impl Bounds {
    /// For `n_rows` rows, which are then added; each column will have as many values as `totals` says.
    pub(super) fn new(n_rows: usize, totals: impl ExactSizeIterator<Item = u64>) -> Result<Self> {
        let (mut common, mut n_entries) = (with_room(totals.len())?, 0);
        for total in totals {
            common.push(total > (n_rows / COMMON_PART) as u64);
            n_entries += total;
        }
        let n_entries = (n_entries as usize).div_ceil(n_rows.max(1));
        Ok(Self { common, lengths: with_room(n_rows)?, n_entries, negative: false })
    }

    /// Adds rows behind the others.
    pub(super) fn add(&mut self, rows: CsrView<'_>) {
        let (_, _, _, values) = rows.window();
        self.negative = self.negative || values.iter().any(|&value| value < 0.0);
        if self.negative {
            (self.common, self.lengths) = (Vec::new(), Vec::new());
            return;
        }
        let common = &self.common;
        self.lengths.par_extend((0..rows.n_rows()).into_par_iter().map(|row| {
            let (columns, values) = rows.row(row);
            let entries = columns.iter().zip(values);
            let common = entries.filter(|(column, _)| common[**column as usize]);
            let square: f64 = common.map(|(_, &value)| f64::from(value) * f64::from(value)).sum();
            (square.sqrt() * SLACK) as f32
        }));
    }
}

/// A query that is searched with bounds, and memory for it.
#[derive(Default)]
pub(super) struct Pruned {
    columns: Vec<i32>,
    values: Vec<f32>,
    /// Length of the query in the common columns, and how many postings these have.
    length: f64,
    n_postings: usize,
    terms: Terms,
    first: Vec<u64>,
    rows: Vec<u32>,
}

impl Pruned {
    /// Takes a query; false if bounds are of no use for it.
    pub(super) fn take(
        &mut self,
        bounds: &Bounds,
        postings: &Postings,
        columns: &[i32],
        values: &[f32],
    ) -> bool {
        if bounds.lengths.is_empty() || values.iter().any(|&value| value < 0.0) {
            return false;
        }
        self.columns.clear();
        self.values.clear();
        let mut square = 0.0;
        self.n_postings = 0;
        for (&column, &value) in columns.iter().zip(values) {
            if bounds.common[column as usize] {
                square += f64::from(value) * f64::from(value);
                self.n_postings += postings.column(column).len();
            } else {
                self.columns.push(column);
                self.values.push(value);
            }
        }
        self.length = square.sqrt() * SLACK;
        self.n_postings / LEAST > bounds.lengths.len() && self.load(columns, values)
    }

    fn load(&mut self, columns: &[i32], values: &[f32]) -> bool {
        // Without memory for a table of the terms the search goes the other way.
        self.terms.load(columns, values).is_ok()
    }

    /// Columns of the query that are not common.
    pub(super) fn columns(&self) -> &[i32] {
        &self.columns
    }

    /// Their values.
    pub(super) fn values(&self) -> &[f32] {
        &self.values
    }

    /// Leaves the keys of the k best rows in `keys`, given the sums over the columns that are not
    /// common; false, and no keys, if that would take longer than reading all columns.
    pub(super) fn best(
        &mut self,
        bounds: &Bounds,
        rows: LazyRows<'_>,
        sums: &[f64],
        k: usize,
        drops: impl Fn(i32) -> bool,
        keys: &mut Vec<u64>,
    ) -> Result<bool> {
        self.largest(bounds, sums, k, &drops);
        if self.first.len() < k {
            return Ok(false);
        }
        let mut threshold = f32::INFINITY;
        for key in &self.first {
            let (columns, values) = rows.get(f32::label(*key) as usize)?;
            threshold = threshold.min(self.terms.product(columns, values));
        }
        // Also false for 0: a row that shares nothing with the query is not returned.
        if threshold < SMALLEST {
            return Ok(false);
        }
        self.candidates(bounds, sums, f64::from(threshold) / SLACK);
        if self.rows.len() * bounds.n_entries > self.n_postings {
            return Ok(false);
        }
        for &row in &self.rows {
            if drops(row as i32) {
                continue;
            }
            let (columns, values) = rows.get(row as usize)?;
            let score = self.terms.product(columns, values);
            if score >= threshold {
                keys.push(score.key(row as i32));
            }
        }
        keep_best(keys, k);
        Ok(true)
    }

    /// Leaves the keys of the k rows with the largest bounds in `first`.
    #[expect(clippy::needless_bitwise_bool, reason = "a branch for each lane would not vectorise")]
    fn largest(&mut self, bounds: &Bounds, sums: &[f64], k: usize, drops: &impl Fn(i32) -> bool) {
        let (keys, length) = (&mut self.first, self.length);
        keys.clear();
        let capacity = k.saturating_mul(2).max(256);
        let mut threshold = f64::NEG_INFINITY;
        let chunks = sums.chunks(LANES).zip(bounds.lengths.chunks(LANES));
        for (chunk, (sums, lengths)) in chunks.enumerate() {
            let all = || sums.iter().zip(lengths).map(|(sum, own)| sum + length * f64::from(*own));
            if !all().fold(false, |any, bound| any | (bound > threshold)) {
                continue;
            }
            for (row, bound) in (chunk * LANES..).zip(all()) {
                if bound <= threshold || drops(row as i32) {
                    continue;
                }
                keys.push((bound as f32).key(row as i32));
                if keys.len() >= capacity {
                    let (_, &mut worst, _) = keys.select_nth_unstable(k - 1);
                    threshold = f64::from(f32::score(worst));
                    keys.truncate(k);
                }
            }
        }
        keep_best(keys, k);
    }

    /// Leaves the rows whose bound reaches a threshold in `rows`.
    fn candidates(&mut self, bounds: &Bounds, sums: &[f64], threshold: f64) {
        let length = self.length;
        self.rows.clear();
        let chunks = sums.chunks(LANES).zip(bounds.lengths.chunks(LANES));
        for (chunk, (sums, lengths)) in chunks.enumerate() {
            // Negated, so that a bound that is no number counts as large.
            let all = || {
                let bounds =
                    sums.iter().zip(lengths).map(|(sum, own)| sum + length * f64::from(*own));
                bounds.map(|bound| !(bound < threshold))
            };
            if all().fold(false, |any, reaches| any | reaches) {
                let reached = (chunk * LANES..).zip(all()).filter(|&(_, reaches)| reaches);
                self.rows.extend(reached.map(|(row, _)| row as u32));
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn few_rows_are_read() {
        // Sixty rows share thirty columns; the last five share one more with the query.
        let (mut indptr, mut indices, mut data) = (vec![0], vec![], vec![]);
        for row in 0..60 {
            let own = (row >= 55).then_some(30);
            indices.extend((0..30).chain(own));
            data.extend([0.1; 30].into_iter().chain(own.map(|_| row as f32)));
            indptr.push(indices.len() as i64);
        }
        let rows = CsrView::of_features("rows", 31, &indptr, &indices, &data).unwrap();
        let postings = Postings::new(rows).unwrap();
        let totals = (0..31).map(|column| postings.column(column).len() as u64);
        let mut bounds = Bounds::new(60, totals).unwrap();
        bounds.add(rows);
        let mut pruned = Pruned::default();
        let columns: Vec<i32> = (0..31).collect();
        assert!(pruned.take(&bounds, &postings, &columns, &[1.0; 31]));
        assert_eq!((pruned.columns(), pruned.values()), (&[30][..], &[1.0][..]));
        let mut sums = [0.0; 60];
        (55..60).for_each(|row| sums[row] = row as f64);
        let mut keys = vec![];
        assert!(pruned.best(&bounds, rows.into(), &sums, 2, |id| id == 59, &mut keys).unwrap());
        keys.sort_unstable();
        assert_eq!(keys.iter().map(|&key| f32::label(key)).collect::<Vec<_>>(), [58, 57]);
        assert_eq!(pruned.rows, [57, 58, 59]);

        // All alike but for what is common: as many rows as there are have to be read.
        assert!(!pruned.best(&bounds, rows.into(), &[0.0; 60], 2, |_| false, &mut keys).unwrap());
        assert!(!pruned.take(&bounds, &postings, &[3, 30], &[1.0, 1.0]));
        assert!(!pruned.take(&bounds, &postings, &columns, &[-1.0; 31]));
    }
}
