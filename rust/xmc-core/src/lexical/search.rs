//! Exact search by inner product over sparse rows.

use std::cell::Cell;

use super::bounds::{Bounds, Pruned};
use super::build::IndexBuilder;
use super::lazy::LazyRows;
use super::{Sums, check_columns, check_rows};
use crate::csr::{CsrPattern, CsrView};
use crate::error::{Error, Result};
use crate::memory::{SPARE, reserve};
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

/// A second ranking of the same inner products: the best `k` of the rows of a mask.
#[derive(Debug, Clone, Copy)]
pub struct Also<'a> {
    /// Rows a query.
    pub k: usize,
    /// Whether each row may be found.
    pub only: &'a [bool],
}

/// Votes that count beside the inner products of a search: rows get `weight` times their votes.
#[derive(Debug, Clone, Copy)]
pub struct Voted<'a> {
    /// Votes (queries x rows).
    pub votes: CsrView<'a>,
    /// What a whole vote is worth.
    pub weight: f32,
}

/// Memory of one task.
#[derive(Default)]
struct Scratch {
    sums: Touched,
    touched: Vec<u32>,
    excluded: Excluded,
    pruned: Pruned,
    second: Vec<u64>,
}

thread_local! {
    /// What the last search of this thread left, all `UNTOUCHED`: to fill it anew takes longer than
    /// many a search.
    static LEFT: Cell<Vec<f64>> = const { Cell::new(Vec::new()) };
}

/// The sums of a task, all `UNTOUCHED` between queries; at least as many as there are rows.
#[derive(Default)]
struct Touched(Vec<f64>);

impl Touched {
    /// Takes the sums out. Whoever fails does not put them back.
    fn take(&mut self, n_rows: usize) -> Result<Vec<f64>> {
        let mut sums = std::mem::take(&mut self.0);
        if sums.is_empty() {
            sums = LEFT.take();
        }
        if let Some(more) = n_rows.checked_sub(sums.len()) {
            reserve(&mut sums, more)?;
            sums.resize(n_rows, UNTOUCHED);
        }
        Ok(sums)
    }
}

