//! Exact search by inner product over sparse rows.

use super::bounds::{Bounds, Pruned};
use super::build::IndexBuilder;
use super::lazy::LazyRows;
use super::{Sums, check_columns, check_rows};
use crate::csr::{CsrPattern, CsrView};
use crate::error::{Error, Result};
use crate::memory::filled;
use crate::postings::{Postings, unpacked};
use crate::rank::{Excluded, Score, keep_best};
use crate::topk::TopK;

/// Sums that are tested together against the threshold.
pub(super) const LANES: usize = 32;
/// The sum of a row that no term has reached. Products of terms are never 0, and so a sum is never
/// -0.0 again once something was added.
const UNTOUCHED: f64 = -0.0;
/// Rows that were reached are listed if the postings of a query are fewer than this part of the rows;
/// else all sums are looked at, which is faster than a test for each posting.
const LISTED_PART: usize = 16;

/// The rows of a sparse matrix by column, for exact search by inner product.
///
/// Stored zeros are no terms: they are left out of rows and queries.
#[derive(Debug)]
pub struct InvertedIndex {
    pub(super) n_rows: usize,
    pub(super) postings: Postings,
    pub(super) bounds: Bounds,
}

/// Memory of one task.
#[derive(Default)]
struct Scratch {
    sums: Vec<f64>,
    touched: Vec<u32>,
    excluded: Excluded,
    pruned: Pruned,
}

/// Memory of a task with two searches.
#[derive(Default)]
struct Pair {
    one: Scratch,
    below: Vec<u64>,
}

impl InvertedIndex {
    /// Indexes rows, whose columns are features. The rows are copied.
    ///
    /// # Errors
    /// [`Error::Parameter`] for 2^31 rows or more; [`Error::Content`] for a row that is not ascending or
    /// a value that is not finite; [`Error::OutOfMemory`].
    pub fn new(rows: CsrView<'_>) -> Result<Self> {
        let mut builder = IndexBuilder::new(rows.n_cols())?;
        let counts = builder.counted(rows)?;
        builder.fill(rows, counts)?;
        builder.finish()
    }

    /// Number of rows.
    #[must_use]
    pub const fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Number of columns.
    #[must_use]
    pub fn n_features(&self) -> usize {
        self.postings.n_columns()
    }

    /// Number of values other than 0.
    #[must_use]
    pub fn n_postings(&self) -> usize {
        self.postings.len()
    }

    /// The k rows of largest inner product for each query; equal ones by the smaller row.
    ///
    /// The result is exact. A row without a term in common with the query is not returned, whatever
    /// its rank: queries with fewer than k rows are padded with -1 and -inf. Scores are summed in
    /// `f64` by ascending column and rounded once, and the rounded scores are ranked.
    ///
    /// Pairs in `exclude` (queries x rows) are dropped before the cut; `only` holds for each row
    /// whether it may be found.
    ///
    /// With `rows`, those that were indexed, the result is the same, and comes faster if few columns
    /// have most of the values and none is negative: these columns are then only read for rows that
    /// may be among the best.
    ///
    /// # Errors
    /// [`Error::Parameter`] for `k = 0`; [`Error::Length`] if shapes disagree; [`Error::Content`] for a
    /// query that is not ascending or a value that is not finite, and for a bad row pointer in `rows`.
    pub fn search(
        &self,
        queries: CsrView<'_>,
        k: usize,
        exclude: Option<CsrPattern<'_>>,
        only: Option<&[bool]>,
        rows: Option<LazyRows<'_>>,
    ) -> Result<TopK> {
        self.check(queries, exclude, only)?;
        if let Some(rows) = rows {
            rows.check_shape(self.n_rows, self.n_features())?;
        }
        TopK::fill::<f32, Scratch, _>(queries.n_rows(), k, |row, keys, scratch| {
            if scratch.sums.len() != self.n_rows {
                scratch.sums = filled(self.n_rows, UNTOUCHED)?;
            }
            scratch.excluded.load(exclude, row);
            let (columns, values) = queries.row(row);
            let lengths = columns.iter().map(|&column| self.postings.column(column).len());
            let n_postings: usize = lengths.sum();
            let Scratch { sums, touched, excluded, pruned } = scratch;
            let drops =
                |id: i32| only.is_some_and(|only| !only[id as usize]) || excluded.contains(id);
            if n_postings < self.n_rows / LISTED_PART {
                self.add_listed(columns, values, sums, touched);
                for id in touched.drain(..) {
                    let sum = std::mem::replace(&mut sums[id as usize], UNTOUCHED);
                    if !drops(id as i32) {
                        keys.push((sum as f32).key(id as i32));
                    }
                }
                keep_best(keys, k);
            } else {
                let bounded =
                    rows.filter(|_| pruned.take(&self.bounds, &self.postings, columns, values));
                if let Some(rows) = bounded {
                    self.add(pruned.columns(), pruned.values(), sums);
                    let found = pruned.best(&self.bounds, rows, sums, k, drops, keys)?;
                    sums.fill(UNTOUCHED);
                    if found {
                        keys.sort_unstable();
                        return Ok(());
                    }
                }
                self.add(columns, values, sums);
                collect(sums, k, true, drops, keys);
            }
            keys.sort_unstable();
            Ok(())
        })
    }

