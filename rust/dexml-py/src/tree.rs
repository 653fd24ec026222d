//! The label tree on sparse features.

use numpy::{PyArray1, PyArray2, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use xmc_core::{Error, LabelTree, TreeOptions};

use crate::arrays::{
    CsrArgs, CsrArrays, PatternArgs, PatternArrays, Ranking, matrix, moved, moved_csr,
    moved_ranking, owned,
};
use crate::border::{count, detached, exception, in_pool, interruptible};

/// Labels, bias, and the weights of the classifiers (indptr, indices, data), with the shapes that
/// `_rust.pyi` states.
type TreeArrays<'py> = (
    Bound<'py, PyArray2<i32>>,
    Bound<'py, PyArray2<f32>>,
    (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<i32>>, Bound<'py, PyArray1<f32>>),
);

/// Builds and trains a label tree.
#[pyfunction]
#[pyo3(signature = (
    x, n_features, y, n_labels, *, n_trees, max_leaf, max_label_features, max_rounds, cost,
    tolerance, max_passes, threshold, seed, num_threads=None
))]
#[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
pub(crate) fn fit_tree<'py>(
    py: Python<'py>,
    x: CsrArgs<'py>,
    n_features: i64,
    y: PatternArgs<'py>,
    n_labels: i64,
    n_trees: i64,
    max_leaf: i64,
    max_label_features: i64,
    max_rounds: i64,
    cost: f64,
    tolerance: f64,
    max_passes: i64,
    threshold: f32,
    seed: u64,
    num_threads: Option<i64>,
) -> PyResult<TreeArrays<'py>> {
    let options = TreeOptions {
        n_trees: count("n_trees", n_trees)?,
        max_leaf: count("max_leaf", max_leaf)?,
        max_label_features: count("max_label_features", max_label_features)?,
        max_rounds: count("max_rounds", max_rounds)?,
        cost,
        tolerance,
        max_passes: count("max_passes", max_passes)?,
        threshold,
        seed,
    };
    let (n_features, n_labels) = (count("n_features", n_features)?, count("n_labels", n_labels)?);
    let (x, y) = (CsrArrays::<f32>::borrow("x", &x)?, PatternArrays::borrow("y", &y)?);
    let (x, y) = (x.slices()?, y.slices()?);
    let tree = interruptible(py, num_threads, |keep_going| {
        let x = x.check_features("x", n_features)?;
        xmc_core::fit_tree(x, y.check("y", n_labels)?, &options, keep_going)
    })?;
    let (n, n_known) = (tree.n_trees, tree.labels.len() / tree.n_trees.max(1));
    let n_rows = tree.bias.len() / tree.n_trees.max(1);
    Ok((
        moved(py, tree.labels).reshape([n, n_known])?,
        moved(py, tree.bias).reshape([n, n_rows])?,
        (
            moved(py, tree.weights.indptr),
            moved(py, tree.weights.indices),
            moved(py, tree.weights.data),
        ),
    ))
}

/// A label tree that can be searched; made ready once.
#[pyclass(frozen, name = "LabelTree", module = "dexml._rust")]
pub(crate) struct PyLabelTree {
    inner: LabelTree,
    num_threads: Option<i64>,
}

