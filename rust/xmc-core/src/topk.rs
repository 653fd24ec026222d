//! The k best labels of each row.

mod drop_pairs;
mod merge;

use rayon::prelude::*;

use crate::csr::{CsrPattern, CsrView};
use crate::error::{Error, Fault, Result};
use crate::memory::filled;
use crate::rank::{Excluded, Score, keep_best};
pub use drop_pairs::{drop_pairs_csr, drop_pairs_ids, drop_pairs_into};
pub use merge::{Ranked, merge_topk};

/// Rows handed to a thread at a time; the scratch memory is shared by them.
const ROWS_PER_TASK: usize = 64;
/// Scores tested together against the threshold.
const LANES: usize = 64;

/// Ranked rows of `k` labels: row-major, best first, padded with label -1 and score -inf.
#[derive(Debug, Clone, PartialEq)]
pub struct TopK {
    /// Labels a row.
    pub k: usize,
    /// Labels, `n_rows * k`.
    pub ids: Vec<i32>,
    /// Their scores, `n_rows * k`.
    pub scores: Vec<f32>,
}

impl TopK {
    /// Fills rows in parallel: `rank` leaves the keys of a row, best first, in the vector it is
    /// given empty; `W` is further memory of a task.
    pub(crate) fn fill<S, W, F>(n_rows: usize, k: usize, rank: F) -> Result<Self>
    where
        S: Score,
        W: Default,
        F: Fn(usize, &mut Vec<S::Key>, &mut W) -> Result<()> + Sync,
    {
        let mut top = Self::padded(n_rows, k)?;
        let cells_per_task = k.saturating_mul(ROWS_PER_TASK);
        let faults: Vec<Result<()>> = top
            .ids
            .par_chunks_mut(cells_per_task)
            .zip(top.scores.par_chunks_mut(cells_per_task))
            .enumerate()
            .map(|(task, (ids, scores))| {
                let (mut keys, mut scratch) = (Vec::new(), W::default());
                for (i, (ids, scores)) in ids.chunks_mut(k).zip(scores.chunks_mut(k)).enumerate() {
                    keys.clear();
                    rank(task * ROWS_PER_TASK + i, &mut keys, &mut scratch)?;
                    for ((id, score), &key) in ids.iter_mut().zip(scores).zip(&keys) {
                        (*id, *score) = (S::label(key), S::score(key));
                    }
                }
                Ok(())
            })
            .collect();
        // In row order, so that the first faulty row is reported for any number of threads.
        faults.into_iter().collect::<Result<()>>()?;
        Ok(top)
    }

    /// Rows without labels. If they do not fit in memory, `k` is most likely a typo.
    fn padded(n_rows: usize, k: usize) -> Result<Self> {
        let n_cells = n_rows.checked_mul(k).filter(|_| k > 0).ok_or_else(|| bad_k(k))?;
        let ids = filled(n_cells, -1).map_err(|_| bad_k(k))?;
        let scores = filled(n_cells, f32::NEG_INFINITY).map_err(|_| bad_k(k))?;
        Ok(Self { k, ids, scores })
    }
}

/// Memory of one task.
#[derive(Default)]
struct Scratch {
    labels: Vec<i32>,
    excluded: Excluded,
}

fn bad_k(k: usize) -> Error {
    let rule = if k == 0 { "must be at least 1" } else { "is too large" };
    Error::Parameter { name: "k", rule, value: k.to_string() }
}

/// Ranks the stored entries of each row; pairs in `exclude` are dropped before the cut.
///
/// # Errors
/// [`Error::Parameter`] for `k = 0`; [`Error::Length`] if `exclude` has another shape;
/// [`Error::Content`] for a NaN score or a label stored twice in a row.
pub fn topk_csr<S: Score>(
    scores: CsrView<'_, S>,
    k: usize,
    exclude: Option<CsrPattern<'_>>,
) -> Result<TopK> {
    if let Some(exclude) = exclude {
        exclude.check_shape(scores.n_rows(), scores.n_cols())?;
    }
    TopK::fill::<S, Scratch, _>(scores.n_rows(), k, |row, keys, scratch| {
        let Scratch { labels: seen, excluded } = scratch;
        let fault = |fault| Error::at_row(scores.name(), row, fault);
        excluded.load(exclude, row);
        let (labels, values) = scores.row(row);
        if let Some(label) = duplicate(labels, seen) {
            return Err(fault(Fault::DuplicateLabel { label }));
        }
        for (&label, &score) in labels.iter().zip(values) {
            if score.is_nan() {
                return Err(fault(Fault::NanScore { label }));
            }
            if !excluded.contains(label) {
                keys.push(score.key(label));
            }
        }
        keep_best(keys, k);
        keys.sort_unstable();
        Ok(())
    })
}

/// A label that occurs twice, if any. Sorted rows, the usual case, cost one pass.
pub(crate) fn duplicate(labels: &[i32], sorted: &mut Vec<i32>) -> Option<i32> {
    if labels.is_sorted_by(|a, b| a < b) {
        return None;
    }
    sorted.clear();
    sorted.extend_from_slice(labels);
    sorted.sort_unstable();
    sorted.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}

