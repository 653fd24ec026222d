//! Predictions without excluded pairs, in their original order.

use rayon::prelude::*;

use super::ROWS_PER_TASK;
use crate::csr::{Csr, CsrPattern, CsrView};
use crate::error::{Error, Result};
use crate::ids::{Id, without_padding};
use crate::memory::with_room;
use crate::rank::Excluded;

/// Up to this many excluded labels are searched for one by one, each in one fast pass.
const FEW: usize = 8;

/// The stored entries of `y_pred` without the pairs in `exclude`; rows keep their order.
///
/// A pair that is not stored is passed over: the difference in entries is how many were dropped.
///
/// # Errors
/// [`Error::Length`] if `exclude` has another shape.
pub fn drop_pairs_csr<T: Copy + Default + Send + Sync>(
    y_pred: CsrView<'_, T>,
    exclude: CsrPattern<'_>,
) -> Result<Csr<T>> {
    let n_entries = y_pred.window().2.len();
    let (mut indices, mut data) = (vec![0; n_entries], vec![T::default(); n_entries]);
    let indptr = drop_pairs_into(y_pred, exclude, &mut indices, &mut data)?;
    let n_kept = indptr.last().map_or(0, |&end| end as usize);
    indices.truncate(n_kept);
    data.truncate(n_kept);
    Ok(Csr { n_cols: y_pred.n_cols(), indptr, indices, data })
}

/// As [`drop_pairs_csr`], into memory of the caller, which has room for all entries of `y_pred`.
/// Returns the row pointers: what is behind the last is left as it was.
///
/// # Errors
/// [`Error::Length`] if `exclude` has another shape or the memory another length.
pub fn drop_pairs_into<T: Copy + Send + Sync>(
    y_pred: CsrView<'_, T>,
    exclude: CsrPattern<'_>,
    kept_indices: &mut [i32],
    kept_data: &mut [T],
) -> Result<Vec<i64>> {
    let n_rows = y_pred.n_rows();
    exclude.check_shape(n_rows, y_pred.n_cols())?;
    let (first, indptr, indices, data) = y_pred.window();
    for (name, found) in [("kept indices", kept_indices.len()), ("kept data", kept_data.len())] {
        if found != indices.len() {
            let (name, expected) = (name.to_owned(), indices.len());
            return Err(Error::Length { name, what: "entries", expected, found });
        }
    }
    let at = |row: usize| (indptr[row] - first) as usize;

    // Of each block of rows: its entries, and where among them the excluded ones are.
    let starts: Vec<usize> = (0..n_rows).step_by(ROWS_PER_TASK).collect();
    let blocks: Vec<(&[i32], &[T], Vec<usize>)> = starts
        .par_iter()
        .map(|&start| {
            let end = (start + ROWS_PER_TASK).min(n_rows);
            let (mut excluded, mut dropped) = (Excluded::default(), Vec::new());
            for row in start..end {
                excluded.load(Some(exclude), row);
                let labels = &indices[at(row)..at(row + 1)];
                find(labels, &excluded, at(row) - at(start), &mut dropped);
            }
            let span = at(start)..at(end);
            (&indices[span.clone()], &data[span], dropped)
        })
        .collect();

    let mut kept_indptr = with_room(n_rows + 1)?;
    kept_indptr.push(0);
    let mut n_dropped = 0;
    for (&start, (.., dropped)) in starts.iter().zip(&blocks) {
        let mut dropped = dropped.iter().peekable();
        for row in start..(start + ROWS_PER_TASK).min(n_rows) {
            while dropped.next_if(|&&position| at(start) + position < at(row + 1)).is_some() {
                n_dropped += 1;
            }
            kept_indptr.push((at(row + 1) - n_dropped) as i64);
        }
    }

    let mut rest = (kept_indices, kept_data);
    let mut tasks = Vec::with_capacity(blocks.len());
    for (labels, values, dropped) in blocks {
        let n = labels.len() - dropped.len();
        let (kept_labels, rest_labels) = rest.0.split_at_mut(n);
        let (kept_values, rest_values) = rest.1.split_at_mut(n);
        tasks.push((labels, kept_labels, values, kept_values, dropped));
        rest = (rest_labels, rest_values);
    }
    tasks.into_par_iter().for_each(|(labels, kept_labels, values, kept_values, dropped)| {
        copy_without(labels, &dropped, kept_labels);
        copy_without(values, &dropped, kept_values);
    });
    Ok(kept_indptr)
}

