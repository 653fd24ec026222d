//! Scores of given pairs of sparse rows.

use rayon::prelude::*;

use super::lazy::{FETCHED, LazyRows, Terms};
use super::{BLOCK_ROWS, check_columns, check_rows};
use crate::bitmap::Bitmap;
use crate::csr::{CsrPattern, CsrView};
use crate::error::Result;
use crate::memory::{with_room, zeroed};

/// The inner products of given pairs: one for each stored entry of `pairs` (queries x rows), in the
/// order of its entries; 0 where nothing is in common.
///
/// Summed in `f64` by ascending column and rounded once, so that a score is equal, bit for bit, to
/// that of [`InvertedIndex::search`](super::InvertedIndex::search). Only rows that a pair names are
/// looked at, and checked.
///
/// # Errors
/// [`Error::Length`](crate::Error::Length) if shapes disagree; [`Error::Content`](crate::Error::Content)
/// for a query, or a row that a pair names, that is not ascending, out of range or not finite.
pub fn pair_scores<'a>(
    queries: CsrView<'_>,
    rows: impl Into<LazyRows<'a>>,
    pairs: CsrPattern<'_>,
) -> Result<Vec<f32>> {
    let rows = rows.into();
    check_columns(queries, rows.n_cols())?;
    pairs.check_shape(queries.n_rows(), rows.n_rows())?;
    check_rows(queries)?;

    let n_blocks = queries.n_rows().div_ceil(BLOCK_ROWS);
    let block_rows = |block: usize| {
        let first = block * BLOCK_ROWS;
        first..(first + BLOCK_ROWS).min(queries.n_rows())
    };
    let n_pairs = |block| block_rows(block).map(|row| pairs.row(row).len()).sum::<usize>();
    let lengths: Vec<usize> = (0..n_blocks).map(n_pairs).collect();
    let mut scores = zeroed(lengths.iter().sum())?;
    let mut blocks = with_room(n_blocks)?;
    let mut rest = &mut scores[..];
    for (block, &length) in lengths.iter().enumerate() {
        let (cells, tail) = rest.split_at_mut(length);
        blocks.push((block_rows(block), cells));
        rest = tail;
    }
    let done: Vec<Result<()>> = blocks
        .into_par_iter()
        .map_init(Terms::default, |terms, (block, cells)| {
            let mut cells = cells.iter_mut();
            let mut seen = Bitmap::new(rows.n_rows())?;
            for row in block {
                let (columns, values) = queries.row(row);
                terms.load(columns, values)?;
                for others in pairs.row(row).chunks(FETCHED) {
                    rows.fetch(others)?;
                    for (&other, cell) in others.iter().zip(&mut cells) {
                        // Checked just before it is used: a row comes from far away, but once.
                        let fresh = seen.insert(other);
                        let other = other as usize;
                        let (columns, values) =
                            if fresh { rows.read(other)? } else { rows.get(other)? };
                        *cell = terms.product(columns, values);
                    }
                }
            }
            Ok(())
        })
        .collect();
    done.into_iter().collect::<Result<()>>()?;
    Ok(scores)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn products_of_pairs() {
        let queries = CsrView::of_features("q", 3, &[0, 2, 2], &[0, 2], &[2.0, 3.0]).unwrap();
        let rows =
            CsrView::of_features("rows", 3, &[0, 1, 3, 3], &[1, 0, 2], &[5.0, 0.5, -1.0]).unwrap();
        let pairs = CsrPattern::new("pairs", 3, &[0, 3, 4], &[2, 1, 1, 1]).unwrap();
        assert_eq!(pair_scores(queries, rows, pairs).unwrap(), [0.0, -2.0, -2.0, 0.0]);

        let message = |pairs| pair_scores(queries, rows, pairs).unwrap_err().to_string();
        let narrow = CsrPattern::new("pairs", 2, &[0, 0, 0], &[]).unwrap();
        assert_eq!(message(narrow), "pairs: 2 labels, expected 3");
        let short = CsrPattern::new("pairs", 3, &[0, 0], &[]).unwrap();
        assert_eq!(message(short), "pairs: 1 rows, expected 2");
        let other = CsrView::of_features("rows", 4, &[0], &[], &[]).unwrap();
        let columns = pair_scores(queries, other, pairs).unwrap_err().to_string();
        assert_eq!(columns, "q: 3 features, expected 4");
    }
}