/// Ranks dense rows of `n_labels` scores, row-major, whose first column is label `first_label`.
///
/// Large label sets are scored block by block: rank each block with its `first_label`, then
/// [`merge`](merge_topk). `exclude` holds global label ids; its pairs are dropped before the cut.
///
/// # Errors
/// [`Error::Parameter`] for `k = 0` or labels beyond `i32`; [`Error::Length`] if `scores` is not a
/// whole number of rows or `exclude` has another number of rows; [`Error::Content`] for a NaN score.
pub fn topk_dense(
    scores: &[f32],
    n_rows: usize,
    n_labels: usize,
    k: usize,
    exclude: Option<CsrPattern<'_>>,
    first_label: usize,
) -> Result<TopK> {
    if n_rows.checked_mul(n_labels) != Some(scores.len()) {
        let expected = n_rows.saturating_mul(n_labels);
        let (name, what, found) = ("scores".to_owned(), "values", scores.len());
        return Err(Error::Length { name, what, expected, found });
    }
    if first_label.checked_add(n_labels).is_none_or(|end| end > i32::MAX as usize) {
        let (name, rule) = ("first_label", "must leave every label below 2^31 - 1");
        return Err(Error::Parameter { name, rule, value: first_label.to_string() });
    }
    if let Some(exclude) = exclude {
        exclude.check_shape(n_rows, exclude.n_cols())?;
    }
    TopK::fill::<f32, Excluded, _>(n_rows, k, |row, keys, excluded| {
        excluded.load(exclude, row);
        let scores = &scores[row * n_labels..(row + 1) * n_labels];
        scan(scores, first_label as i32, k, excluded, keys)
            .map_err(|fault| Error::at_row("scores", row, fault))
    })
}

/// Leaves the keys of the k best scores in `keys`, best first.
///
/// Only scores above a threshold are looked at one by one: the k-th best when the buffer was last
/// cut. An equal score further on has a larger label and loses, so the test is strict.
#[expect(clippy::needless_bitwise_bool, reason = "a branch for each lane would not vectorise")]
fn scan(
    scores: &[f32],
    first_label: i32,
    k: usize,
    excluded: &Excluded,
    keys: &mut Vec<u64>,
) -> std::result::Result<(), Fault> {
    let capacity = k.saturating_mul(2).max(256);
    // `!(score <= NaN)` holds for every score: all pass until k are known.
    let mut threshold = f32::NAN;
    for (chunk, lanes) in scores.chunks(LANES).enumerate() {
        // True of NaN as well, which is found this way without a test of its own.
        if !lanes.iter().fold(false, |any, &score| any | !(score <= threshold)) {
            continue;
        }
        for (lane, &score) in lanes.iter().enumerate() {
            if score <= threshold {
                continue;
            }
            let label = first_label + (chunk * LANES + lane) as i32;
            if score.is_nan() {
                return Err(Fault::NanScore { label });
            }
            if excluded.contains(label) {
                continue;
            }
            keys.push(score.key(label));
            if keys.len() >= capacity {
                let (_, &mut worst, _) = keys.select_nth_unstable(k - 1);
                threshold = f32::score(worst);
                keys.truncate(k);
            }
        }
    }
    keep_best(keys, k);
    keys.sort_unstable();
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const INF: f32 = f32::INFINITY;

    #[test]
    fn ties_padding_and_exclusions() {
        let scores = [0.5, 0.5, -INF, 2.0, 0.0, -0.0, 1.0, 1.0];
        let top = topk_dense(&scores, 2, 4, 3, None, 10).unwrap();
        assert_eq!(top.ids, [13, 10, 11, 12, 13, 10]);
        let exclude = CsrPattern::new("exclude", 20, &[0, 2, 2], &[13, 10]).unwrap();
        let top = topk_dense(&scores, 2, 4, 3, Some(exclude), 10).unwrap();
        assert_eq!(top.ids, [11, 12, -1, 12, 13, 10]);
        assert_eq!(top.scores, [0.5, -INF, -INF, 1.0, 1.0, 0.0]);
    }

    #[test]
    fn stored_zeros_and_negatives_are_ranked() {
        let (labels, scores) = ([4, 0, 2], [0.0, -1.0, 1e-300]);
        let view = CsrView::<f64>::new("y_pred", 5, &[0, 3], &labels, &scores).unwrap();
        let top = topk_csr(view, 4, None).unwrap();
        assert_eq!(top.ids, [2, 4, 0, -1]);
        assert_eq!(top.scores, [0.0, 0.0, -1.0, -INF]);
    }

    #[test]
    fn errors() {
        let nan = [0.0, 1.0, 0.0, f32::NAN];
        let message = |result: Result<TopK>| result.unwrap_err().to_string();
        let dense = |n_rows, n_labels, k, first| {
            message(topk_dense(&nan, n_rows, n_labels, k, None, first))
        };
        assert_eq!(dense(2, 2, 1, 5), "scores: row 1: score of label 6 is NaN");
        assert_eq!(dense(2, 2, 0, 0), "k must be at least 1, not 0");
        assert_eq!(dense(3, 2, 1, 0), "scores: 4 values, expected 6");
        assert_eq!(dense(2, 2, usize::MAX, 0), format!("k is too large, not {}", usize::MAX));
        assert!(dense(2, 2, 1, i32::MAX as usize).starts_with("first_label must leave"));
        let view = |labels: &'static [i32]| CsrView::new("y_pred", 5, &[0, 0, 4], labels, &nan);
        let csr = |labels| message(topk_csr(view(labels).unwrap(), 1, None));
        assert_eq!(csr(&[0, 1, 2, 4]), "y_pred: row 1: score of label 4 is NaN");
        assert_eq!(csr(&[0, 3, 2, 3]), "y_pred: row 1: duplicate label 3");
        let exclude = CsrPattern::new("exclude", 4, &[0, 0, 0], &[]).unwrap();
        let result = topk_csr(view(&[0, 1, 2, 4]).unwrap(), 1, Some(exclude));
        assert_eq!(message(result), "exclude: 4 labels, expected 5");
    }
}
