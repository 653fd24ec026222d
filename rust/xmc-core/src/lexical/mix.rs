//! Weighted sums of sparse rows.

use super::sums::Sums;
use super::{BLOCK_ROWS, LazyRows};
use crate::csr::{Csr, csr_from_parts};
use crate::error::{Error, Fault, Result};

/// Adds up rows: row i of the result is the sum of the rows `ids[i * width..(i + 1) * width]`, each
/// times its weight. -1 stands for no row.
///
/// Summed in `f64` in the order of the ids, and rounded once. Rows come out sorted.
///
/// # Errors
/// [`Error::Length`] if `ids` and `weights` differ in length or are no whole number of rows;
/// [`Error::Content`] for a weight that is not finite, an id out of range, and for a row that is named
/// and not ascending, out of range or not finite.
pub fn mix_rows(ids: &[i32], weights: &[f64], width: usize, rows: LazyRows<'_>) -> Result<Csr> {
    let n = ids.len().checked_div(width).unwrap_or(0);
    for (name, expected, found) in
        [("ids", n * width, ids.len()), ("weights", ids.len(), weights.len())]
    {
        if expected != found {
            let (name, what) = (name.to_owned(), "values");
            return Err(Error::Length { name, what, expected, found });
        }
    }
    let scratch = || Sums::new(rows.n_cols());
    csr_from_parts((n, rows.n_cols()), BLOCK_ROWS, &|| true, scratch, |sums, block, part| {
        for at in block {
            let span = at * width..(at + 1) * width;
            for (&id, &weight) in ids[span.clone()].iter().zip(&weights[span]) {
                if id == -1 {
                    continue;
                }
                if id as u32 as usize >= rows.n_rows() {
                    let (label, n_labels) = (id.to_string(), rows.n_rows());
                    return Err(Error::at_row(
                        "ids",
                        at,
                        Fault::LabelOutOfRange { label, n_labels },
                    ));
                }
                if !weight.is_finite() {
                    return Err(Error::at_row("weights", at, Fault::NotFinite { label: id }));
                }
                let (others, values) = rows.checked(id as usize)?;
                sums.add(others, values, weight)?;
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
    fn sums_of_rows() {
        let rows =
            LazyRows::new("m", 4, &[0, 2, 2, 4], &[0, 3, 1, 3], &[1.0, 2.0, 4.0, 8.0]).unwrap();
        let mixed = mix_rows(&[0, 2, 1, -1], &[0.5, 2.0, 1.0, f64::NAN], 2, rows).unwrap();
        assert_eq!((mixed.n_cols, mixed.indptr), (4, vec![0, 3, 3]));
        assert_eq!((mixed.indices, mixed.data), (vec![0, 1, 3], vec![0.5, 8.0, 17.0]));
        assert_eq!(mix_rows(&[], &[], 0, rows).unwrap().n_rows(), 0);

        let message = |ids: &[i32], weights: &[f64], width| {
            mix_rows(ids, weights, width, rows).unwrap_err().to_string()
        };
        assert_eq!(message(&[0; 3], &[0.0; 3], 2), "ids: 3 values, expected 2");
        assert_eq!(message(&[0; 2], &[0.0; 3], 2), "weights: 3 values, expected 2");
        assert_eq!(message(&[3], &[0.0], 1), "ids: row 0: label 3 out of range (n_labels = 3)");
        let nan = message(&[2], &[f64::NAN], 1);
        assert_eq!(nan, "weights: row 0: value is not finite (label 2)");
    }

    #[test]
    fn only_named_rows_are_checked() {
        let (indptr, indices, data) = ([0, 1, 3, 9, 4], [5, 1, 0, 0], [1.0, 1.0, 1.0, f32::NAN]);
        let rows = LazyRows::new("m", 4, &indptr, &indices, &data).unwrap();
        let message = |id| mix_rows(&[id], &[1.0], 1, rows).unwrap_err().to_string();
        assert_eq!(message(0), "m: row 0: feature 5 out of range (n_features = 4)");
        assert_eq!(message(1), "m: row 1: column 0 is not in ascending order");
        let pointer = "indptr decreases or points outside the 4 stored entries";
        assert_eq!(message(2), format!("m: row 2: {pointer}"));
        assert_eq!(message(3), format!("m: row 3: {pointer}"));
        let rows = LazyRows::new("m", 4, &[3, 4], &indices, &data).unwrap();
        let fault = mix_rows(&[0], &[1.0], 1, rows).unwrap_err().to_string();
        assert_eq!(fault, "m: row 0: value is not finite (feature 0)");
    }
}
