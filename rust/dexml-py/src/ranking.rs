//! Top-k of sparse and dense scores.

use numpy::PyUntypedArrayMethods;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use xmc_core::{Ranked, Score};

use crate::arrays::{
    CsrArgs, CsrArrays, PatternArgs, PatternArrays, Ranking, holds, matrix, moved_ranking,
};
use crate::border::{count, in_pool};

/// The k best stored entries of each row.
#[pyfunction]
#[pyo3(signature = (indptr, indices, data, n_labels, k, exclude=None, *, num_threads=None))]
#[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
pub(crate) fn topk_csr<'py>(
    py: Python<'py>,
    indptr: Bound<'py, PyAny>,
    indices: Bound<'py, PyAny>,
    data: Bound<'py, PyAny>,
    n_labels: i64,
    k: i64,
    exclude: Option<PatternArgs<'py>>,
    num_threads: Option<i64>,
) -> PyResult<Ranking<'py>> {
    let (n_labels, k) = (count("n_labels", n_labels)?, count("k", k)?);
    let double = holds::<f64>(&data);
    let scores = (indptr, indices, data);
    if double {
        topk_of::<f64>(py, &scores, n_labels, k, exclude.as_ref(), num_threads)
    } else {
        topk_of::<f32>(py, &scores, n_labels, k, exclude.as_ref(), num_threads)
    }
}

fn topk_of<'py, S: Score + numpy::Element>(
    py: Python<'py>,
    scores: &CsrArgs<'py>,
    n_labels: usize,
    k: usize,
    exclude: Option<&PatternArgs<'py>>,
    num_threads: Option<i64>,
) -> PyResult<Ranking<'py>> {
    let scores = CsrArrays::<S>::borrow("y_pred", scores)?;
    let exclude = exclude.map(|exclude| PatternArrays::borrow("exclude", exclude)).transpose()?;
    let scores = scores.slices()?;
    let exclude = exclude.as_ref().map(PatternArrays::slices).transpose()?;
    let (n_rows, top) = in_pool(py, num_threads, || {
        let scores = scores.check("y_pred", n_labels)?;
        let exclude = exclude.map(|exclude| exclude.check("exclude", n_labels)).transpose()?;
        Ok((scores.n_rows(), xmc_core::topk_csr(scores, k, exclude)?))
    })?;
    moved_ranking(py, n_rows, top)
}

/// The k best labels of each dense row.
#[pyfunction]
#[pyo3(signature = (scores, k, exclude=None, *, first_label=0, num_threads=None))]
pub(crate) fn topk_dense<'py>(
    py: Python<'py>,
    scores: Bound<'py, PyAny>,
    k: i64,
    exclude: Option<PatternArgs<'py>>,
    first_label: i64,
    num_threads: Option<i64>,
) -> PyResult<Ranking<'py>> {
    let (k, first_label) = (count("k", k)?, count("first_label", first_label)?);
    let scores = matrix::<f32>("scores", &scores)?;
    let (n_rows, n_labels) = (scores.shape()[0], scores.shape()[1]);
    let exclude = exclude.as_ref().map(|exclude| PatternArrays::borrow("exclude", exclude));
    let exclude = exclude.transpose()?;
    let scores = scores.as_slice()?;
    let exclude = exclude.as_ref().map(PatternArrays::slices).transpose()?;
    let top = in_pool(py, num_threads, || {
        // Excluded labels are global: those of other label blocks are in range as well.
        let any_label = i32::MAX as usize;
        let exclude = exclude.map(|exclude| exclude.check("exclude", any_label)).transpose()?;
        xmc_core::topk_dense(scores, n_rows, n_labels, k, exclude, first_label)
    })?;
    moved_ranking(py, n_rows, top)
}

/// The k best of two rankings over disjoint labels, row by row.
#[pyfunction]
pub(crate) fn merge_topk<'py>(
    py: Python<'py>,
    ids_a: Bound<'py, PyAny>,
    scores_a: Bound<'py, PyAny>,
    ids_b: Bound<'py, PyAny>,
    scores_b: Bound<'py, PyAny>,
    k: i64,
) -> PyResult<Ranking<'py>> {
    let k = count("k", k)?;
    let (ids_a, scores_a) = (matrix::<i32>("ids_a", &ids_a)?, matrix("scores_a", &scores_a)?);
    let (ids_b, scores_b) = (matrix::<i32>("ids_b", &ids_b)?, matrix("scores_b", &scores_b)?);
    let (shape_a, shape_b) = (ids_a.shape(), ids_b.shape());
    if shape_a[0] != shape_b[0] || scores_a.shape() != shape_a || scores_b.shape() != shape_b {
        let message = "rankings to merge must have equal rows, and ids the shape of their scores";
        return Err(PyValueError::new_err(message));
    }
    let (n_rows, width_a, width_b) = (shape_a[0], shape_a[1], shape_b[1]);
    let (ids_a, scores_a) = (ids_a.as_slice()?, scores_a.as_slice()?);
    let (ids_b, scores_b) = (ids_b.as_slice()?, scores_b.as_slice()?);
    let top = in_pool(py, None, || {
        let a = Ranked::new(n_rows, width_a, ids_a, scores_a)?;
        let b = Ranked::new(n_rows, width_b, ids_b, scores_b)?;
        xmc_core::merge_topk(n_rows, a, b, k)
    })?;
    moved_ranking(py, n_rows, top)
}
