//! The bilinear model: its support, its weights, products of sparse rows.

use std::path::PathBuf;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use xmc_core::Csr;
use xmc_core::bilinear::{
    self, Bilinear, BilinearParts, Labels, Loss, RefineOptions, SupportOptions, TextModel,
};
use xmc_core::lexical::Tokenizer;

use crate::arrays::{
    CsrArgs, CsrArrays, PatternArgs, PatternArrays, Ranking, moved, moved_csr, moved_ranking,
    owned, vector,
};
use crate::border::{count, detached, in_pool, interruptible};
use crate::lexical::{AlsoArgs, AlsoArray, PyInvertedIndex, PyTokenizer, PyVocabulary};

/// The pairs of features that a model may weigh, with first weights.
#[pyfunction]
#[pyo3(signature = (
    x, n_features, z, n_label_features, y, direct, *, k, alpha, direct_weight, threshold=0.0,
    row_limit=None, num_threads=None
))]
#[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
pub(crate) fn select_support<'py>(
    py: Python<'py>,
    x: CsrArgs<'py>,
    n_features: i64,
    z: CsrArgs<'py>,
    n_label_features: i64,
    y: PatternArgs<'py>,
    direct: Bound<'py, PyAny>,
    k: i64,
    alpha: f64,
    direct_weight: f32,
    threshold: f64,
    row_limit: Option<i64>,
    num_threads: Option<i64>,
) -> PyResult<CsrArgs<'py>> {
    let row_limit = row_limit.map(|n| count("row_limit", n)).transpose()?;
    let options = SupportOptions { k: count("k", k)?, alpha, direct_weight, threshold, row_limit };
    let (n_c, n_d) =
        (count("n_features", n_features)?, count("n_label_features", n_label_features)?);
    let (x, z) = (CsrArrays::<f32>::borrow("x", &x)?, CsrArrays::<f32>::borrow("z", &z)?);
    let (y, direct) = (PatternArrays::borrow("y", &y)?, vector::<i32>("direct", &direct)?);
    let (x, z, y, direct) = (x.slices()?, z.slices()?, y.slices()?, direct.as_slice()?);
    let support = interruptible(py, num_threads, |keep_going| {
        let (x, z) = (x.check_features("x", n_c)?, z.check_features("z", n_d)?);
        let y = y.check("y", z.n_rows())?;
        bilinear::select_support(x, z, y, direct, &options, keep_going)
    })?;
    Ok(moved_csr(py, support))
}

/// Weights (as many as the support has entries), bias, objective, passes, whether it converged.
type Refined<'py> = (Bound<'py, PyAny>, f32, f64, usize, bool);

/// Fits the weights of the support.
#[pyfunction]
#[pyo3(signature = (
    x, n_features, z, n_label_features, y, support, shortlist, *, loss, cost, positive_weight,
    tolerance, max_passes, seed, num_threads=None
))]
#[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
pub(crate) fn refine_support<'py>(
    py: Python<'py>,
    x: CsrArgs<'py>,
    n_features: i64,
    z: CsrArgs<'py>,
    n_label_features: i64,
    y: PatternArgs<'py>,
    support: CsrArgs<'py>,
    shortlist: PatternArgs<'py>,
    loss: &str,
    cost: f64,
    positive_weight: f64,
    tolerance: f64,
    max_passes: i64,
    seed: u64,
    num_threads: Option<i64>,
) -> PyResult<Refined<'py>> {
    let loss = loss_of(loss)?;
    let max_passes = count("max_passes", max_passes)?;
    let options = RefineOptions { loss, cost, positive_weight, tolerance, max_passes, seed };
    let (n_c, n_d) =
        (count("n_features", n_features)?, count("n_label_features", n_label_features)?);
    let (x, z) = (CsrArrays::<f32>::borrow("x", &x)?, CsrArrays::<f32>::borrow("z", &z)?);
    let y = PatternArrays::borrow("y", &y)?;
    let support = CsrArrays::<f32>::borrow("support", &support)?;
    let shortlist = PatternArrays::borrow("shortlist", &shortlist)?;
    let (x, z, y, support) = (x.slices()?, z.slices()?, y.slices()?, support.slices()?);
    let shortlist = shortlist.slices()?;
    let refined = interruptible(py, num_threads, |keep_going| {
        let (x, z) = (x.check_features("x", n_c)?, z.check_features("z", n_d)?);
        let y = y.check("y", z.n_rows())?;
        let support = support.check_features("support", n_d)?;
        let shortlist = shortlist.check("shortlist", z.n_rows())?;
        bilinear::refine(x, z, y, support, shortlist, &options, keep_going)
    })?;
    let weights = moved(py, refined.weights).into_any();
    Ok((weights, refined.bias, refined.objective, refined.n_passes, refined.converged))
}

fn loss_of(name: &str) -> PyResult<Loss> {
    match name {
        "squared-hinge" => Ok(Loss::SquaredHinge),
        "logistic" => Ok(Loss::Logistic),
        other => {
            let message = format!("loss must be 'squared-hinge' or 'logistic', not '{other}'");
            Err(PyValueError::new_err(message))
        }
    }
}

/// A fitted model, made ready once.
#[pyclass(frozen, name = "Bilinear", module = "dexml._rust")]
pub(crate) struct PyBilinear {
    inner: Bilinear,
}

