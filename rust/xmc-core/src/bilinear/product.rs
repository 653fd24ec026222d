//! Products of sparse matrices, row by row.

use crate::csr::{Csr, CsrView, csr_from_parts};
use crate::error::Result;
use crate::lexical::{BLOCK_ROWS, LazyRows, Sums, check_columns};

/// The product of two sparse matrices: row i is the sum of the rows of `right` that row i of `left` names by its
/// columns, each times its value.
///
/// Summed in `f64` by ascending column of `left` and rounded once. Rows come out sorted. Only rows of `right`
/// that are named are looked at, and checked unless they are to be trusted.
///
/// # Errors
/// [`Error::Length`](crate::Error::Length) if `left` has not as many columns as `right` rows;
/// [`Error::Content`](crate::Error::Content) for a row that is not ascending or a value that is not finite;
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
pub fn multiply_rows<'a>(left: CsrView<'_>, right: impl Into<LazyRows<'a>>) -> Result<Csr> {
    let right = right.into();
    check_columns(left, right.n_rows())?;
    crate::lexical::check_rows(left)?;
    let scratch = || Sums::new(right.n_cols());
    let shape = (left.n_rows(), right.n_cols());
    csr_from_parts(shape, BLOCK_ROWS, &|| true, scratch, |sums, block, part| {
        for row in block {
            let (columns, values) = left.row(row);
            for (&column, &value) in columns.iter().zip(values) {
                let (others, theirs) = right.read(column as usize)?;
                sums.add(others, theirs, f64::from(value))?;
            }
            sums.push_to(part)?;
        }
        Ok(())
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn products() {
        let left = CsrView::of_features("x", 3, &[0, 2, 2], &[0, 2], &[2.0, -1.0]).unwrap();
        let right =
            CsrView::of_features("w", 4, &[0, 2, 2, 4], &[1, 3, 0, 3], &[1.0, 2.0, 5.0, 4.0]);
        let product = multiply_rows(left, right.unwrap()).unwrap();
        assert_eq!((product.n_cols, product.indptr), (4, vec![0, 3, 3]));
        assert_eq!((product.indices, product.data), (vec![0, 1, 3], vec![-5.0, 2.0, 0.0]));
        let narrow = CsrView::of_features("w", 4, &[0, 0], &[], &[]).unwrap();
        let message = multiply_rows(left, narrow).unwrap_err().to_string();
        assert_eq!(message, "x: 3 features, expected 1");
    }
}
