//! Bootstrap and sign flips over row terms.

use std::ops::Range;

use numpy::{PyArray2, PyArrayMethods, PyReadonlyArray1};
use pyo3::prelude::*;
use xmc_core::{Interval, Resampler, Result, Terms};

use crate::arrays::{moved, vector};
use crate::border::{count, detached, in_pool, interruptible};

type Column<'py> = Bound<'py, PyAny>;
/// Name, numerators and denominators of a metric, as Python passes them.
type TermArgs<'py> = (String, Column<'py>, Option<Column<'py>>);

/// Borrowed arrays of a metric.
struct TermArrays<'py> {
    name: String,
    numerators: PyReadonlyArray1<'py, f64>,
    denominators: Option<PyReadonlyArray1<'py, f64>>,
}

impl<'py> TermArrays<'py> {
    fn borrow((name, numerators, denominators): TermArgs<'py>) -> PyResult<Self> {
        let numerators = vector(&name, &numerators)?;
        let denominators = denominators.map(|terms| vector(&name, &terms)).transpose()?;
        Ok(Self { name, numerators, denominators })
    }

    fn terms(&self) -> PyResult<Terms<'_>> {
        let denominators =
            self.denominators.as_ref().map(PyReadonlyArray1::as_slice).transpose()?;
        Ok(Terms { name: &self.name, numerators: self.numerators.as_slice()?, denominators })
    }
}

/// Row terms of one or two systems, laid out for resampling.
#[pyclass(frozen, name = "Resampler", module = "dexml._rust")]
pub(crate) struct PyResampler {
    inner: Resampler,
    num_threads: Option<i64>,
}

#[pymethods]
impl PyResampler {
    #[new]
    #[pyo3(signature = (first, second, clusters=None, *, num_threads=None))]
    fn new<'py>(
        py: Python<'py>,
        first: Vec<TermArgs<'py>>,
        second: Vec<TermArgs<'py>>,
        clusters: Option<Bound<'py, PyAny>>,
        num_threads: Option<i64>,
    ) -> PyResult<Self> {
        let borrow = |system: Vec<TermArgs<'py>>| {
            system.into_iter().map(TermArrays::borrow).collect::<PyResult<Vec<_>>>()
        };
        let (first, second) = (borrow(first)?, borrow(second)?);
        let clusters = clusters.map(|ids| vector::<u32>("clusters", &ids)).transpose()?;
        let first = first.iter().map(TermArrays::terms).collect::<PyResult<Vec<_>>>()?;
        let second = second.iter().map(TermArrays::terms).collect::<PyResult<Vec<_>>>()?;
        let clusters = clusters.as_ref().map(PyReadonlyArray1::as_slice).transpose()?;
        let inner = in_pool(py, num_threads, || Resampler::new(&first, &second, clusters))?;
        Ok(Self { inner, num_threads })
    }

    /// Values in bootstrap samples `first .. first + n`: a row a metric and system.
    fn bootstrap<'py>(
        &self,
        py: Python<'py>,
        seed: u64,
        first: u64,
        n: i64,
    ) -> PyResult<Bound<'py, PyArray2<f64>>> {
        self.resample(py, first, n, |resamples, keep_going| {
            self.inner.bootstrap(seed, resamples, keep_going)
        })
    }

    /// Differences under random swaps `first .. first + n`: a row a metric.
    fn sign_flips<'py>(
        &self,
        py: Python<'py>,
        seed: u64,
        first: u64,
        n: i64,
    ) -> PyResult<Bound<'py, PyArray2<f64>>> {
        self.resample(py, first, n, |resamples, keep_going| {
            self.inner.sign_flips(seed, resamples, keep_going)
        })
    }

    /// Difference and tolerance of each metric.
    fn differences(&self) -> Vec<(f64, f64)> {
        self.inner.differences().iter().map(|found| (found.value, found.tolerance)).collect()
    }

    #[getter]
    fn n_units(&self) -> usize {
        self.inner.n_units()
    }
}

impl PyResampler {
    fn resample<'py>(
        &self,
        py: Python<'py>,
        first: u64,
        n: i64,
        work: impl FnOnce(Range<u64>, &(dyn Fn() -> bool + Sync)) -> Result<Vec<f64>> + Send,
    ) -> PyResult<Bound<'py, PyArray2<f64>>> {
        let n = count("n", n)?;
        let resamples = first..first.saturating_add(n as u64);
        let values = interruptible(py, self.num_threads, |keep_going| work(resamples, keep_going))?;
        let rows = values.len().checked_div(n).unwrap_or_default();
        moved(py, values).reshape([rows, n])
    }
}

/// Low end, high end and standard error of bootstrap values.
#[pyfunction]
pub(crate) fn interval(
    py: Python<'_>,
    values: Bound<'_, PyAny>,
    confidence: f64,
) -> PyResult<(f64, f64, f64)> {
    let values = vector::<f64>("values", &values)?;
    let values = values.as_slice()?;
    let Interval { low, high, standard_error } =
        detached(py, || xmc_core::interval(values, confidence))?;
    Ok((low, high, standard_error))
}

/// Two-sided p-value of a difference among those under random swaps.
#[pyfunction]
pub(crate) fn p_value(difference: f64, tolerance: f64, flips: Bound<'_, PyAny>) -> PyResult<f64> {
    let flips = vector::<f64>("flips", &flips)?;
    Ok(xmc_core::p_value(difference, tolerance, flips.as_slice()?))
}