#[pymethods]
impl PyBilinear {
    #[new]
    #[pyo3(signature = (
        support, n_label_features, refined, direct, *, bias, loss, score_alpha, shortlist
    ))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
    fn new<'py>(
        py: Python<'py>,
        support: CsrArgs<'py>,
        n_label_features: i64,
        refined: Bound<'py, PyAny>,
        direct: Bound<'py, PyAny>,
        bias: f32,
        loss: &str,
        score_alpha: f32,
        shortlist: i64,
    ) -> PyResult<Self> {
        let n_cols = count("n_label_features", n_label_features)?;
        let (loss, shortlist) = (loss_of(loss)?, count("shortlist", shortlist)?);
        let support = CsrArrays::<f32>::borrow("support", &support)?;
        let support = support.slices()?;
        let (refined, direct) =
            (vector::<f32>("refined", &refined)?, vector::<i32>("direct", &direct)?);
        let (refined, direct) = (refined.as_slice()?, direct.as_slice()?);
        let inner = in_pool(py, None, || {
            let support = support.copied("support", n_cols)?;
            let (refined, direct) = (owned(refined)?, owned(direct)?);
            let parts =
                BilinearParts { support, refined, bias, direct, loss, score_alpha, shortlist };
            Bilinear::new(parts)
        })?;
        Ok(Self { inner })
    }

    /// First weights, a copy: (point features x label features).
    fn support<'py>(&self, py: Python<'py>) -> PyResult<CsrArgs<'py>> {
        let support = detached(py, || {
            let Csr { n_cols, indptr, indices, data } = &self.inner.parts().support;
            let (indptr, indices, data) = (owned(indptr)?, owned(indices)?, owned(data)?);
            Ok(Csr { n_cols: *n_cols, indptr, indices, data })
        })?;
        Ok(moved_csr(py, support))
    }

    /// Fitted weights of the same entries, a copy.
    fn refined<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(moved(py, detached(py, || owned(&self.inner.parts().refined))?).into_any())
    }

    /// Fitted weights of some point features, a row each.
    fn refined_rows<'py>(
        &self,
        py: Python<'py>,
        features: Bound<'py, PyAny>,
    ) -> PyResult<CsrArgs<'py>> {
        let features = vector::<i32>("features", &features)?;
        let features = features.as_slice()?;
        Ok(moved_csr(py, detached(py, || self.inner.refined_rows(features))?))
    }

    /// Numbers of point features and label features.
    #[getter]
    fn shape(&self) -> (usize, usize) {
        (self.inner.n_features(), self.inner.n_label_features())
    }

    /// The k labels of largest inner product by the first weights.
    #[pyo3(signature = (index, x, k, *, exclude=None, only=None, also=None, num_threads=None))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
    fn find<'py>(
        &self,
        py: Python<'py>,
        index: &PyInvertedIndex,
        x: CsrArgs<'py>,
        k: i64,
        exclude: Option<PatternArgs<'py>>,
        only: Option<Bound<'py, PyAny>>,
        also: Option<AlsoArgs<'py>>,
        num_threads: Option<i64>,
    ) -> PyResult<Ranking<'py>> {
        let k = count("k", k)?;
        let x = CsrArrays::<f32>::borrow("x", &x)?;
        let exclude = exclude.map(|pairs| PatternArrays::borrow("exclude", &pairs)).transpose()?;
        let only = only.map(|only| vector::<bool>("only", &only)).transpose()?;
        let also = also.map(AlsoArray::borrow).transpose()?;
        let also = also.as_ref().map(AlsoArray::get).transpose()?;
        let x = x.slices()?;
        let exclude = exclude.as_ref().map(PatternArrays::slices).transpose()?;
        let only = only.as_ref().map(|only| only.as_slice()).transpose()?;
        let (model, index) = (&self.inner, index.inner());
        let (n_rows, top) = in_pool(py, num_threads, || {
            let x = x.check_features("x", model.n_features())?;
            let n_labels = index.n_rows();
            let exclude = exclude.map(|exclude| exclude.check("exclude", n_labels)).transpose()?;
            Ok((x.n_rows(), model.find(x, index, k, exclude, only, also)?))
        })?;
        moved_ranking(py, n_rows, top)
    }

    /// The terms of given pairs: by the fitted weights without bias, and by features of the same name.
    #[pyo3(signature = (x, z, pairs, *, num_threads=None))]
    fn terms<'py>(
        &self,
        py: Python<'py>,
        x: CsrArgs<'py>,
        z: CsrArgs<'py>,
        pairs: PatternArgs<'py>,
        num_threads: Option<i64>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let (x, z) = (CsrArrays::<f32>::borrow("x", &x)?, CsrArrays::<f32>::borrow("z", &z)?);
        let pairs = PatternArrays::borrow("pairs", &pairs)?;
        let (x, z, pairs) = (x.slices()?, z.slices()?, pairs.slices()?);
        let model = &self.inner;
        let (fitted, lexical) = in_pool(py, num_threads, || {
            let x = x.check_features("x", model.n_features())?;
            let z = z.lazy("z", model.n_label_features())?;
            model.terms(x, z, pairs.check("pairs", z.n_rows())?)
        })?;
        Ok((moved(py, fitted).into_any(), moved(py, lexical).into_any()))
    }

    /// Writes a file that answers texts without Python.
    fn save(
        &self,
        py: Python<'_>,
        path: PathBuf,
        tokenizer: &PyTokenizer,
        vocabulary: &PyVocabulary,
        sublinear: bool,
        labels: CsrArgs<'_>,
    ) -> PyResult<()> {
        let labels = CsrArrays::<f32>::borrow("labels", &labels)?;
        let labels = labels.slices()?;
        let (model, tokenizer) = (self.inner.clone(), tokenizer.inner().options().clone());
        let vocabulary = vocabulary.inner().clone();
        in_pool(py, None, || {
            let rows = labels.copied("labels", model.n_label_features())?;
            let (tokenizer, labels) = (Tokenizer::new(tokenizer)?, Labels::new(rows)?);
            TextModel::new(tokenizer, vocabulary, sublinear, model, labels)?.save(&path)
        })
    }
}
