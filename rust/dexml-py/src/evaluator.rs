//! The streaming evaluator and the names of its metrics.

use std::sync::{Mutex, MutexGuard, PoisonError};

use numpy::{PyArray1, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use xmc_core::{
    CsrPattern, CsrView, Error, Evaluator, Grouping, Metric, Options, Result, RowValues, Score,
};

use crate::arrays::{
    CsrArgs, CsrArrays, CsrSlices, PatternArgs, PatternArrays, holds, matrix, moved, owned, vector,
};
use crate::border::{count, detached, exception};
use crate::pool::pool;

type Rows<'py> = Bound<'py, PyArray1<f64>>;
/// Name, number of groups, group of each label.
type GroupingArgs<'py> = (String, usize, Bound<'py, PyAny>);

/// Kind and k of each metric name.
#[pyfunction]
#[pyo3(signature = (names))]
pub(crate) fn parse_metrics(names: Vec<String>) -> PyResult<Vec<(&'static str, usize)>> {
    let metrics = parse(&names)?;
    Ok(metrics.into_iter().map(|metric| (metric.kind().name(), metric.k())).collect())
}

fn parse(names: &[String]) -> PyResult<Vec<Metric>> {
    names.iter().map(|name| name.parse()).collect::<Result<_>>().map_err(exception)
}

/// Scores rankings against the truth, row block by row block.
#[pyclass(frozen, name = "Evaluator", module = "dexml._rust")]
pub(crate) struct PyEvaluator {
    inner: Mutex<Evaluator>,
    n_labels: usize,
    num_threads: Option<i64>,
}

impl PyEvaluator {
    /// Updates commit only when they have succeeded, so a poisoned evaluator is as good as before.
    fn lock(&self) -> MutexGuard<'_, Evaluator> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a result without the interpreter: another thread may hold the lock for a while.
    fn read<T: Send>(
        &self,
        py: Python<'_>,
        read: impl FnOnce(&Evaluator) -> Result<T> + Send,
    ) -> PyResult<T> {
        detached(py, || read(&self.lock()))
    }

    /// Adds rows in the pool; rows in errors are counted from the first row of the stream.
    fn update<'py>(
        &self,
        py: Python<'py>,
        y_true: &CsrArgs<'py>,
        exclude: Option<&PatternArgs<'py>>,
        add: impl FnOnce(&mut Evaluator, CsrView<'_>, Option<CsrPattern<'_>>) -> Result<()> + Send,
    ) -> PyResult<()> {
        let y_true = CsrArrays::<f32>::borrow("y_true", y_true)?;
        let exclude = exclude.map(|exclude| PatternArrays::borrow("exclude", exclude));
        let exclude = exclude.transpose()?;
        let y_true = y_true.slices()?;
        let exclude = exclude.as_ref().map(PatternArrays::slices).transpose()?;
        let pool = pool(self.num_threads)?;
        detached(py, || {
            let mut guard = self.lock();
            let evaluator = &mut *guard;
            let base = evaluator.n_rows();
            let update = || {
                let y_true = y_true.check("y_true", self.n_labels)?;
                let exclude = exclude.map(|exclude| exclude.check("exclude", self.n_labels));
                add(evaluator, y_true, exclude.transpose()?)
            };
            pool.install(update).map_err(|error| error.shift_rows(base))
        })
    }

    fn update_scores<'py, S: Score>(
        &self,
        py: Python<'py>,
        y_true: &CsrArgs<'py>,
        y_pred: CsrSlices<'_, S>,
        exclude: Option<&PatternArgs<'py>>,
    ) -> PyResult<()> {
        self.update(py, y_true, exclude, |evaluator, y_true, exclude| {
            let y_pred = y_pred.check("y_pred", self.n_labels)?;
            evaluator.update_scores(y_true, y_pred, exclude)
        })
    }
}