#[pymethods]
impl PyLabelTree {
    #[new]
    #[pyo3(signature = (labels, bias, weights, *, n_labels, n_features, num_threads=None))]
    fn new<'py>(
        py: Python<'py>,
        labels: Bound<'py, PyAny>,
        bias: Bound<'py, PyAny>,
        weights: CsrArgs<'py>,
        n_labels: i64,
        n_features: i64,
        num_threads: Option<i64>,
    ) -> PyResult<Self> {
        let (n_labels, n_features) =
            (count("n_labels", n_labels)?, count("n_features", n_features)?);
        let (labels, bias) = (matrix::<i32>("labels", &labels)?, matrix::<f32>("bias", &bias)?);
        let n_trees = labels.shape()[0];
        if bias.shape()[0] != n_trees {
            let message = format!("bias: {} rows, but labels has {n_trees}", bias.shape()[0]);
            return Err(PyValueError::new_err(message));
        }
        let weights = CsrArrays::<f32>::borrow("weights", &weights)?;
        let (labels, bias, weights) = (labels.as_slice()?, bias.as_slice()?, weights.slices()?);
        let inner = in_pool(py, num_threads, || {
            let weights = weights.check_features("weights", n_features)?;
            LabelTree::new(n_labels, n_trees, labels, bias, weights)
        })?;
        Ok(Self { inner, num_threads })
    }

    /// The labels in the order of the leaves, a copy: (`n_trees`, n).
    fn labels<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<i32>>> {
        let (n, labels) = (self.inner.n_trees(), owned(self.inner.labels()).map_err(exception)?);
        let width = labels.len() / n;
        moved(py, labels).reshape([n, width])
    }

    /// Bias of each classifier, a copy: (`n_trees`, m).
    fn bias<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let (n, bias) = (self.inner.n_trees(), owned(self.inner.bias()).map_err(exception)?);
        let width = bias.len() / n;
        moved(py, bias).reshape([n, width])
    }

    /// Weights of the classifiers, a row each, a copy.
    fn weights<'py>(&self, py: Python<'py>) -> PyResult<CsrArgs<'py>> {
        Ok(moved_csr(py, detached(py, || self.inner.weights())?))
    }

    /// Ranks the labels that the beams reach: ids and scores (n, k), padded with -1 and -inf.
    #[pyo3(signature = (x, k, *, beam, exclude=None))]
    fn rank<'py>(
        &self,
        py: Python<'py>,
        x: CsrArgs<'py>,
        k: i64,
        beam: i64,
        exclude: Option<PatternArgs<'py>>,
    ) -> PyResult<Ranking<'py>> {
        let (k, beam) = (count("k", k)?, count("beam", beam)?);
        let x = CsrArrays::<f32>::borrow("x", &x)?;
        let exclude = exclude.as_ref().map(|exclude| PatternArrays::borrow("exclude", exclude));
        let exclude = exclude.transpose()?;
        let x = x.slices()?;
        let exclude = exclude.as_ref().map(PatternArrays::slices).transpose()?;
        let tree = &self.inner;
        let (n_rows, top) = in_pool(py, self.num_threads, || {
            let x = x.check_features("x", tree.n_features())?;
            let exclude =
                exclude.map(|exclude| exclude.check("exclude", tree.n_labels())).transpose()?;
            Ok((x.n_rows(), xmc_core::rank_tree(tree, x, k, beam, exclude)?))
        })?;
        moved_ranking(py, n_rows, top)
    }

    /// The labels that the beams reach with their scores, `(n, n_labels)`, rows sorted by label.
    #[pyo3(signature = (x, *, beam))]
    fn reach<'py>(&self, py: Python<'py>, x: CsrArgs<'py>, beam: i64) -> PyResult<CsrArgs<'py>> {
        let beam = count("beam", beam)?;
        let x = CsrArrays::<f32>::borrow("x", &x)?;
        let (x, tree) = (x.slices()?, &self.inner);
        let reached = in_pool(py, self.num_threads, || {
            xmc_core::reach_tree(tree, x.check_features("x", tree.n_features())?, beam)
        })?;
        Ok(moved_csr(py, reached))
    }

    /// Scores given labels (n, m), padded with -1.
    #[pyo3(signature = (x, ids, *, beam))]
    fn score<'py>(
        &self,
        py: Python<'py>,
        x: CsrArgs<'py>,
        ids: Bound<'py, PyAny>,
        beam: i64,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let beam = count("beam", beam)?;
        let x = CsrArrays::<f32>::borrow("x", &x)?;
        let ids = matrix::<i32>("ids", &ids)?;
        let (n_rows, width) = (ids.shape()[0], ids.shape()[1]);
        let (x, ids) = (x.slices()?, ids.as_slice()?);
        let tree = &self.inner;
        let scores = in_pool(py, self.num_threads, || {
            let x = x.check_features("x", tree.n_features())?;
            if x.n_rows() != n_rows {
                let (name, what) = ("ids".to_owned(), "rows");
                return Err(Error::Length { name, what, expected: x.n_rows(), found: n_rows });
            }
            xmc_core::score_tree(tree, x, ids, beam)
        })?;
        moved(py, scores).reshape([n_rows, width])
    }
}
