//! Label graphs and negatives.

use numpy::{PyArray1, PyArray2, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;
use xmc_core::{
    Bipartite, CoOccurrence, Csr, DegreeCaps, NegativeSampler, Negatives, RandomWalk, Result,
    Shortlists, Source,
};

use crate::arrays::{CsrArgs, CsrArrays, PatternArgs, PatternArrays, matrix, moved, vector};
use crate::border::{count, exception, in_pool, interruptible};

/// Row pointers, labels and values of a result.
type CsrResult<'py> =
    (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<i32>>, Bound<'py, PyArray1<f32>>);

/// Neighbours of each label by random walks with restart.
#[pyfunction]
#[pyo3(signature = (
    y_train, n_labels, *, n_steps, restart, top, min_count, keep_self, seed, max_point_labels=None,
    max_label_points=None, num_threads=None
))]
#[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
pub(crate) fn random_walk<'py>(
    py: Python<'py>,
    y_train: CsrArgs<'py>,
    n_labels: i64,
    n_steps: i64,
    restart: f64,
    top: i64,
    min_count: i64,
    keep_self: bool,
    seed: u64,
    max_point_labels: Option<i64>,
    max_label_points: Option<i64>,
    num_threads: Option<i64>,
) -> PyResult<CsrResult<'py>> {
    let walk = RandomWalk {
        n_steps: count("n_steps", n_steps)?,
        restart,
        top: count("top", top)?,
        min_count: count("min_count", min_count)?,
        keep_self,
        seed,
    };
    let caps = caps(max_point_labels, max_label_points)?;
    neighbours(py, &y_train, n_labels, caps, num_threads, |graph, keep_going| {
        graph.random_walk(&walk, keep_going)
    })
}

/// Neighbours of each label by exact co-occurrence.
#[pyfunction]
#[pyo3(signature = (
    y_train, n_labels, *, normalise, top, min_count, keep_self, max_point_labels=None,
    max_label_points=None, num_threads=None
))]
#[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
pub(crate) fn co_occurrence<'py>(
    py: Python<'py>,
    y_train: CsrArgs<'py>,
    n_labels: i64,
    normalise: &str,
    top: i64,
    min_count: i64,
    keep_self: bool,
    max_point_labels: Option<i64>,
    max_label_points: Option<i64>,
    num_threads: Option<i64>,
) -> PyResult<CsrResult<'py>> {
    let options = CoOccurrence {
        top: count("top", top)?,
        normalise: normalise.parse().map_err(exception)?,
        min_count: count("min_count", min_count)?,
        keep_self,
    };
    let caps = caps(max_point_labels, max_label_points)?;
    neighbours(py, &y_train, n_labels, caps, num_threads, |graph, keep_going| {
        graph.co_occurrence(&options, keep_going)
    })
}

fn caps(point: Option<i64>, label: Option<i64>) -> PyResult<DegreeCaps> {
    let max_point_labels = point.map(|max| count("max_point_labels", max)).transpose()?;
    let max_label_points = label.map(|max| count("max_label_points", max)).transpose()?;
    Ok(DegreeCaps { max_point_labels, max_label_points })
}

fn neighbours<'py>(
    py: Python<'py>,
    y_train: &CsrArgs<'py>,
    n_labels: i64,
    caps: DegreeCaps,
    num_threads: Option<i64>,
    find: impl FnOnce(&Bipartite, &(dyn Fn() -> bool + Sync)) -> Result<Csr> + Send,
) -> PyResult<CsrResult<'py>> {
    let n_labels = count("n_labels", n_labels)?;
    let y_train = CsrArrays::<f32>::borrow("y_train", y_train)?;
    let y_train = y_train.slices()?;
    let csr = interruptible(py, num_threads, |keep_going| {
        find(&Bipartite::new(y_train.check("y_train", n_labels)?, caps)?, keep_going)
    })?;
    Ok((moved(py, csr.indptr), moved(py, csr.indices), moved(py, csr.data)))
}

/// Draws negatives for points; prepared once.
#[pyclass(frozen, name = "NegativeSampler", module = "dexml._rust")]
pub(crate) struct PyNegativeSampler {
    inner: NegativeSampler,
    num_threads: Option<i64>,
}

