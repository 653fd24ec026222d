//! Arrays in and out: borrowed contiguous slices, moved vectors.

use numpy::{
    Element, PyArray1, PyArray2, PyArrayDescrMethods, PyArrayMethods, PyReadonlyArray,
    PyReadonlyArray1, PyReadonlyArray2, PyReadwriteArray1, PyUntypedArray, PyUntypedArrayMethods,
    ndarray,
};
use numpy::{IntoPyArray, dtype};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use xmc_core::lexical::LazyRows;
use xmc_core::{Csr, CsrPattern, CsrView, Error, Result, TopK};

/// Row pointers and labels, as Python passes them.
pub(crate) type PatternArgs<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>);
/// Row pointers, labels and values, as Python passes them.
pub(crate) type CsrArgs<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>);
/// Ranked labels and their scores.
pub(crate) type Ranking<'py> = (Bound<'py, PyArray2<i32>>, Bound<'py, PyArray2<f32>>);

/// Borrows an array of the given element type and number of dimensions.
pub(crate) fn borrow<'py, T: Element, D: ndarray::Dimension>(
    name: &str,
    object: &Bound<'py, PyAny>,
) -> PyResult<PyReadonlyArray<'py, T, D>> {
    let py = object.py();
    let Ok(untyped) = object.cast::<PyUntypedArray>() else {
        let found = object.get_type().name()?;
        return Err(PyTypeError::new_err(format!("{name} must be a numpy array, not {found}")));
    };
    if !untyped.dtype().is_equiv_to(&dtype::<T>(py)) {
        let (expected, found) = (dtype::<T>(py), untyped.dtype());
        return Err(PyTypeError::new_err(format!("{name} must be {expected}, not {found}")));
    }
    if D::NDIM.is_some_and(|n_dims| n_dims != untyped.ndim()) {
        let (expected, found) = (D::NDIM.unwrap_or_default(), untyped.ndim());
        return Err(PyValueError::new_err(format!("{name} must be {expected}-d, not {found}-d")));
    }
    if !(untyped.is_c_contiguous() && untyped.is_aligned()) {
        return Err(PyValueError::new_err(format!(
            "{name} must be C-contiguous and aligned (numpy.ascontiguousarray makes it so)"
        )));
    }
    object.extract().map_err(|_| PyValueError::new_err(format!("{name} cannot be read here")))
}

/// Borrows a vector.
pub(crate) fn vector<'py, T: Element>(
    name: &str,
    object: &Bound<'py, PyAny>,
) -> PyResult<PyReadonlyArray1<'py, T>> {
    borrow(name, object)
}

/// Borrows a vector to write to.
///
/// Large results are written into numpy's memory: it asks the system for large pages, and filling
/// those takes a fifth of the time that a new `Vec` takes.
pub(crate) fn writable<'py, T: Element>(
    name: &str,
    object: &Bound<'py, PyAny>,
) -> PyResult<PyReadwriteArray1<'py, T>> {
    drop(vector::<T>(name, object)?);
    object.extract().map_err(|_| PyValueError::new_err(format!("{name} cannot be written to")))
}

/// Borrows a matrix, row-major.
pub(crate) fn matrix<'py, T: Element>(
    name: &str,
    object: &Bound<'py, PyAny>,
) -> PyResult<PyReadonlyArray2<'py, T>> {
    borrow(name, object)
}

/// Whether an object is an array with elements of type `T`.
pub(crate) fn holds<T: Element>(object: &Bound<'_, PyAny>) -> bool {
    object
        .cast::<PyUntypedArray>()
        .is_ok_and(|array| array.dtype().is_equiv_to(&dtype::<T>(object.py())))
}

/// Borrowed arrays of a CSR pattern.
pub(crate) struct PatternArrays<'py> {
    indptr: PyReadonlyArray1<'py, i64>,
    indices: PyReadonlyArray1<'py, i32>,
}

impl<'py> PatternArrays<'py> {
    pub(crate) fn borrow(name: &str, (indptr, indices): &PatternArgs<'py>) -> PyResult<Self> {
        Ok(Self {
            indptr: vector(&format!("{name} indptr"), indptr)?,
            indices: vector(&format!("{name} indices"), indices)?,
        })
    }

