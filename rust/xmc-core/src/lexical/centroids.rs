//! Labels as the mean of their points.

use super::{BLOCK_ROWS, check_rows};
use crate::csr::{Csr, CsrView, csr_from_parts};
use crate::error::{Error, Result};
use crate::memory::zeroed;
use crate::positives::Rows;
use crate::rank::{Score, keep_best};

/// Averages the rows of each label's points, divides by the Euclidean length, and keeps the
/// `max_terms` largest weights (equal ones by the smaller column): (labels x features), sorted.
///
/// Values of `y` above 0 are positives. A label without points has an empty row. A row that was cut
/// is not divided again: an inner product with it is a cosine less what the dropped weights would
/// have added. Sums run over points in ascending order, in `f64`.
///
/// # Errors
/// [`Error::Parameter`] for `max_terms` of 0; [`Error::Length`] if `y` has another number of rows, or
/// 2^32 positives or more; [`Error::Content`] for a row that is not ascending, a value that is not
/// finite, or a bad truth; [`Error::Interrupted`].
pub fn label_centroids(
    rows: CsrView<'_>,
    y: CsrView<'_>,
    max_terms: usize,
    keep_going: &(dyn Fn() -> bool + Sync),
) -> Result<Csr> {
    if max_terms == 0 {
        let (name, rule) = ("max_terms", "must be at least 1");
        return Err(Error::Parameter { name, rule, value: 0.to_string() });
    }
    y.pattern().check_shape(rows.n_rows(), y.n_cols())?;
    check_rows(rows)?;
    let points = Rows::of_positives(y, usize::MAX)?.transposed(y.n_cols())?;
    csr_from_parts(
        (y.n_cols(), rows.n_cols()),
        BLOCK_ROWS,
        keep_going,
        || Ok(Scratch { sums: zeroed(rows.n_cols())?, ..Scratch::default() }),
        |scratch, labels, part| {
            for label in labels {
                scratch.average(rows, points.row(label));
                scratch.cut(max_terms);
                part.push_row(scratch.keys.iter().map(|&key| (f32::label(key), f32::score(key))))?;
            }
            Ok(())
        },
    )
}

/// Memory of one thread.
#[derive(Default)]
struct Scratch {
    /// A sum for each column; all 0 between labels.
    sums: Vec<f64>,
    /// Columns that may have a sum.
    touched: Vec<i32>,
    keys: Vec<u64>,
}

impl Scratch {
    /// Leaves the keys of the unit mean of some rows in `keys`.
    fn average(&mut self, rows: CsrView<'_>, points: &[u32]) {
        let Self { sums, touched, keys } = self;
        touched.clear();
        for &point in points {
            let (columns, values) = rows.row(point as usize);
            for (&column, &value) in columns.iter().zip(values) {
                let sum = &mut sums[column as usize];
                if *sum == 0.0 {
                    touched.push(column);
                }
                *sum += f64::from(value);
            }
        }
        // In ascending order; a sum that passed through 0 was noted twice.
        touched.sort_unstable();
        touched.dedup();
        let squares = touched.iter().map(|&column| sums[column as usize] * sums[column as usize]);
        let norm = squares.sum::<f64>().sqrt();
        keys.clear();
        for &column in &*touched {
            let weight = (std::mem::take(&mut sums[column as usize]) / norm) as f32;
            if weight != 0.0 && norm > 0.0 {
                keys.push(weight.key(column));
            }
        }
    }

    /// Keeps the largest weights, in the order of their columns.
    fn cut(&mut self, max_terms: usize) {
        keep_best(&mut self.keys, max_terms);
        self.keys.sort_unstable_by_key(|&key| f32::label(key));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const INDPTR: [i64; 4] = [0, 2, 3, 4];
    const COLUMNS: [i32; 4] = [0, 3, 3, 1];
    const VALUES: [f32; 4] = [3.0, 2.0, 2.0, 1.0];

    fn centroids(indptr: &[i64], labels: &[i32], values: &[f32], max_terms: usize) -> Result<Csr> {
        let rows = CsrView::of_features("rows", 4, &INDPTR, &COLUMNS, &VALUES)?;
        label_centroids(rows, CsrView::new("y", 3, indptr, labels, values)?, max_terms, &|| true)
    }

    #[test]
    fn means_of_points() {
        // Label 0: points 0 and 1; label 2: point 2; label 1: a stored 0.
        let y = (&[0, 2, 3, 4][..], &[0, 1, 0, 2][..], &[1.0, 0.0, 1.0, 1.0][..]);
        let all = centroids(y.0, y.1, y.2, 9).unwrap();
        assert_eq!((all.n_cols, all.indptr), (4, vec![0, 2, 2, 3]));
        assert_eq!((all.indices, all.data), (vec![0, 3, 1], vec![0.6, 0.8, 1.0]));
        let one = centroids(y.0, y.1, y.2, 1).unwrap();
        assert_eq!((one.indices, one.data), (vec![3, 1], vec![0.8, 1.0]));
    }

    #[test]
    fn equal_weights_go_by_column_and_cancelled_sums_vanish() {
        let rows = |values: &'static [f32]| {
            CsrView::of_features("rows", 4, &[0, 2, 4], &[1, 2, 1, 2], values).unwrap()
        };
        let y = CsrView::new("y", 1, &[0, 1, 2], &[0, 0], &[1.0; 2]).unwrap();
        let cut = label_centroids(rows(&[1.0; 4]), y, 1, &|| true).unwrap();
        assert_eq!(cut.indices, [1]);
        let gone = label_centroids(rows(&[1.0, 1.0, -1.0, -1.0]), y, 9, &|| true).unwrap();
        assert_eq!((gone.indptr, gone.indices), (vec![0, 0], vec![]));
    }

    #[test]
    fn errors() {
        let message = |indptr: &[i64], labels: &[i32], values: &[f32], m| {
            centroids(indptr, labels, values, m).unwrap_err().to_string()
        };
        assert_eq!(message(&[0; 4], &[], &[], 0), "max_terms must be at least 1, not 0");
        assert_eq!(message(&[0; 3], &[], &[], 1), "y: 2 rows, expected 3");
        let nan = message(&[0, 1, 1, 1], &[0], &[f32::NAN], 1);
        assert_eq!(nan, "y: row 0: truth value of label 0 must be >= 0, not NaN");
    }
}
