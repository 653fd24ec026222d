//! Files, matrices from outside, and label weights.

use std::path::PathBuf;

use numpy::{Element, PyArray1};
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use xmc_core::{Csr, Frequencies, JsonColumn, ParseOptions, Repairs, Result, Scores, check_matrix};

use crate::arrays::{
    CsrArgs, CsrArrays, PatternArgs, PatternArrays, holds, moved, vector, writable,
};
use crate::border::{count, detached, in_pool, interruptible};

type Vector<'py, T> = Bound<'py, PyArray1<T>>;
type Matrix<'py, T> = ((usize, usize), Vector<'py, i64>, Vector<'py, i32>, Vector<'py, T>);
/// Counts in the order of the fields, and messages.
type Repaired = ((usize, usize, usize, usize), Vec<String>);

fn matrix<T: Element>(py: Python<'_>, csr: Csr<T>) -> Matrix<'_, T> {
    let shape = (csr.n_rows(), csr.n_cols);
    (shape, moved(py, csr.indptr), moved(py, csr.indices), moved(py, csr.data))
}

fn repaired(repairs: Repairs) -> Repaired {
    let Repairs { duplicates, out_of_range, not_finite, rows_sorted, ref first, .. } = repairs;
    let messages = first.iter().map(|(place, fault)| format!("{place}: {fault}")).collect();
    ((duplicates, out_of_range, not_finite, rows_sorted), messages)
}

/// Read a label matrix: shape, indptr, indices, data, and the repairs if they were asked for.
#[pyfunction]
#[pyo3(signature = (path, *, missing_value=None, repair=false, num_threads=None))]
pub(crate) fn load_labels(
    py: Python<'_>,
    path: PathBuf,
    missing_value: Option<f32>,
    repair: bool,
    num_threads: Option<i64>,
) -> PyResult<(Matrix<'_, f32>, Option<Repaired>)> {
    let (csr, repairs) = interruptible(py, num_threads, |keep_going| {
        let options = ParseOptions { missing_value, keep_going };
        if repair {
            let (csr, repairs) = xmc_core::load_labels_repaired(&path, options)?;
            return Ok((csr, Some(repairs)));
        }
        Ok((xmc_core::load_labels(&path, options)?, None))
    })?;
    Ok((matrix(py, csr), repairs.map(repaired)))
}

/// Read bag-of-words text: features, labels, and the repairs if they were asked for.
#[pyfunction]
#[pyo3(signature = (path, *, missing_value=None, repair=false, num_threads=None))]
pub(crate) fn load_bow(
    py: Python<'_>,
    path: PathBuf,
    missing_value: Option<f32>,
    repair: bool,
    num_threads: Option<i64>,
) -> PyResult<(Matrix<'_, f32>, Matrix<'_, f32>, Option<Repaired>)> {
    let (bow, repairs) = interruptible(py, num_threads, |keep_going| {
        let options = ParseOptions { missing_value, keep_going };
        if repair {
            let (bow, repairs) = xmc_core::load_bow_repaired(&path, options)?;
            return Ok((bow, Some(repairs)));
        }
        Ok((xmc_core::load_bow(&path, options)?, None))
    })?;
    Ok((matrix(py, bow.features), matrix(py, bow.labels), repairs.map(repaired)))
}

/// Read scores: as labels, but float64 stays float64.
#[pyfunction]
#[pyo3(signature = (path, *, num_threads=None))]
pub(crate) fn load_scores(
    py: Python<'_>,
    path: PathBuf,
    num_threads: Option<i64>,
) -> PyResult<Bound<'_, PyAny>> {
    let scores = interruptible(py, num_threads, |keep_going| {
        xmc_core::load_scores(&path, ParseOptions { missing_value: None, keep_going })
    })?;
    match scores {
        Scores::F32(csr) => matrix(py, csr).into_bound_py_any(py),
        Scores::F64(csr) => matrix(py, csr).into_bound_py_any(py),
    }
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

/// Read a whole file, unpacked if it is gzip or zstd.
#[pyfunction]
pub(crate) fn load_bytes(py: Python<'_>, path: PathBuf) -> PyResult<Bound<'_, PyBytes>> {
    let bytes = interruptible(py, Some(1), |keep_going| {
        xmc_core::load_bytes(&path, ParseOptions { missing_value: None, keep_going })
    })?;
    Ok(PyBytes::new(py, &bytes))
}

/// Read columns of JSON lines: the line of each row, and a list of strings or lists of strings
/// (offsets, codes, strings) for each column; None if they are not regular.
#[pyfunction]
pub(crate) fn json_columns<'py>(
    py: Python<'py>,
    content: Bound<'py, PyBytes>,
    names: Vec<String>,
) -> PyResult<Option<(Vector<'py, i64>, Bound<'py, PyList>)>> {
    let (bytes, names) = (content.as_bytes(), names.iter().map(String::as_str).collect::<Vec<_>>());
    let found = interruptible(py, Some(1), |keep_going| {
        let options = ParseOptions { missing_value: None, keep_going };
        xmc_core::json_columns(bytes, &names, options)
    })?;
    let Some(found) = found else { return Ok(None) };
    let columns = PyList::empty(py);
    for column in found.columns {
        match column {
            JsonColumn::Strings(strings) => columns.append(PyList::new(py, strings.iter())?)?,
            JsonColumn::Lists(lists) => columns.append((
                moved(py, lists.offsets),
                moved(py, lists.codes),
                PyList::new(py, lists.strings.iter())?,
            ))?,
        }
    }
    Ok(Some((moved(py, found.lines), columns)))
}

/// Write label text, replacing the file at once.
#[pyfunction]
#[pyo3(signature = (path, n_labels, indptr, indices, data, *, num_threads=None))]
pub(crate) fn save_labels<'py>(
    py: Python<'py>,
    path: PathBuf,
    n_labels: i64,
    indptr: Bound<'py, PyAny>,
    indices: Bound<'py, PyAny>,
    data: Bound<'py, PyAny>,
    num_threads: Option<i64>,
) -> PyResult<()> {
    let n_labels = count("n_labels", n_labels)?;
    let arrays = CsrArrays::<f32>::borrow("y", &(indptr, indices, data))?;
    let slices = arrays.slices()?;
    in_pool(py, num_threads, || xmc_core::save_labels(&path, slices.check("y", n_labels)?))
}

