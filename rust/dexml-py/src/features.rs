//! Rows of features as texts.

use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use xmc_core::lexical;

use crate::arrays::{CsrArgs, CsrArrays};
use crate::border::{count, detached};

/// A text for each row, `17:0.25 40:1`.
#[pyfunction]
pub(crate) fn feature_texts(
    py: Python<'_>,
    rows: CsrArgs<'_>,
    n_features: i64,
) -> PyResult<Vec<String>> {
    let n_features = count("n_features", n_features)?;
    let rows = CsrArrays::<f32>::borrow("features", &rows)?;
    let rows = rows.slices()?;
    detached(py, || {
        let rows = rows.check_features("features", n_features)?;
        let text = |row| {
            let (columns, values) = rows.row(row);
            lexical::feature_text(columns, values)
        };
        Ok((0..rows.n_rows()).map(text).collect())
    })
}

/// The first text that is not a row of features, and the token that is none.
#[pyfunction]
pub(crate) fn not_a_feature(texts: Vec<PyBackedStr>) -> Option<(usize, String)> {
    texts.iter().enumerate().find_map(|(at, text)| {
        lexical::not_a_feature(text).map(|token| (at, token.chars().take(40).collect()))
    })
}