/// Ranked ids without the pairs in `exclude`: later ids move up, and rows are filled with -1.
///
/// `ids` holds `exclude.n_rows()` rows of `width` labels, row-major, padded with -1.
///
/// # Errors
/// [`Error::Length`] if `ids` does not make these rows; [`Error::Content`] for a label that
/// `exclude` has no column for, or after padding.
pub fn drop_pairs_ids<I: Id>(ids: &[I], width: usize, exclude: CsrPattern<'_>) -> Result<Vec<I>> {
    let expected = exclude.n_rows().saturating_mul(width);
    if ids.len() != expected {
        let (name, what, found) = ("ids".to_owned(), "labels", ids.len());
        return Err(Error::Length { name, what, expected, found });
    }
    let mut kept = vec![I::PADDING; ids.len()];
    let cells_per_task = width.max(1).saturating_mul(ROWS_PER_TASK);
    let done: Vec<Result<()>> = kept
        .par_chunks_mut(cells_per_task)
        .zip(ids.par_chunks(cells_per_task))
        .enumerate()
        .map(|(task, (kept, ids))| {
            let (mut excluded, mut scratch) = (Excluded::default(), Vec::new());
            let mut dropped = Vec::new();
            for (i, (kept, ids)) in kept.chunks_mut(width).zip(ids.chunks(width)).enumerate() {
                let row = task * ROWS_PER_TASK + i;
                let ids = without_padding(ids, exclude.n_cols())
                    .map_err(|fault| Error::at_row("ids", row, fault))?;
                excluded.load(Some(exclude), row);
                dropped.clear();
                find(I::labels(ids, &mut scratch), &excluded, 0, &mut dropped);
                copy_without(ids, &dropped, kept);
            }
            Ok(())
        })
        .collect();
    // In row order, so that the first faulty row is reported for any number of threads.
    done.into_iter().collect::<Result<()>>()?;
    Ok(kept)
}

/// Appends where excluded labels stand, counted from `start`, in rising order.
fn find(labels: &[i32], excluded: &Excluded, start: usize, positions: &mut Vec<usize>) {
    if excluded.len() > FEW {
        let found = (start..).zip(labels).filter(|(_, label)| excluded.contains(**label));
        return positions.extend(found.map(|(position, _)| position));
    }
    let before = positions.len();
    for wanted in excluded.iter() {
        // Most are not there, and counting, unlike searching, vectorises.
        if labels.iter().map(|&label| i32::from(label == wanted)).sum::<i32>() > 0 {
            let found = (start..).zip(labels).filter(|(_, label)| **label == wanted);
            positions.extend(found.map(|(position, _)| position));
        }
    }
    positions[before..].sort_unstable();
}

/// Copies what lies between the positions dropped.
fn copy_without<T: Copy>(from: &[T], dropped: &[usize], to: &mut [T]) {
    let (mut start, mut filled) = (0, 0);
    for &end in dropped.iter().chain([&from.len()]) {
        let piece = &from[start..end];
        to[filled..filled + piece.len()].copy_from_slice(piece);
        filled += piece.len();
        start = end + 1;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn rows_keep_their_order_and_move_up() {
        let (labels, scores) = ([9, 4, 0, 2, 4, 1], [9.0f32, 0.5, 0.5, 2.0, 1.0, 7.0]);
        // A window: the first and the last entry are not in it.
        let y_pred = CsrView::new("y_pred", 10, &[1, 3, 3, 5], &labels, &scores).unwrap();
        let exclude = CsrPattern::new("exclude", 10, &[0, 3, 4, 4], &[7, 4, 4, 2]).unwrap();
        let left = drop_pairs_csr(y_pred, exclude).unwrap();
        assert_eq!((left.indptr, left.indices), (vec![0, 1, 1, 3], vec![0, 2, 4]));
        assert_eq!(left.data, [0.5, 2.0, 1.0]);
        let ids = [4, 0, 7, 2, 4, -1, 5, -1, -1];
        let left = [0, -1, -1, 4, -1, -1, 5, -1, -1];
        assert_eq!(drop_pairs_ids(&ids, 3, exclude).unwrap(), left);
        assert_eq!(drop_pairs_ids(&ids.map(i64::from), 3, exclude).unwrap(), left.map(i64::from));
        assert!(drop_pairs_ids::<i32>(&[], 0, exclude).unwrap().is_empty());
    }

    #[test]
    fn errors() {
        let exclude = CsrPattern::new("exclude", 4, &[0, 1, 1], &[2]).unwrap();
        let message = |ids: &[i64]| drop_pairs_ids(ids, 2, exclude).unwrap_err().to_string();
        assert_eq!(message(&[1, 2]), "ids: 2 labels, expected 4");
        assert_eq!(message(&[1, 2, -1, 3]), "ids: row 1: label 3 after padding");
        assert_eq!(
            message(&[1, 2, 3, 1 << 32]),
            "ids: row 1: label 4294967296 out of range (n_labels = 4)"
        );
        let y_pred = CsrView::new("y_pred", 5, &[0, 0, 0], &[], &[0f64; 0]).unwrap();
        assert_eq!(
            drop_pairs_csr(y_pred, exclude).unwrap_err().to_string(),
            "exclude: 4 labels, expected 5"
        );
        let y_pred = CsrView::new("y_pred", 4, &[0, 0, 1], &[3], &[0f64]).unwrap();
        let error = drop_pairs_into(y_pred, exclude, &mut [0], &mut []).unwrap_err();
        assert_eq!(error.to_string(), "kept data: 0 entries, expected 1");
    }
}