    pub(crate) fn slices(&self) -> PyResult<PatternSlices<'_>> {
        Ok(PatternSlices { indptr: self.indptr.as_slice()?, indices: self.indices.as_slice()? })
    }
}

/// Slices of a CSR pattern, checked later without the interpreter.
#[derive(Clone, Copy)]
pub(crate) struct PatternSlices<'a> {
    indptr: &'a [i64],
    indices: &'a [i32],
}

impl<'a> PatternSlices<'a> {
    pub(crate) fn check(self, name: &'a str, n_labels: usize) -> Result<CsrPattern<'a>> {
        CsrPattern::new(name, n_labels, self.indptr, self.indices)
    }
}

/// Borrowed arrays of a CSR matrix.
pub(crate) struct CsrArrays<'py, T: Element> {
    pattern: PatternArrays<'py>,
    data: PyReadonlyArray1<'py, T>,
}

impl<'py, T: Element> CsrArrays<'py, T> {
    pub(crate) fn borrow(name: &str, (indptr, indices, data): &CsrArgs<'py>) -> PyResult<Self> {
        let pattern = PatternArrays::borrow(name, &(indptr.clone(), indices.clone()))?;
        Ok(Self { pattern, data: vector(&format!("{name} data"), data)? })
    }

    pub(crate) fn slices(&self) -> PyResult<CsrSlices<'_, T>> {
        Ok(CsrSlices { pattern: self.pattern.slices()?, data: self.data.as_slice()? })
    }
}

/// Slices of a CSR matrix, checked later without the interpreter.
#[derive(Clone, Copy)]
pub(crate) struct CsrSlices<'a, T> {
    pattern: PatternSlices<'a>,
    data: &'a [T],
}

impl<'a, T> CsrSlices<'a, T> {
    pub(crate) fn check(self, name: &'a str, n_labels: usize) -> Result<CsrView<'a, T>> {
        let PatternSlices { indptr, indices } = self.pattern;
        CsrView::new(name, n_labels, indptr, indices, self.data)
    }

    pub(crate) fn check_features(self, name: &'a str, n_features: usize) -> Result<CsrView<'a, T>> {
        let PatternSlices { indptr, indices } = self.pattern;
        CsrView::of_features(name, n_features, indptr, indices, self.data)
    }
}

impl<'a> CsrSlices<'a, f32> {
    /// A copy that the core keeps, of rows that were checked.
    pub(crate) fn copied(self, name: &'a str, n_features: usize) -> Result<Csr> {
        self.check_features(name, n_features)?;
        let PatternSlices { indptr, indices } = self.pattern;
        Ok(Csr {
            n_cols: n_features,
            indptr: owned(indptr)?,
            indices: owned(indices)?,
            data: owned(self.data)?,
        })
    }

    /// Rows that are checked when they are read.
    pub(crate) fn lazy(self, name: &'a str, n_features: usize) -> Result<LazyRows<'a>> {
        let PatternSlices { indptr, indices } = self.pattern;
        LazyRows::new(name, n_features, indptr, indices, self.data)
    }
}

/// A copy that the core keeps.
pub(crate) fn owned<T: Copy>(items: &[T]) -> Result<Vec<T>> {
    let mut copy = Vec::new();
    copy.try_reserve_exact(items.len())
        .map_err(|_| Error::OutOfMemory { bytes: size_of_val(items) })?;
    copy.extend_from_slice(items);
    Ok(copy)
}

/// A vector moved to Python.
pub(crate) fn moved<T: Element>(py: Python<'_>, vector: Vec<T>) -> Bound<'_, PyArray1<T>> {
    vector.into_pyarray(py)
}

/// A matrix moved to Python: indptr, indices, data.
pub(crate) fn moved_csr(py: Python<'_>, csr: Csr) -> CsrArgs<'_> {
    let indptr = moved(py, csr.indptr).into_any();
    (indptr, moved(py, csr.indices).into_any(), moved(py, csr.data).into_any())
}

/// Ranked rows moved to Python, shape (n, k).
pub(crate) fn moved_ranking(py: Python<'_>, n_rows: usize, top: TopK) -> PyResult<Ranking<'_>> {
    let shape = [n_rows, top.k];
    Ok((moved(py, top.ids).reshape(shape)?, moved(py, top.scores).reshape(shape)?))
}
