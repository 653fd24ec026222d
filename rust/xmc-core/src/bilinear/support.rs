//! Which pairs of a point feature and a label feature the model may weigh.

use rayon::prelude::*;

use super::{check_ascending, check_direct, length, parameter};
use crate::bitmap::Bitmap;
use crate::csr::{Csr, CsrPattern, CsrView};
use crate::error::{Error, Result};
use crate::lexical::check_rows;
use crate::memory::{with_room, zeroed};

/// Features handed to a thread at a time.
const BLOCK: usize = 64;

/// How the support is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SupportOptions {
    /// Pairs that are kept for each point feature, and again for each label feature.
    pub k: usize,
    /// From 0, the precision alone, to 1, the Jaccard index alone.
    pub alpha: f64,
    /// Added to the value of pairs of features with the same name.
    pub direct_weight: f32,
    /// Only larger values are kept.
    pub threshold: f64,
    /// Pairs of a point feature that stay, those of largest value, where label features chose more of them.
    pub row_limit: Option<usize>,
}

impl Default for SupportOptions {
    fn default() -> Self {
        Self { k: 40, alpha: 0.02, direct_weight: 0.5, threshold: 0.0, row_limit: None }
    }
}

impl SupportOptions {
    fn check(&self) -> Result<()> {
        if self.k == 0 {
            return Err(parameter("k", "must be at least 1", 0));
        }
        if !(0.0..=1.0).contains(&self.alpha) {
            return Err(parameter("alpha", "must be in 0..=1", self.alpha));
        }
        if !(self.direct_weight.is_finite() && self.direct_weight >= 0.0) {
            let rule = "must be finite and at least 0";
            return Err(parameter("direct_weight", rule, self.direct_weight));
        }
        if !(self.threshold.is_finite() && self.threshold >= 0.0) {
            return Err(parameter("threshold", "must be finite and at least 0", self.threshold));
        }
        if self.row_limit == Some(0) {
            return Err(parameter("row_limit", "must be at least 1", 0));
        }
        Ok(())
    }
}

/// Positions of a matrix by column: the rows that hold each, ascending.
struct Columns {
    starts: Vec<usize>,
    rows: Vec<u32>,
}

impl Columns {
    fn new<'a, I: Iterator<Item = i32>>(
        n_rows: usize,
        n_cols: usize,
        row: impl Fn(usize) -> I + 'a,
    ) -> Result<Self> {
        let mut starts: Vec<usize> = zeroed(n_cols + 1)?;
        (0..n_rows).for_each(|at| row(at).for_each(|column| starts[column as usize + 1] += 1));
        for column in 0..n_cols {
            starts[column + 1] += starts[column];
        }
        let mut rows: Vec<u32> = zeroed(starts[n_cols])?;
        let mut next = crate::memory::collected(starts.iter().copied())?;
        for at in 0..n_rows {
            for column in row(at) {
                rows[next[column as usize]] = at as u32;
                next[column as usize] += 1;
            }
        }
        Ok(Self { starts, rows })
    }

    fn of(&self, column: usize) -> &[u32] {
        &self.rows[self.starts[column]..self.starts[column + 1]]
    }
}

/// Counters that know which of them are above 0.
struct Tally {
    counts: Vec<u64>,
    touched: Vec<i32>,
}

impl Tally {
    fn new(n: usize) -> Result<Self> {
        Ok(Self { counts: zeroed(n)?, touched: Vec::new() })
    }

    #[inline]
    fn add(&mut self, at: i32, n: u64) {
        let count = &mut self.counts[at as usize];
        if *count == 0 {
            self.touched.push(at);
        }
        *count += n;
    }

    fn clear(&mut self) {
        for at in self.touched.drain(..) {
            self.counts[at as usize] = 0;
        }
    }
}

/// A pair's other feature, and its value.
type Entry = (i32, f64);

/// What both directions need.
struct Counts<'a> {
    x: CsrView<'a>,
    z: CsrView<'a>,
    y: CsrPattern<'a>,
    /// Positive pairs whose point holds a point feature (p), and points that do (a).
    of_points: Vec<(u64, u64)>,
    /// Positive pairs whose label holds a label feature (q), and seen labels that do (b).
    of_labels: Vec<(u64, u64)>,
    options: SupportOptions,
}