#[pymethods]
impl PyEvaluator {
    #[new]
    #[pyo3(signature = (
        n_labels, metrics, *, inv_propensity=None, empty_rows="zero", psndcg="xclib",
        ties="smaller", label_groups=None, keep_rows=false, num_threads=None
    ))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
    fn new(
        py: Python<'_>,
        n_labels: i64,
        metrics: Vec<String>,
        inv_propensity: Option<Bound<'_, PyAny>>,
        empty_rows: &str,
        psndcg: &str,
        ties: &str,
        label_groups: Option<Vec<GroupingArgs<'_>>>,
        keep_rows: bool,
        num_threads: Option<i64>,
    ) -> PyResult<Self> {
        let n_labels = count("n_labels", n_labels)?;
        let metrics = parse(&metrics)?;
        let weights = inv_propensity.map(|weights| vector::<f64>("inv_propensity", &weights));
        let weights = weights.transpose()?;
        let weights = weights.as_ref().map(numpy::PyReadonlyArray::as_slice).transpose()?;
        let groups = label_groups
            .into_iter()
            .flatten()
            .map(|(name, n_groups, groups)| Ok((name, n_groups, vector("label_groups", &groups)?)))
            .collect::<PyResult<Vec<_>>>()?;
        let groupings = groups.iter().map(|(name, n_groups, of_label)| {
            let of_label = owned(of_label.as_slice()?).map_err(exception)?;
            Ok(Grouping { name: name.clone(), n_groups: *n_groups, of_label })
        });
        let groupings = groupings.collect::<PyResult<Vec<_>>>()?;
        // A wrong number of threads is found here, not at the first update.
        pool(num_threads)?;
        let inner = detached(py, || {
            let options = Options {
                inv_propensity: weights.map(owned).transpose()?,
                empty_rows: empty_rows.parse()?,
                psndcg: psndcg.parse()?,
                ties: ties.parse()?,
                groupings,
                keep_rows,
            };
            Evaluator::new(n_labels, &metrics, options)
        })?;
        Ok(Self { inner: Mutex::new(inner), n_labels, num_threads })
    }

    /// Add points with scored labels.
    #[pyo3(signature = (y_true, y_pred, exclude=None))]
    fn update_csr<'py>(
        &self,
        py: Python<'py>,
        y_true: CsrArgs<'py>,
        y_pred: CsrArgs<'py>,
        exclude: Option<PatternArgs<'py>>,
    ) -> PyResult<()> {
        if holds::<f64>(&y_pred.2) {
            let y_pred = CsrArrays::<f64>::borrow("y_pred", &y_pred)?;
            self.update_scores(py, &y_true, y_pred.slices()?, exclude.as_ref())
        } else {
            let y_pred = CsrArrays::<f32>::borrow("y_pred", &y_pred)?;
            self.update_scores(py, &y_true, y_pred.slices()?, exclude.as_ref())
        }
    }

    /// Add points with ranked labels.
    #[pyo3(signature = (y_true, y_pred, exclude=None))]
    fn update_ids<'py>(
        &self,
        py: Python<'py>,
        y_true: CsrArgs<'py>,
        y_pred: Bound<'py, PyAny>,
        exclude: Option<PatternArgs<'py>>,
    ) -> PyResult<()> {
        if holds::<i64>(&y_pred) {
            let ids = matrix::<i64>("y_pred", &y_pred)?;
            let (width, ids) = (ids.shape()[1], ids.as_slice()?);
            self.update(py, &y_true, exclude.as_ref(), |evaluator, y_true, exclude| {
                evaluator.update_ids(y_true, ids, width, exclude)
            })
        } else {
            let ids = matrix::<i32>("y_pred", &y_pred)?;
            let (width, ids) = (ids.shape()[1], ids.as_slice()?);
            self.update(py, &y_true, exclude.as_ref(), |evaluator, y_true, exclude| {
                evaluator.update_ids(y_true, ids, width, exclude)
            })
        }
    }

    /// Add the rows of another evaluator with the same settings.
    fn merge(&self, py: Python<'_>, other: &Bound<'_, Self>) -> PyResult<()> {
        let other = other.get();
        detached(py, || {
            // One lock at a time: two threads may merge the same pair both ways.
            let other = other.lock().clone();
            self.lock().merge(&other)
        })
    }

    /// The evaluator as bytes, for another process.
    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = self.read(py, |evaluator| Ok(evaluator.to_bytes()))?;
        Ok(PyBytes::new(py, &bytes))
    }

    /// The evaluator that `to_bytes` wrote.
    #[staticmethod]
    #[pyo3(signature = (state, num_threads=None))]
    fn from_bytes(py: Python<'_>, state: &[u8], num_threads: Option<i64>) -> PyResult<Self> {
        pool(num_threads)?;
        let inner = detached(py, || Evaluator::from_bytes(state))?;
        Ok(Self { n_labels: inner.n_labels(), inner: Mutex::new(inner), num_threads })
    }

    /// The metric over all rows so far.
    fn value(&self, py: Python<'_>, metric: &str) -> PyResult<f64> {
        self.read(py, |evaluator| evaluator.value(metric.parse()?))
    }

    /// Metrics with the truth restricted to a group; NaN where there is nothing to average.
    fn group_values(
        &self,
        py: Python<'_>,
        grouping: usize,
        group: usize,
        metrics: Vec<String>,
    ) -> PyResult<Vec<f64>> {
        let metrics = parse(&metrics)?;
        self.read(py, |evaluator| {
            let value = |&metric| match evaluator.group_value(grouping, group, metric) {
                Err(Error::NoRows | Error::ZeroDenominator { .. }) => Ok(f64::NAN),
                value => value,
            };
            metrics.iter().map(value).collect()
        })
    }

    /// The part of P@k that is hits of a group.
    fn contribution(
        &self,
        py: Python<'_>,
        grouping: usize,
        group: usize,
        k: usize,
    ) -> PyResult<f64> {
        self.read(py, |evaluator| evaluator.contribution(grouping, group, k))
    }

    /// Numbers of labels, rows and positives of a group.
    fn group_counts(
        &self,
        py: Python<'_>,
        grouping: usize,
        group: usize,
    ) -> PyResult<(usize, usize, usize)> {
        let counts = self.read(py, |evaluator| evaluator.group_counts(grouping, group))?;
        Ok((counts.labels, counts.rows, counts.positives))
    }

    /// The terms of a metric, one for each row.
    fn row_values<'py>(
        &self,
        py: Python<'py>,
        metric: &str,
    ) -> PyResult<(Rows<'py>, Option<Rows<'py>>)> {
        Ok(match self.read(py, |evaluator| evaluator.row_values(metric.parse()?))? {
            RowValues::Mean(values) => (moved(py, values), None),
            RowValues::Ratio { numerators, denominators } => {
                (moved(py, numerators), Some(moved(py, denominators)))
            }
        })
    }

    #[getter]
    fn n_rows(&self, py: Python<'_>) -> PyResult<usize> {
        self.read(py, |evaluator| Ok(evaluator.n_rows()))
    }

    #[getter]
    fn n_empty(&self, py: Python<'_>) -> PyResult<usize> {
        self.read(py, |evaluator| Ok(evaluator.n_empty()))
    }

    #[getter]
    fn n_excluded(&self, py: Python<'_>) -> PyResult<usize> {
        self.read(py, |evaluator| Ok(evaluator.n_excluded()))
    }

    #[getter]
    fn n_excluded_positives(&self, py: Python<'_>) -> PyResult<usize> {
        self.read(py, |evaluator| Ok(evaluator.n_excluded_positives()))
    }
}