#[pymethods]
impl PyNegativeSampler {
    #[new]
    #[pyo3(signature = (
        y, n_labels, n_negatives, sources, *, alpha, smoothing, exclude=None, candidates=None,
        graph=None, even_edges=false, shortlist_rows=None, shortlist_ids=None, num_threads=None
    ))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
    fn new<'py>(
        py: Python<'py>,
        y: CsrArgs<'py>,
        n_labels: i64,
        n_negatives: i64,
        sources: Vec<(String, f64)>,
        alpha: f64,
        smoothing: f64,
        exclude: Option<PatternArgs<'py>>,
        candidates: Option<Bound<'py, PyAny>>,
        graph: Option<CsrArgs<'py>>,
        even_edges: bool,
        shortlist_rows: Option<PatternArgs<'py>>,
        shortlist_ids: Option<Bound<'py, PyAny>>,
        num_threads: Option<i64>,
    ) -> PyResult<Self> {
        let n_labels = count("n_labels", n_labels)?;
        let n_negatives = count("n_negatives", n_negatives)?;
        let sources: Vec<(Source, f64)> = sources
            .iter()
            .map(|(name, share)| Ok((name.parse()?, *share)))
            .collect::<Result<_>>()
            .map_err(exception)?;
        let pattern = |name, args: Option<PatternArgs<'py>>| {
            args.map(|args| PatternArrays::borrow(name, &args)).transpose()
        };
        let y = CsrArrays::<f32>::borrow("y", &y)?;
        let exclude = pattern("exclude", exclude)?;
        let candidates = candidates.map(|mask| vector::<bool>("candidates", &mask)).transpose()?;
        let graph = graph.map(|graph| CsrArrays::<f32>::borrow("graph", &graph)).transpose()?;
        let listed = pattern("shortlist", shortlist_rows)?;
        let ids = shortlist_ids.map(|ids| matrix::<i32>("shortlist", &ids)).transpose()?;

        let y = y.slices()?;
        let exclude = exclude.as_ref().map(PatternArrays::slices).transpose()?;
        let candidates = candidates.as_ref().map(|mask| mask.as_slice()).transpose()?;
        let graph = graph.as_ref().map(CsrArrays::slices).transpose()?;
        let listed = listed.as_ref().map(PatternArrays::slices).transpose()?;
        let width = ids.as_ref().map_or(0, |ids| ids.shape()[1]);
        let ids = ids.as_ref().map(|ids| ids.as_slice()).transpose()?;
        let inner = in_pool(py, num_threads, || {
            let exclude = exclude.map(|exclude| exclude.check("exclude", n_labels)).transpose()?;
            let graph = graph.map(|graph| graph.check("graph", n_labels)).transpose()?;
            let listed = listed.map(|rows| rows.check("shortlist", n_labels)).transpose()?;
            let shortlists = match (listed, ids) {
                (Some(pattern), _) => Some(Shortlists::Csr(pattern)),
                (None, Some(ids)) => Some(Shortlists::Ids { width, ids }),
                (None, None) => None,
            };
            let wanted = Negatives {
                n_negatives,
                sources: &sources,
                exclude,
                candidates,
                alpha,
                smoothing,
                graph,
                even_edges,
                shortlists,
            };
            NegativeSampler::new(y.check("y", n_labels)?, &wanted)
        })?;
        Ok(Self { inner, num_threads })
    }

    /// How many negatives of a row come from each source, in the order of a row.
    #[getter]
    fn mixture(&self) -> Vec<(&'static str, usize)> {
        self.inner.mixture().iter().map(|&(source, count)| (source.name(), count)).collect()
    }

    /// Negatives of points, padded with -1.
    #[pyo3(signature = (rows, *, seed, epoch))]
    fn draw<'py>(
        &self,
        py: Python<'py>,
        rows: Bound<'py, PyAny>,
        seed: u64,
        epoch: u64,
    ) -> PyResult<Bound<'py, PyArray2<i32>>> {
        let rows = vector::<i64>("rows", &rows)?;
        let rows = rows.as_slice()?;
        let inner = &self.inner;
        let ids = in_pool(py, self.num_threads, || inner.draw(rows, seed, epoch))?;
        moved(py, ids).reshape([rows.len(), self.inner.n_negatives()])
    }
}