/// The columns of a row that are not 0.
fn active(matrix: CsrView<'_>, row: usize) -> impl Iterator<Item = i32> + '_ {
    let (columns, values) = matrix.row(row);
    columns.iter().zip(values).filter(|(_, value)| **value != 0.0).map(|(&column, _)| column)
}

impl Counts<'_> {
    /// Leaves the K best of the features that `both` counts, in ascending order, in `best`.
    fn best(
        &self,
        own: (u64, u64),
        others: &[(u64, u64)],
        both: &mut Tally,
        best: &mut Vec<Entry>,
    ) {
        let SupportOptions { k, alpha, threshold, .. } = self.options;
        best.clear();
        for &other in &both.touched {
            let m = both.counts[other as usize] as f64;
            let (pairs, frequency) = others[other as usize];
            let union = (own.0 + pairs) as f64 - m;
            let product = own.1 as f64 * frequency as f64;
            let value = m / (alpha * union + (1.0 - alpha) * product);
            if value > threshold {
                best.push((other, value));
            }
        }
        both.clear();
        if best.len() > k {
            best.select_nth_unstable_by(k - 1, |a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            best.truncate(k);
        }
        best.sort_unstable_by_key(|&(other, _)| other);
    }
}

/// Chooses the pairs of a point feature and a label feature that a model may weigh, with first weights:
/// a matrix (point features x label features), rows ascending.
///
/// `x` and `z` hold the features of points and labels, of which only their being other than 0 counts; every
/// stored entry of `y` (points x labels) is a positive. Labels without positives do not count. `direct` holds for
/// each label feature the point feature of the same name, or -1. Of equal values the smaller feature wins.
///
/// Each row holds its K best pairs, the pairs for which it is among the K best of the label feature, and its
/// direct pairs, whose weight comes on top where it is among the former. A row with more pairs than `row_limit`
/// keeps the largest values, the smaller features of equals.
///
/// # Errors
/// [`Error::Length`] if shapes disagree; [`Error::Content`] for a row that is not ascending, a value that is not
/// finite, or a direct feature out of range; [`Error::Parameter`] for an option out of range;
/// [`Error::OutOfMemory`]; [`Error::Interrupted`].
pub fn select_support(
    x: CsrView<'_>,
    z: CsrView<'_>,
    y: CsrPattern<'_>,
    direct: &[i32],
    options: &SupportOptions,
    keep_going: &(dyn Fn() -> bool + Sync),
) -> Result<Csr> {
    options.check()?;
    y.check_shape(x.n_rows(), z.n_rows())?;
    length("direct", "values", z.n_cols(), direct.len())?;
    let (n_points, n_labels) = (x.n_rows(), z.n_rows());
    let (n_c, n_d) = (x.n_cols(), z.n_cols());
    check_direct(direct, n_c)?;
    check_rows(x)?;
    check_rows(z)?;
    check_ascending(y)?;

    let x_columns = Columns::new(n_points, n_c, |row| active(x, row))?;
    let y_columns = Columns::new(n_points, n_labels, |row| y.row(row).iter().copied())?;
    let seen = |label: usize| !y_columns.of(label).is_empty();
    let z_columns = Columns::new(n_labels, n_d, |label| {
        active(z, label).take(if seen(label) { usize::MAX } else { 0 })
    })?;
    let sum = |rows: &[u32], length: &dyn Fn(usize) -> usize| {
        let pairs = rows.iter().map(|&row| length(row as usize) as u64).sum::<u64>();
        (pairs, rows.len() as u64)
    };
    let n_positives = |point| y.row(point).len();
    let n_of_label = |label| y_columns.of(label).len();
    let counts = Counts {
        x,
        z,
        y,
        of_points: (0..n_c).map(|c| sum(x_columns.of(c), &n_positives)).collect(),
        of_labels: (0..n_d).map(|d| sum(z_columns.of(d), &n_of_label)).collect(),
        options: *options,
    };

    let by_point = best_of_all(n_c, (n_labels, n_d), keep_going, |c, first, both, best| {
        for &point in x_columns.of(c) {
            counts.y.row(point as usize).iter().for_each(|&label| first.add(label, 1));
        }
        for &label in &first.touched {
            let n = first.counts[label as usize];
            active(counts.z, label as usize).for_each(|d| both.add(d, n));
        }
        first.clear();
        counts.best(counts.of_points[c], &counts.of_labels, both, best);
    })?;
    let by_label = best_of_all(n_d, (n_points, n_c), keep_going, |d, first, both, best| {
        for &label in z_columns.of(d) {
            y_columns.of(label as usize).iter().for_each(|&point| first.add(point as i32, 1));
        }
        for &point in &first.touched {
            let n = first.counts[point as usize];
            active(counts.x, point as usize).for_each(|c| both.add(c, n));
        }
        first.clear();
        counts.best(counts.of_labels[d], &counts.of_points, both, best);
    })?;
    union(by_point, by_label, direct, (n_c, n_d), options)
}

/// The best partners of each of `n` features, by `rank`, which is given two tallies and room for the result.
fn best_of_all(
    n: usize,
    sizes: (usize, usize),
    keep_going: &(dyn Fn() -> bool + Sync),
    rank: impl Fn(usize, &mut Tally, &mut Tally, &mut Vec<Entry>) + Sync,
) -> Result<Vec<Vec<Entry>>> {
    let blocks: Vec<Result<Vec<Vec<Entry>>>> = (0..n.div_ceil(BLOCK))
        .into_par_iter()
        .map_init(
            || Ok((Tally::new(sizes.0)?, Tally::new(sizes.1)?, Vec::new())),
            |scratch: &mut Result<(Tally, Tally, Vec<Entry>)>, block| {
                if !keep_going() {
                    return Err(Error::Interrupted);
                }
                let (first, both, best) = scratch.as_mut().map_err(|_| Error::OutOfMemory {
                    bytes: 8 * sizes.0.saturating_add(sizes.1),
                })?;
                let from = block * BLOCK;
                let mut rows = with_room(BLOCK)?;
                for at in from..(from + BLOCK).min(n) {
                    rank(at, first, both, best);
                    rows.push(crate::memory::collected(best.iter().copied())?);
                }
                Ok(rows)
            },
        )
        .collect();
    let mut all = with_room(n)?;
    for block in blocks {
        all.extend(block?);
    }
    Ok(all)
}

/// Keeps the largest values of a row, the first ones of equals.
fn cut(row: &mut Vec<(i32, f32)>, limit: usize) {
    if row.len() > limit {
        row.select_nth_unstable_by(limit - 1, |a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        row.truncate(limit);
    }
}

/// Joins what rows and columns chose, and the direct pairs.
fn union(
    by_point: Vec<Vec<Entry>>,
    by_label: Vec<Vec<Entry>>,
    direct: &[i32],
    (n_c, n_d): (usize, usize),
    options: &SupportOptions,
) -> Result<Csr> {
    let &SupportOptions { direct_weight, row_limit, .. } = options;
    // Ascending in d, for labels' features are visited in order.
    let mut chosen: Vec<Vec<Entry>> = (0..n_c).map(|_| Vec::new()).collect();
    for (d, points) in by_label.into_iter().enumerate() {
        for (c, value) in points {
            chosen[c as usize].push((d as i32, value));
        }
    }
    let mut same_name: Vec<Vec<i32>> = (0..n_c).map(|_| Vec::new()).collect();
    for (d, &c) in direct.iter().enumerate() {
        if c != -1 {
            same_name[c as usize].push(d as i32);
        }
    }
    let mut csr = Csr { n_cols: n_d, indptr: with_room(n_c + 1)?, indices: vec![], data: vec![] };
    csr.indptr.push(0);
    let mut known = Bitmap::new(n_d)?;
    let mut narrow: Vec<(i32, f32)> = Vec::new();
    // Each list is freed when it has been read.
    for ((mut row, chosen), same_name) in by_point.into_iter().zip(chosen).zip(same_name) {
        for &(d, _) in &row {
            known.insert(d);
        }
        let n_own = row.len();
        for &d in &same_name {
            if known.insert(d) {
                row.push((d, f64::from(direct_weight)));
            } else if let Ok(at) = row[..n_own].binary_search_by_key(&d, |&(d, _)| d) {
                row[at].1 += f64::from(direct_weight);
            }
        }
        row.extend(chosen.into_iter().filter(|&(d, _)| !known.contains(d)));
        for &(d, _) in &row {
            known.remove(d);
        }
        narrow.clear();
        narrow.extend(row.iter().map(|&(d, value)| (d, value as f32)));
        cut(&mut narrow, row_limit.unwrap_or(usize::MAX));
        narrow.sort_unstable_by_key(|&(d, _)| d);
        crate::memory::reserve(&mut csr.indices, narrow.len())?;
        crate::memory::reserve(&mut csr.data, narrow.len())?;
        for &(d, value) in &narrow {
            csr.indices.push(d);
            csr.data.push(value);
        }
        csr.indptr.push(csr.indices.len() as i64);
    }
    Ok(csr)
}