/// Write a scipy CSR archive, replacing the file at once.
#[pyfunction]
#[pyo3(signature = (path, n_labels, indptr, indices, data, *, compressed=true, num_threads=None))]
#[expect(clippy::too_many_arguments, reason = "the parts of a matrix")]
pub(crate) fn save_npz<'py>(
    py: Python<'py>,
    path: PathBuf,
    n_labels: i64,
    indptr: Bound<'py, PyAny>,
    indices: Bound<'py, PyAny>,
    data: Bound<'py, PyAny>,
    compressed: bool,
    num_threads: Option<i64>,
) -> PyResult<()> {
    let n_labels = count("n_labels", n_labels)?;
    if holds::<f64>(&data) {
        let arrays = CsrArrays::<f64>::borrow("y", &(indptr, indices, data))?;
        let slices = arrays.slices()?;
        return in_pool(py, num_threads, || {
            xmc_core::save_npz(&path, slices.check("y", n_labels)?, compressed)
        });
    }
    let arrays = CsrArrays::<f32>::borrow("y", &(indptr, indices, data))?;
    let slices = arrays.slices()?;
    in_pool(py, num_threads, || xmc_core::save_npz(&path, slices.check("y", n_labels)?, compressed))
}

/// Write bag-of-words text, replacing the file at once.
#[pyfunction]
#[pyo3(signature = (path, features, n_features, labels, n_labels, *, num_threads=None))]
pub(crate) fn save_bow<'py>(
    py: Python<'py>,
    path: PathBuf,
    features: CsrArgs<'py>,
    n_features: i64,
    labels: PatternArgs<'py>,
    n_labels: i64,
    num_threads: Option<i64>,
) -> PyResult<()> {
    let (n_features, n_labels) = (count("n_features", n_features)?, count("n_labels", n_labels)?);
    let features = CsrArrays::<f32>::borrow("features", &features)?;
    let labels = PatternArrays::borrow("labels", &labels)?;
    let (features, labels) = (features.slices()?, labels.slices()?);
    in_pool(py, num_threads, || {
        let features = features.check("features", n_features)?;
        let labels = labels.check("labels", n_labels)?;
        labels.check_shape(features.n_rows(), n_labels)?;
        xmc_core::save_bow(&path, features, labels)
    })
}