    /// Two searches in one: as [`search`](Self::search), and again as if rows and queries had only the
    /// columns below `n_columns`. Each row of the result holds `k` rows and then the `k_below` of the
    /// second search, both padded.
    ///
    /// # Errors
    /// As [`search`](Self::search).
    pub fn search_both(
        &self,
        queries: CsrView<'_>,
        (k, k_below): (usize, usize),
        n_columns: usize,
        exclude: Option<CsrPattern<'_>>,
        only: Option<&[bool]>,
    ) -> Result<TopK> {
        self.check(queries, exclude, only)?;
        if k == 0 || k_below == 0 {
            let rule = "must be at least 1";
            return Err(Error::Parameter { name: "k", rule, value: 0.to_string() });
        }
        let none = f32::NEG_INFINITY.key(-1);
        let width = k.saturating_add(k_below);
        TopK::fill::<f32, Pair, _>(queries.n_rows(), width, |row, keys, Pair { one, below }| {
            if one.sums.len() != self.n_rows {
                one.sums = filled(self.n_rows, UNTOUCHED)?;
            }
            one.excluded.load(exclude, row);
            let Scratch { sums, excluded, .. } = one;
            let drops =
                |id: i32| only.is_some_and(|only| !only[id as usize]) || excluded.contains(id);
            let (columns, values) = queries.row(row);
            let middle = columns.partition_point(|&column| (column as usize) < n_columns);
            self.add(&columns[..middle], &values[..middle], sums);
            below.clear();
            collect(sums, k_below, false, drops, below);
            self.add(&columns[middle..], &values[middle..], sums);
            collect(sums, k, true, drops, keys);
            keys.sort_unstable();
            below.sort_unstable();
            keys.resize(k, none);
            keys.append(below);
            Ok(())
        })
    }

    /// Searches with the rows of a product, `left` times `right`, which are not made: as
    /// [`search`](Self::search) with these rows, but for
    /// the rounding, and faster where they are long.
    ///
    /// Sums are taken in `f64`, in the order of the terms of `left` and of those of `right`.
    ///
    /// # Errors
    /// As [`search`](Self::search), for `left` instead of queries; [`Error::Content`] for a row of `right`
    /// that is read, unless it is to be trusted.
    pub fn search_product(
        &self,
        left: CsrView<'_>,
        right: LazyRows<'_>,
        k: usize,
        exclude: Option<CsrPattern<'_>>,
        only: Option<&[bool]>,
    ) -> Result<TopK> {
        right.check_shape(left.n_cols(), self.n_features())?;
        self.check_given(left, exclude, only)?;
        TopK::fill::<f32, (Scratch, Option<Sums>), _>(left.n_rows(), k, |row, keys, scratch| {
            let (Scratch { sums, excluded, .. }, product) = scratch;
            if sums.len() != self.n_rows {
                *sums = filled(self.n_rows, UNTOUCHED)?;
            }
            let product = match product {
                Some(product) => product,
                None => product.insert(Sums::new(self.n_features())?),
            };
            excluded.load(exclude, row);
            let (columns, values) = left.row(row);
            for (&column, &value) in columns.iter().zip(values) {
                let (others, theirs) = right.read(column as usize)?;
                product.add(others, theirs, f64::from(value))?;
            }
            product.drain(|column, value| {
                if value != 0.0 {
                    for &posting in self.postings.column(column) {
                        let (row, weight) = unpacked(posting);
                        sums[row as usize] += value * weight;
                    }
                }
            });
            let drops =
                |id: i32| only.is_some_and(|only| !only[id as usize]) || excluded.contains(id);
            collect(sums, k, true, drops, keys);
            keys.sort_unstable();
            Ok(())
        })
    }

