//! Scores of given pairs of sparse rows.

use rayon::prelude::*;

use super::{BLOCK_ROWS, check_columns, check_rows};
use crate::csr::{CsrPattern, CsrView};
use crate::error::Result;
use crate::memory::{with_room, zeroed};

/// The inner products of given pairs: one for each stored entry of `pairs` (queries x rows), in the
/// order of its entries; 0 where nothing is in common.
///
/// Summed in `f64` by ascending column and rounded once, so that a score is equal, bit for bit, to
/// that of [`InvertedIndex::search`](super::InvertedIndex::search).
///
/// # Errors
/// [`Error::Length`](crate::Error::Length) if shapes disagree; [`Error::Content`](crate::Error::Content)
/// for a row that is not ascending or a value that is not finite.
pub fn pair_scores(
    queries: CsrView<'_>,
    rows: CsrView<'_>,
    pairs: CsrPattern<'_>,
) -> Result<Vec<f32>> {
    check_columns(queries, rows.n_cols())?;
    pairs.check_shape(queries.n_rows(), rows.n_rows())?;
    check_rows(queries)?;
    check_rows(rows)?;

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
        .map_init(
            || None,
            |slot, (block, cells)| {
                let query = match slot {
                    Some(query) => query,
                    None => slot.insert(zeroed::<f32>(rows.n_cols())?),
                };
                let mut cells = cells.iter_mut();
                for row in block {
                    let (columns, values) = queries.row(row);
                    for (&column, &value) in columns.iter().zip(values) {
                        query[column as usize] = value;
                    }
                    for (&other, cell) in pairs.row(row).iter().zip(&mut cells) {
                        *cell = product(query, rows.row(other as usize));
                    }
                    for &column in columns {
                        query[column as usize] = 0.0;
                    }
                }
                Ok(())
            },
        )
        .collect();
    done.into_iter().collect::<Result<()>>()?;
    Ok(scores)
}

/// The inner product of a dense and a sparse row.
fn product(query: &[f32], (columns, values): (&[i32], &[f32])) -> f32 {
    let products = columns.iter().zip(values);
    let products = products.map(|(&at, &value)| f64::from(query[at as usize]) * f64::from(value));
    // From 0.0, for an empty sum of floats is -0.0.
    products.fold(0.0, |sum, product| sum + product) as f32
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