/// Write filter pairs, replacing the file at once.
#[pyfunction]
#[pyo3(signature = (path, n_labels, indptr, indices, *, num_threads=None))]
pub(crate) fn save_pairs<'py>(
    py: Python<'py>,
    path: PathBuf,
    n_labels: i64,
    indptr: Bound<'py, PyAny>,
    indices: Bound<'py, PyAny>,
    num_threads: Option<i64>,
) -> PyResult<()> {
    let n_labels = count("n_labels", n_labels)?;
    let arrays = PatternArrays::borrow("pairs", &(indptr, indices))?;
    let slices = arrays.slices()?;
    in_pool(py, num_threads, || xmc_core::save_pairs(&path, slices.check("pairs", n_labels)?))
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

/// As `label_counts`, of a matrix that is checked in the same pass; None if it is not plain.
#[pyfunction]
pub(crate) fn plain_label_counts<'py>(
    py: Python<'py>,
    shape: (i64, i64),
    indptr: Bound<'py, PyAny>,
    indices: Bound<'py, PyAny>,
    data: Bound<'py, PyAny>,
) -> PyResult<Option<Vector<'py, i64>>> {
    let counts = of_plain(py, shape, [indptr, indices, data], |found, _| found.counts())?;
    Ok(counts.map(|counts| moved(py, counts)))
}

/// As `inv_propensity`, of a matrix that is checked in the same pass, into `weights`; false if it is
/// not plain.
#[pyfunction]
#[allow(clippy::too_many_arguments)]
pub(crate) fn plain_inv_propensity<'py>(
    py: Python<'py>,
    shape: (i64, i64),
    indptr: Bound<'py, PyAny>,
    indices: Bound<'py, PyAny>,
    data: Bound<'py, PyAny>,
    a: f64,
    b: f64,
    weights: Bound<'py, PyAny>,
) -> PyResult<bool> {
    let mut weights = writable::<f64>("weights", &weights)?;
    let weights = weights.as_slice_mut()?;
    let then = |found: Frequencies, n| found.inv_propensity(n, a, b, weights);
    Ok(of_plain(py, shape, [indptr, indices, data], then)?.is_some())
}

/// Counts a matrix, if it is plain, and passes the counts and the number of rows on.
fn of_plain<T: Send>(
    py: Python<'_>,
    (n_rows, n_labels): (i64, i64),
    [indptr, indices, data]: [Bound<'_, PyAny>; 3],
    then: impl FnOnce(Frequencies, usize) -> Result<T> + Send,
) -> PyResult<Option<T>> {
    let (n_rows, n_labels) = (count("n_rows", n_rows)?, count("n_labels", n_labels)?);
    let indptr = vector::<i64>("indptr", &indptr)?;
    let (indices, data) = (vector::<i32>("indices", &indices)?, vector::<f32>("data", &data)?);
    let (indptr, indices, data) = (indptr.as_slice()?, indices.as_slice()?, data.as_slice()?);
    detached(py, || {
        if indptr.len() != n_rows + 1 {
            return Ok(None);
        }
        let found = Frequencies::of_plain(n_labels, indptr, indices, data)?;
        found.map(|found| then(found, n_rows)).transpose()
    })
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
