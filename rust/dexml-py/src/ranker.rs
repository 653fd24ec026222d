//! The learned ranker of candidates.

use numpy::ndarray::Ix3;
use numpy::{PyArray1, PyArray2, PyArray3, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use xmc_core::{Candidates, RankerOptions, RankerView};

use crate::arrays::{borrow, matrix, moved, vector};
use crate::border::{count, in_pool, interruptible};

/// Mean, deviation, linear, output, weights and bias, with the shapes that `_rust.pyi` states.
type RankerArrays<'py> = (
    Bound<'py, PyArray1<f32>>,
    Bound<'py, PyArray1<f32>>,
    Bound<'py, PyArray2<f32>>,
    Bound<'py, PyArray2<f32>>,
    Bound<'py, PyArray3<f32>>,
    Bound<'py, PyArray2<f32>>,
);
/// The same, as Python passes them.
type RankerArgs<'py> = (
    Bound<'py, PyAny>,
    Bound<'py, PyAny>,
    Bound<'py, PyAny>,
    Bound<'py, PyAny>,
    Bound<'py, PyAny>,
    Bound<'py, PyAny>,
);

/// Trains a ranker on the candidates of queries.
#[pyfunction]
#[pyo3(signature = (
    features, indptr, positive, *, hidden, n_members, epochs, batch, learning_rate, decay, seed,
    weights=None, queries=None, non_negative=false, sampled=false, num_threads=None
))]
#[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
pub(crate) fn fit_ranker<'py>(
    py: Python<'py>,
    features: Bound<'py, PyAny>,
    indptr: Bound<'py, PyAny>,
    positive: Bound<'py, PyAny>,
    hidden: i64,
    n_members: i64,
    epochs: i64,
    batch: i64,
    learning_rate: f64,
    decay: f64,
    seed: u64,
    weights: Option<Bound<'py, PyAny>>,
    queries: Option<Bound<'py, PyAny>>,
    non_negative: bool,
    sampled: bool,
    num_threads: Option<i64>,
) -> PyResult<RankerArrays<'py>> {
    let options = RankerOptions {
        hidden: count("hidden", hidden)?,
        n_members: count("n_members", n_members)?,
        epochs: count("epochs", epochs)?,
        batch: count("batch", batch)?,
        learning_rate,
        decay,
        non_negative,
        sampled,
        seed,
    };
    let features = matrix::<f32>("features", &features)?;
    let indptr = vector::<i64>("indptr", &indptr)?;
    let positive = vector::<bool>("positive", &positive)?;
    let weights = weights.map(|weights| vector::<f32>("weights", &weights)).transpose()?;
    let queries = queries.map(|queries| vector::<i64>("queries", &queries)).transpose()?;
    let n_features = features.shape()[1];
    check_rows(features.shape(), positive.len())?;
    let candidates = Candidates {
        features: features.as_slice()?,
        n_features,
        indptr: indptr.as_slice()?,
        positive: positive.as_slice()?,
        weights: weights.as_ref().map(|weights| weights.as_slice()).transpose()?,
        queries: queries.as_ref().map(|queries| queries.as_slice()).transpose()?,
    };
    let ranker = interruptible(py, num_threads, |keep_going| {
        xmc_core::fit_ranker(&candidates, &options, keep_going)
    })?;
    let (n, hidden) = (options.n_members, options.hidden);
    Ok((
        moved(py, ranker.mean),
        moved(py, ranker.deviation),
        moved(py, ranker.linear).reshape([n, n_features])?,
        moved(py, ranker.output).reshape([n, hidden])?,
        moved(py, ranker.weights).reshape([n, hidden, n_features])?,
        moved(py, ranker.bias).reshape([n, hidden])?,
    ))
}

/// Scores pairs with a trained ranker.
#[pyfunction]
#[pyo3(signature = (ranker, features, *, num_threads=None))]
pub(crate) fn score_ranker<'py>(
    py: Python<'py>,
    ranker: RankerArgs<'py>,
    features: Bound<'py, PyAny>,
    num_threads: Option<i64>,
) -> PyResult<Bound<'py, PyArray1<f32>>> {
    let features = matrix::<f32>("features", &features)?;
    let (mean, deviation) =
        (vector::<f32>("mean", &ranker.0)?, vector::<f32>("deviation", &ranker.1)?);
    let (linear, output) =
        (matrix::<f32>("linear", &ranker.2)?, matrix::<f32>("output", &ranker.3)?);
    let (weights, bias) =
        (borrow::<f32, Ix3>("weights", &ranker.4)?, matrix::<f32>("bias", &ranker.5)?);
    let (n_members, n_features) = (linear.shape()[0], linear.shape()[1]);
    let hidden = output.shape()[1];
    for (name, found, expected) in [
        ("features", features.shape(), &[features.shape()[0], n_features][..]),
        ("mean", mean.shape(), &[n_features]),
        ("output", output.shape(), &[n_members, hidden]),
        ("weights", weights.shape(), &[n_members, hidden, n_features]),
        ("bias", bias.shape(), &[n_members, hidden]),
    ] {
        if found != expected {
            let message = format!("{name}: shape {found:?}, expected {expected:?}");
            return Err(PyValueError::new_err(message));
        }
    }
    let standard = [mean.as_slice()?, deviation.as_slice()?];
    let networks = [linear.as_slice()?, output.as_slice()?, weights.as_slice()?, bias.as_slice()?];
    let features = features.as_slice()?;
    let scores = in_pool(py, num_threads, || {
        let ranker = RankerView::new(n_members, hidden, standard, networks)?;
        xmc_core::score_ranker(&ranker, features)
    })?;
    Ok(moved(py, scores))
}

/// An error if a matrix has another number of rows.
fn check_rows(shape: &[usize], n_rows: usize) -> PyResult<()> {
    if shape[0] == n_rows {
        return Ok(());
    }
    let message = format!("features: {} rows, but positive has {n_rows}", shape[0]);
    Err(PyValueError::new_err(message))
}
