//! Top-k of sparse and dense scores.

use numpy::{Element, PyArray1, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use xmc_core::{Error, Id, Ranked, Result, Score};

use crate::arrays::{
    CsrArgs, CsrArrays, PatternArgs, PatternArrays, Ranking, holds, matrix, moved, moved_ranking,
    vector, writable,
};
use crate::border::{count, detached, in_pool};

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

fn topk_of<'py, S: Score + Element>(
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

/// The rank of each score within its row.
#[pyfunction]
pub(crate) fn ranks_in_rows<'py>(
    py: Python<'py>,
    indptr: Bound<'py, PyAny>,
    scores: Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let (indptr, scores) = (vector::<i64>("indptr", &indptr)?, vector::<f32>("scores", &scores)?);
    let (indptr, scores) = (indptr.as_slice()?, scores.as_slice()?);
    let ranks = detached(py, || xmc_core::ranks_in_rows(indptr, scores))?;
    Ok(moved(py, ranks).into_any())
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

/// The k best of several rankings over disjoint labels, row by row.
#[pyfunction]
#[pyo3(signature = (ids, scores, k, *, num_threads=None))]
pub(crate) fn merge_topk<'py>(
    py: Python<'py>,
    ids: Vec<Bound<'py, PyAny>>,
    scores: Vec<Bound<'py, PyAny>>,
    k: i64,
    num_threads: Option<i64>,
) -> PyResult<Ranking<'py>> {
    let k = count("k", k)?;
    if ids.is_empty() || ids.len() != scores.len() {
        let (n_ids, n_scores) = (ids.len(), scores.len());
        let message =
            format!("{n_ids} shards of ids and {n_scores} of scores; give as many of both");
        return Err(PyValueError::new_err(message));
    }
    let mut arrays = Vec::with_capacity(ids.len());
    for (shard, (ids, scores)) in ids.iter().zip(&scores).enumerate() {
        let ids = matrix::<i32>(&format!("ids of shard {shard}"), ids)?;
        let scores = matrix::<f32>(&format!("scores of shard {shard}"), scores)?;
        arrays.push((ids, scores));
    }
    let n_rows = arrays[0].0.shape()[0];
    let mut shards = Vec::with_capacity(arrays.len());
    for (shard, (ids, scores)) in arrays.iter().enumerate() {
        if ids.shape() != scores.shape() || ids.shape()[0] != n_rows {
            let (ids, scores) = (ids.shape(), scores.shape());
            return Err(PyValueError::new_err(format!(
                "shard {shard}: ids {ids:?} and scores {scores:?}; expected equal shapes, \
                 {n_rows} rows"
            )));
        }
        shards.push((ids.shape()[1], ids.as_slice()?, scores.as_slice()?));
    }
    let top = in_pool(py, num_threads, || {
        let ranked = |&(width, ids, scores)| Ranked::new(n_rows, width, ids, scores);
        let shards: Vec<Ranked<'_>> = shards.iter().map(ranked).collect::<Result<_>>()?;
        xmc_core::merge_topk(n_rows, &shards, k)
    })?;
    moved_ranking(py, n_rows, top)
}

/// Writes the scores without excluded pairs into `kept`, indices and data with room for all; returns
/// the row pointers.
#[pyfunction]
#[pyo3(signature = (scores, n_labels, exclude, kept, *, num_threads=None))]
pub(crate) fn drop_pairs_csr<'py>(
    py: Python<'py>,
    scores: CsrArgs<'py>,
    n_labels: i64,
    exclude: PatternArgs<'py>,
    kept: PatternArgs<'py>,
    num_threads: Option<i64>,
) -> PyResult<Bound<'py, PyArray1<i64>>> {
    let n_labels = count("n_labels", n_labels)?;
    if holds::<f64>(&scores.2) {
        left_of::<f64>(py, &scores, n_labels, &exclude, &kept, num_threads)
    } else {
        left_of::<f32>(py, &scores, n_labels, &exclude, &kept, num_threads)
    }
}

fn left_of<'py, T: Element + Copy>(
    py: Python<'py>,
    scores: &CsrArgs<'py>,
    n_labels: usize,
    exclude: &PatternArgs<'py>,
    (indices, data): &PatternArgs<'py>,
    num_threads: Option<i64>,
) -> PyResult<Bound<'py, PyArray1<i64>>> {
    let scores = CsrArrays::<T>::borrow("y_pred", scores)?;
    let exclude = PatternArrays::borrow("exclude", exclude)?;
    let (scores, exclude) = (scores.slices()?, exclude.slices()?);
    let (mut indices, mut data) =
        (writable("kept indices", indices)?, writable("kept data", data)?);
    let (indices, data) = (indices.as_slice_mut()?, data.as_slice_mut()?);
    let indptr = in_pool(py, num_threads, || {
        let scores = scores.check("y_pred", n_labels)?;
        let exclude = exclude.check("exclude", n_labels)?;
        xmc_core::drop_pairs_into(scores, exclude, indices, data)
    })?;
    Ok(moved(py, indptr))
}

/// Ranked ids without excluded pairs.
#[pyfunction]
#[pyo3(signature = (ids, n_labels, exclude, *, num_threads=None))]
pub(crate) fn drop_pairs_ids<'py>(
    py: Python<'py>,
    ids: Bound<'py, PyAny>,
    n_labels: i64,
    exclude: PatternArgs<'py>,
    num_threads: Option<i64>,
) -> PyResult<Bound<'py, PyAny>> {
    let n_labels = count("n_labels", n_labels)?;
    if holds::<i64>(&ids) {
        left_ids::<i64>(py, &ids, n_labels, &exclude, num_threads)
    } else {
        left_ids::<i32>(py, &ids, n_labels, &exclude, num_threads)
    }
}

fn left_ids<'py, I: Id + Element>(
    py: Python<'py>,
    ids: &Bound<'py, PyAny>,
    n_labels: usize,
    exclude: &PatternArgs<'py>,
    num_threads: Option<i64>,
) -> PyResult<Bound<'py, PyAny>> {
    let ids = matrix::<I>("ids", ids)?;
    let exclude = PatternArrays::borrow("exclude", exclude)?;
    let shape = [ids.shape()[0], ids.shape()[1]];
    let (ids, exclude) = (ids.as_slice()?, exclude.slices()?);
    let left = in_pool(py, num_threads, || {
        let exclude = exclude.check("exclude", n_labels)?;
        if shape[0] != exclude.n_rows() {
            let (name, expected, found) = ("ids".to_owned(), exclude.n_rows(), shape[0]);
            return Err(Error::Length { name, what: "rows", expected, found });
        }
        xmc_core::drop_pairs_ids(ids, shape[1], exclude)
    })?;
    Ok(moved(py, left).reshape(shape)?.into_any())
}
