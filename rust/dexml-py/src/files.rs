//! Files, matrices from outside, and label weights.

use std::path::PathBuf;

use numpy::PyArray1;
use pyo3::prelude::*;
use xmc_core::{ParseOptions, check_matrix};

use crate::arrays::{CsrArrays, moved, vector};
use crate::border::{count, detached, interruptible};

type Vector<'py, T> = Bound<'py, PyArray1<T>>;
type Loaded<'py> = ((usize, usize), Vector<'py, i64>, Vector<'py, i32>, Vector<'py, f32>);

/// Read label text: shape, indptr, indices, data.
#[pyfunction]
#[pyo3(signature = (path, *, missing_value=None, num_threads=None))]
pub(crate) fn load_labels(
    py: Python<'_>,
    path: PathBuf,
    missing_value: Option<f32>,
    num_threads: Option<i64>,
) -> PyResult<Loaded<'_>> {
    let csr = interruptible(py, num_threads, |keep_going| {
        xmc_core::load_labels(&path, ParseOptions { missing_value, keep_going })
    })?;
    let shape = (csr.n_rows(), csr.n_cols);
    Ok((shape, moved(py, csr.indptr), moved(py, csr.indices), moved(py, csr.data)))
}

/// Read filter pairs: indptr, indices, number of repeated pairs merged.
#[pyfunction]
pub(crate) fn load_pairs(
    py: Python<'_>,
    path: PathBuf,
    n_rows: i64,
    n_labels: i64,
) -> PyResult<(Vector<'_, i64>, Vector<'_, i32>, usize)> {
    let (n_rows, n_labels) = (count("n_rows", n_rows)?, count("n_labels", n_labels)?);
    let pairs = detached(py, || xmc_core::load_pairs(&path, n_rows, n_labels))?;
    Ok((moved(py, pairs.indptr), moved(py, pairs.indices), pairs.n_repeated))
}

/// Write label text, replacing the file at once.
#[pyfunction]
pub(crate) fn save_labels<'py>(
    py: Python<'py>,
    path: PathBuf,
    n_labels: i64,
    indptr: Bound<'py, PyAny>,
    indices: Bound<'py, PyAny>,
    data: Bound<'py, PyAny>,
) -> PyResult<()> {
    let n_labels = count("n_labels", n_labels)?;
    let arrays = CsrArrays::<f32>::borrow("y", &(indptr, indices, data))?;
    let slices = arrays.slices()?;
    detached(py, || xmc_core::save_labels(&path, slices.check("y", n_labels)?))
}

/// Check a matrix from outside; sorted indices and data if a row was not sorted.
#[pyfunction]
pub(crate) fn check_csr<'py>(
    py: Python<'py>,
    name: &str,
    n_rows: i64,
    n_labels: i64,
    indptr: Bound<'py, PyAny>,
    indices: Bound<'py, PyAny>,
    data: Bound<'py, PyAny>,
) -> PyResult<Option<(Vector<'py, i32>, Vector<'py, f32>)>> {
    let (n_rows, n_labels) = (count("n_rows", n_rows)?, count("n_labels", n_labels)?);
    let arrays = CsrArrays::<f32>::borrow(name, &(indptr, indices, data))?;
    let slices = arrays.slices()?;
    let sorted = detached(py, || {
        let view = slices.check(name, n_labels)?;
        view.pattern().check_shape(n_rows, n_labels)?;
        check_matrix(view)
    })?;
    Ok(sorted.map(|(indices, data)| (moved(py, indices), moved(py, data))))
}

/// Number of positives of each label.
#[pyfunction]
pub(crate) fn label_counts<'py>(
    py: Python<'py>,
    n_labels: i64,
    indices: Bound<'py, PyAny>,
    data: Bound<'py, PyAny>,
) -> PyResult<Vector<'py, i64>> {
    let n_labels = count("n_labels", n_labels)?;
    let (indices, data) = (vector::<i32>("indices", &indices)?, vector::<f32>("data", &data)?);
    let (indices, data) = (indices.as_slice()?, data.as_slice()?);
    let counts = detached(py, || xmc_core::label_counts(n_labels, indices, data))?;
    Ok(moved(py, counts))
}

/// Inverse propensity of each label.
#[pyfunction]
pub(crate) fn inv_propensity<'py>(
    py: Python<'py>,
    counts: Bound<'py, PyAny>,
    n_points: i64,
    a: f64,
    b: f64,
) -> PyResult<Vector<'py, f64>> {
    let n_points = count("n_points", n_points)?;
    let counts = vector::<i64>("counts", &counts)?;
    let counts = counts.as_slice()?;
    let weights = detached(py, || xmc_core::inv_propensity(counts, n_points, a, b))?;
    Ok(moved(py, weights))
}
