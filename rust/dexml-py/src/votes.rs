//! Label scores mixed with the votes of neighbouring training points.

use numpy::PyUntypedArrayMethods;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use xmc_core::{Ranked, Vectors, Votes};

use crate::arrays::{PatternArgs, PatternArrays, Ranking, matrix, moved_ranking, vector};
use crate::border::{count, in_pool};

/// Ranked columns of Python: ids and scores, both (n, width).
type Columns<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>);

/// Ranks by score + weight * votes.
#[pyfunction]
#[pyo3(signature = (
    queries, vectors, neighbours, y, plain, k, *, weight, exclude=None, only=None, num_threads=None
))]
#[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
pub(crate) fn mix_votes<'py>(
    py: Python<'py>,
    queries: Bound<'py, PyAny>,
    vectors: Bound<'py, PyAny>,
    neighbours: Columns<'py>,
    y: PatternArgs<'py>,
    plain: Columns<'py>,
    k: i64,
    weight: f32,
    exclude: Option<PatternArgs<'py>>,
    only: Option<Bound<'py, PyAny>>,
    num_threads: Option<i64>,
) -> PyResult<Ranking<'py>> {
    let k = count("k", k)?;
    let (queries, vectors) =
        (matrix::<f32>("queries", &queries)?, matrix::<f32>("vectors", &vectors)?);
    let (n_rows, dim) = (queries.shape()[0], queries.shape()[1]);
    let (n_labels, label_dim) = (vectors.shape()[0], vectors.shape()[1]);
    if dim != label_dim {
        let message = format!("queries have {dim} dimensions, but vectors {label_dim}");
        return Err(PyValueError::new_err(message));
    }
    let near =
        (matrix::<i32>("neighbours", &neighbours.0)?, matrix::<f32>("votes", &neighbours.1)?);
    let best = (matrix::<i32>("plain ids", &plain.0)?, matrix::<f32>("plain scores", &plain.1)?);
    for (name, ids, scores) in
        [("neighbours", near.0.shape(), near.1.shape()), ("plain", best.0.shape(), best.1.shape())]
    {
        if ids != scores || ids[0] != n_rows {
            return Err(PyValueError::new_err(format!(
                "{name}: shapes {ids:?} and {scores:?}; expected equal ones, {n_rows} rows"
            )));
        }
    }
    let y = PatternArrays::borrow("y", &y)?;
    let exclude = exclude.as_ref().map(|exclude| PatternArrays::borrow("exclude", exclude));
    let exclude = exclude.transpose()?;
    let only = only.map(|only| vector::<bool>("only", &only)).transpose()?;

    let (width, b) = (best.0.shape()[1], near.0.shape()[1]);
    let (queries, labels, y) = (queries.as_slice()?, vectors.as_slice()?, y.slices()?);
    let (near, best) =
        ((near.0.as_slice()?, near.1.as_slice()?), (best.0.as_slice()?, best.1.as_slice()?));
    let exclude = exclude.as_ref().map(PatternArrays::slices).transpose()?;
    let only = only.as_ref().map(|only| only.as_slice()).transpose()?;
    let top = in_pool(py, num_threads, || {
        let exclude = exclude.map(|exclude| exclude.check("exclude", n_labels)).transpose()?;
        let neighbours = Ranked::new(n_rows, b, near.0, near.1)?;
        let plain = Ranked::new(n_rows, width, best.0, best.1)?;
        let votes = Votes { neighbours, y: y.check("y", n_labels)?, weight };
        let vectors = Vectors { queries, labels, dim };
        xmc_core::mix_votes(&votes, plain, &vectors, k, exclude, only)
    })?;
    moved_ranking(py, n_rows, top)
}