    fn check(
        &self,
        queries: CsrView<'_>,
        exclude: Option<CsrPattern<'_>>,
        only: Option<&[bool]>,
    ) -> Result<()> {
        check_columns(queries, self.n_features())?;
        self.check_given(queries, exclude, only)
    }

    /// Checks all but the columns of queries.
    fn check_given(
        &self,
        queries: CsrView<'_>,
        exclude: Option<CsrPattern<'_>>,
        only: Option<&[bool]>,
    ) -> Result<()> {
        if let Some(exclude) = exclude {
            exclude.check_shape(queries.n_rows(), self.n_rows)?;
        }
        if let Some(only) = only.filter(|only| only.len() != self.n_rows) {
            let (name, expected, found) = ("only".to_owned(), self.n_rows, only.len());
            return Err(Error::Length { name, what: "rows", expected, found });
        }
        check_rows(queries)
    }

    /// The terms of a query with their postings.
    fn terms<'a>(
        &'a self,
        columns: &'a [i32],
        values: &'a [f32],
    ) -> impl Iterator<Item = (f64, &'a [u64])> {
        let terms = columns.iter().zip(values).filter(|(_, value)| **value != 0.0);
        terms.map(|(&column, &value)| (f64::from(value), self.postings.column(column)))
    }

    fn add(&self, columns: &[i32], values: &[f32], sums: &mut [f64]) {
        for (value, postings) in self.terms(columns, values) {
            for &posting in postings {
                let (row, weight) = unpacked(posting);
                sums[row as usize] += value * weight;
            }
        }
    }

    /// As [`add`](Self::add), and lists the rows in `touched`.
    fn add_listed(
        &self,
        columns: &[i32],
        values: &[f32],
        sums: &mut [f64],
        touched: &mut Vec<u32>,
    ) {
        for (value, postings) in self.terms(columns, values) {
            for &posting in postings {
                let (row, weight) = unpacked(posting);
                let sum = &mut sums[row as usize];
                if sum.to_bits() == UNTOUCHED.to_bits() {
                    touched.push(row);
                }
                *sum += value * weight;
            }
        }
    }
}

/// Leaves the keys of the k best rows that were reached in `keys`, and with `clear` the sums as they
/// were before.
///
/// Only sums above a threshold are looked at one by one: the k-th best when the buffer was last cut.
/// An equal score further on has a larger row and loses, so the test is strict.
#[expect(clippy::needless_bitwise_bool, reason = "a branch for each lane would not vectorise")]
fn collect(
    sums: &mut [f64],
    k: usize,
    clear: bool,
    drops: impl Fn(i32) -> bool,
    keys: &mut Vec<u64>,
) {
    let capacity = k.saturating_mul(2).max(256);
    // Every sum passes until k are known, for a comparison with NaN is false.
    let mut threshold = f64::NAN;
    for (chunk, lanes) in sums.chunks_mut(LANES).enumerate() {
        if lanes.iter().fold(false, |any, &sum| any | !(sum <= threshold)) {
            for (lane, &sum) in lanes.iter().enumerate() {
                if sum <= threshold || sum.to_bits() == UNTOUCHED.to_bits() {
                    continue;
                }
                let id = (chunk * LANES + lane) as i32;
                // Rounded, it may still be equal to the threshold: such keys are cut later.
                if drops(id) {
                    continue;
                }
                keys.push((sum as f32).key(id));
                if keys.len() >= capacity {
                    let (_, &mut worst, _) = keys.select_nth_unstable(k - 1);
                    threshold = f64::from(f32::score(worst));
                    keys.truncate(k);
                }
            }
        }
        if clear {
            lanes.fill(UNTOUCHED);
        }
    }
    keep_best(keys, k);
}
