//! Sparse matrices side by side.

use super::tfidf::make_unit;
use super::{BLOCK_ROWS, check_rows};
use crate::csr::{Csr, CsrView, csr_from_parts};
use crate::error::{Error, Result};

/// Puts matrices side by side, each multiplied by its weight, and with `unit` divides every row by
/// its Euclidean length (empty rows stay empty). Rows come out sorted.
///
/// # Errors
/// [`Error::Length`] if the matrices differ in rows; [`Error::Parameter`] for no matrix, a weight that
/// is not finite, or 2^31 columns or more; [`Error::Content`] for a row that is not ascending or a value
/// that is not finite.
pub fn join_rows(parts: &[(CsrView<'_>, f32)], unit: bool) -> Result<Csr> {
    let Some((first, _)) = parts.first() else {
        let (name, rule) = ("parts", "must hold at least one matrix");
        return Err(Error::Parameter { name, rule, value: "none".to_owned() });
    };
    let mut offsets = Vec::with_capacity(parts.len());
    let mut n_cols = 0usize;
    for (rows, weight) in parts {
        if !weight.is_finite() {
            let (name, rule) = ("weights", "must be finite");
            return Err(Error::Parameter { name, rule, value: weight.to_string() });
        }
        if rows.n_rows() != first.n_rows() {
            let (expected, found) = (first.n_rows(), rows.n_rows());
            return Err(Error::Length {
                name: rows.name().to_owned(),
                what: "rows",
                expected,
                found,
            });
        }
        check_rows(*rows)?;
        offsets.push(n_cols as i32);
        n_cols += rows.n_cols();
        if n_cols > i32::MAX as usize {
            let (name, rule) = ("n_features", "must be below 2^31");
            return Err(Error::Parameter { name, rule, value: n_cols.to_string() });
        }
    }
    csr_from_parts(
        (first.n_rows(), n_cols),
        BLOCK_ROWS,
        &|| true,
        || Ok(Vec::new()),
        |entries: &mut Vec<(i32, f64)>, block, part| {
            for row in block {
                entries.clear();
                for ((rows, weight), offset) in parts.iter().zip(&offsets) {
                    let (columns, values) = rows.row(row);
                    entries.extend(columns.iter().zip(values).map(|(&column, &value)| {
                        (offset + column, f64::from(*weight) * f64::from(value))
                    }));
                }
                if unit {
                    make_unit(entries);
                }
                part.push_row(entries.iter().map(|&(column, value)| (column, value as f32)))?;
            }
            Ok(())
        },
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn side_by_side() {
        let a = CsrView::of_features("a", 2, &[0, 1, 1, 1], &[1], &[3.0]).unwrap();
        let b = CsrView::of_features("b", 3, &[0, 1, 2, 2], &[0, 2], &[8.0, 5.0]).unwrap();
        let joined = join_rows(&[(a, 1.0), (b, 0.5)], false).unwrap();
        assert_eq!((joined.n_cols, joined.indptr), (5, vec![0, 2, 3, 3]));
        assert_eq!((joined.indices, joined.data), (vec![1, 2, 4], vec![3.0, 4.0, 2.5]));
        assert_eq!(join_rows(&[(a, 1.0), (b, 0.5)], true).unwrap().data, [0.6, 0.8, 1.0]);
    }

    #[test]
    fn errors() {
        let view =
            |indptr, indices, data| CsrView::of_features("m", 9, indptr, indices, data).unwrap();
        let good = view(&[0, 1], &[1], &[1.0]);
        let message =
            |parts: &[(CsrView<'_>, f32)]| join_rows(parts, true).unwrap_err().to_string();
        assert_eq!(message(&[]), "parts must hold at least one matrix, not none");
        assert_eq!(message(&[(good, f32::NAN)]), "weights must be finite, not NaN");
        assert_eq!(message(&[(good, 1.0), (view(&[0], &[], &[]), 1.0)]), "m: 0 rows, expected 1");
        let order = "m: row 0: column 1 is not in ascending order";
        assert_eq!(message(&[(view(&[0, 2], &[2, 1], &[1.0; 2]), 1.0)]), order);
        assert_eq!(message(&[(view(&[0, 2], &[1, 1], &[1.0; 2]), 1.0)]), order);
        let inf = message(&[(view(&[0, 1], &[2], &[f32::INFINITY]), 1.0)]);
        assert_eq!(inf, "m: row 0: value is not finite (feature 2)");
        let wide = CsrView::<f32>::of_features("m", i32::MAX as usize, &[0], &[], &[]).unwrap();
        assert!(message(&[(wide, 1.0), (wide, 1.0)]).starts_with("n_features must be below 2^31"));
        let range = CsrView::of_features("m", 1, &[0, 1], &[1], &[1.0]).unwrap_err().to_string();
        assert_eq!(range, "m: row 0: feature 1 out of range (n_features = 1)");
    }
}