impl Drop for Touched {
    fn drop(&mut self) {
        if (1..=SPARE).contains(&self.0.len()) {
            LEFT.set(std::mem::take(&mut self.0));
        }
    }
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
    /// With `also`, each row of the result holds the `k` rows and then those of the second ranking, both
    /// padded.
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
        also: Option<Also<'_>>,
        rows: Option<LazyRows<'_>>,
    ) -> Result<TopK> {
        self.check(queries, exclude, only)?;
        let width = self.width(k, also)?;
        if let Some(rows) = rows {
            rows.check_shape(self.n_rows, self.n_features())?;
        }
        TopK::fill::<f32, Scratch, _>(queries.n_rows(), width, |row, keys, scratch| {
            let mut taken = scratch.sums.take(self.n_rows)?;
            let sums = &mut taken[..self.n_rows];
            scratch.excluded.load(exclude, row);
            let (columns, values) = queries.row(row);
            let lengths = columns.iter().map(|&column| self.postings.column(column).len());
            let n_postings: usize = lengths.sum();
            let Scratch { touched, excluded, pruned, second, .. } = scratch;
            let first_drops = dropping(excluded, only);
            let second_drops = dropping(excluded, also.map(|also| also.only));
            let k_second = also.map_or(0, |also| also.k);
            second.clear();
            if n_postings < self.n_rows / LISTED_PART {
                self.add_listed(columns, values, sums, touched);
                for id in touched.drain(..) {
                    let sum = std::mem::replace(&mut sums[id as usize], UNTOUCHED);
                    let key = (sum as f32).key(id as i32);
                    if !first_drops(id as i32) {
                        keys.push(key);
                    }
                    if also.is_some() && !second_drops(id as i32) {
                        second.push(key);
                    }
                }
                keep_best(keys, k);
                keep_best(second, k_second);
            } else {
                let (mut first_done, mut second_done) = (false, also.is_none());
                let bounded =
                    rows.filter(|_| pruned.take(&self.bounds, &self.postings, columns, values));
                if let Some(rows) = bounded {
                    self.add(pruned.columns(), pruned.values(), sums);
                    let mut best = |k, drops: &dyn Fn(i32) -> bool, keys: &mut Vec<u64>| {
                        pruned.best(&self.bounds, rows, sums, k, drops, keys)
                    };
                    first_done = best(k, &first_drops, keys)?;
                    second_done = second_done || best(k_second, &second_drops, second)?;
                    sums.fill(UNTOUCHED);
                }
                if !(first_done && second_done) {
                    self.add(columns, values, sums);
                }
                if !second_done {
                    collect(sums, k_second, first_done, &second_drops, second);
                }
                if !first_done {
                    collect(sums, k, true, &first_drops, keys);
                }
            }
            scratch.sums.0 = taken;
            finish(keys, k, also.map(|_| &mut scratch.second));
            Ok(())
        })
    }

    /// Two searches in one: as [`search`](Self::search), and again as if rows and queries had only the
    /// columns below `n_columns`. Each row of the result holds `k` rows and then the `k_below` of the
    /// second search, both padded.
    ///
    /// With `voted`, the first search ranks by `score + weight x votes`, both rounded, among the rows with
    /// votes above 0 and the `k` best without them: no other row can be among the best.
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
        voted: Option<Voted<'_>>,
    ) -> Result<TopK> {
        self.check(queries, exclude, only)?;
        if let Some(Voted { votes, weight }) = voted {
            if !(weight.is_finite() && weight >= 0.0) {
                let (name, rule) = ("weight", "must be finite and at least 0");
                return Err(Error::Parameter { name, rule, value: weight.to_string() });
            }
            check_columns(votes, self.n_rows)?;
            check_rows(votes)?;
            if votes.n_rows() != queries.n_rows() {
                let (name, what) = (votes.name().to_owned(), "rows");
                let (expected, found) = (queries.n_rows(), votes.n_rows());
                return Err(Error::Length { name, what, expected, found });
            }
        }
        if k == 0 || k_below == 0 {
            return Err(no_k());
        }
        let width = k.saturating_add(k_below);
        TopK::fill::<f32, Scratch, _>(queries.n_rows(), width, |row, keys, scratch| {
            let mut taken = scratch.sums.take(self.n_rows)?;
            let sums = &mut taken[..self.n_rows];
            scratch.excluded.load(exclude, row);
            let Scratch { excluded, second, .. } = scratch;
            let drops = dropping(excluded, only);
            let (columns, values) = queries.row(row);
            let middle = columns.partition_point(|&column| (column as usize) < n_columns);
            self.add(&columns[..middle], &values[..middle], sums);
            second.clear();
            collect(sums, k_below, false, &drops, second);
            self.add(&columns[middle..], &values[middle..], sums);
            if let Some(Voted { votes, weight }) = voted {
                collect(sums, k, false, &drops, keys);
                let (ids, values) = votes.row(row);
                // A row without votes keeps its key; one with votes gets another.
                keys.retain(|&key| {
                    let at = ids.binary_search(&f32::label(key));
                    at.map_or(true, |at| values[at] <= 0.0)
                });
                for (&id, &value) in ids.iter().zip(values) {
                    if value > 0.0 && !drops(id) {
                        // From 0.0: an untouched sum is -0.0.
                        let score = (0.0 + sums[id as usize]) as f32 + weight * value;
                        keys.push(score.key(id));
                    }
                }
                keep_best(keys, k);
                sums.fill(UNTOUCHED);
            } else {
                collect(sums, k, true, &drops, keys);
            }
            scratch.sums.0 = taken;
            finish(keys, k, Some(&mut scratch.second));
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
        also: Option<Also<'_>>,
    ) -> Result<TopK> {
        right.check_shape(left.n_cols(), self.n_features())?;
        self.check_given(left, exclude, only)?;
        let width = self.width(k, also)?;
        TopK::fill::<f32, (Scratch, Option<Sums>), _>(left.n_rows(), width, |row, keys, scratch| {
            let (scratch, product) = scratch;
            let mut taken = scratch.sums.take(self.n_rows)?;
            let sums = &mut taken[..self.n_rows];
            let product = match product {
                Some(product) => product,
                None => product.insert(Sums::new(self.n_features())?),
            };
            let Scratch { excluded, second, .. } = scratch;
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
            second.clear();
            if let Some(also) = also {
                collect(sums, also.k, false, &dropping(excluded, Some(also.only)), second);
            }
            collect(sums, k, true, &dropping(excluded, only), keys);
            scratch.sums.0 = taken;
            finish(keys, k, also.map(|_| &mut scratch.second));
            Ok(())
        })
    }

    /// Columns of a result.
    fn width(&self, k: usize, also: Option<Also<'_>>) -> Result<usize> {
        let Some(Also { k: more, only }) = also else { return Ok(k) };
        if k == 0 || more == 0 {
            return Err(no_k());
        }
        self.check_mask(only)?;
        Ok(k.saturating_add(more))
    }

    fn check_mask(&self, only: &[bool]) -> Result<()> {
        if only.len() == self.n_rows {
            return Ok(());
        }
        let (name, expected, found) = ("only".to_owned(), self.n_rows, only.len());
        Err(Error::Length { name, what: "rows", expected, found })
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
        only.map_or(Ok(()), |only| self.check_mask(only))?;
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

fn no_k() -> Error {
    Error::Parameter { name: "k", rule: "must be at least 1", value: 0.to_string() }
}

/// Which rows must not be found.
fn dropping<'a>(excluded: &'a Excluded, only: Option<&'a [bool]>) -> impl Fn(i32) -> bool + 'a {
    move |id| only.is_some_and(|only| !only[id as usize]) || excluded.contains(id)
}

/// Sorts the keys of a query, and appends those of a second ranking to the first one's k.
fn finish(keys: &mut Vec<u64>, k: usize, second: Option<&mut Vec<u64>>) {
    keys.sort_unstable();
    if let Some(second) = second {
        keys.resize(k, f32::NEG_INFINITY.key(-1));
        second.sort_unstable();
        keys.append(second);
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
    drops: &impl Fn(i32) -> bool,
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
