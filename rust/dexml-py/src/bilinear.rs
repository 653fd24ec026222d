//! The bilinear model: its support, its weights, products of sparse rows.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use xmc_core::bilinear::{self, Loss, RefineOptions, SupportOptions};

use crate::arrays::{CsrArgs, CsrArrays, PatternArgs, PatternArrays, moved, moved_csr, vector};
use crate::border::{count, in_pool, interruptible};

/// The product of two sparse matrices.
#[pyfunction]
#[pyo3(signature = (left, right, shape, *, trusted=false, num_threads=None))]
pub(crate) fn multiply_rows<'py>(
    py: Python<'py>,
    left: CsrArgs<'py>,
    right: CsrArgs<'py>,
    shape: (i64, i64),
    trusted: bool,
    num_threads: Option<i64>,
) -> PyResult<CsrArgs<'py>> {
    let (n_rows, n_columns) = (count("shape", shape.0)?, count("shape", shape.1)?);
    let left = CsrArrays::<f32>::borrow("left", &left)?;
    let right = CsrArrays::<f32>::borrow("right", &right)?;
    let (left, right) = (left.slices()?, right.slices()?);
    let product = in_pool(py, num_threads, || {
        let left = left.check_features("left", n_rows)?;
        let right = right.lazy("right", n_columns)?;
        bilinear::multiply_rows(left, if trusted { right.trusted() } else { right })
    })?;
    Ok(moved_csr(py, product))
}

/// The pairs of features that a model may weigh, with first weights.
#[pyfunction]
#[pyo3(signature = (
    x, n_features, z, n_label_features, y, direct, *, k, alpha, direct_weight, threshold=0.0,
    num_threads=None
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
    num_threads: Option<i64>,
) -> PyResult<CsrArgs<'py>> {
    let options = SupportOptions { k: count("k", k)?, alpha, direct_weight, threshold };
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
    support: PatternArgs<'py>,
    shortlist: PatternArgs<'py>,
    loss: &str,
    cost: f64,
    positive_weight: f64,
    tolerance: f64,
    max_passes: i64,
    seed: u64,
    num_threads: Option<i64>,
) -> PyResult<Refined<'py>> {
    let loss = match loss {
        "squared-hinge" => Loss::SquaredHinge,
        "logistic" => Loss::Logistic,
        other => {
            let message = format!("loss must be 'squared-hinge' or 'logistic', not '{other}'");
            return Err(PyValueError::new_err(message));
        }
    };
    let max_passes = count("max_passes", max_passes)?;
    let options = RefineOptions { loss, cost, positive_weight, tolerance, max_passes, seed };
    let (n_c, n_d) =
        (count("n_features", n_features)?, count("n_label_features", n_label_features)?);
    let (x, z) = (CsrArrays::<f32>::borrow("x", &x)?, CsrArrays::<f32>::borrow("z", &z)?);
    let (y, support) =
        (PatternArrays::borrow("y", &y)?, PatternArrays::borrow("support", &support)?);
    let shortlist = PatternArrays::borrow("shortlist", &shortlist)?;
    let (x, z, y, support) = (x.slices()?, z.slices()?, y.slices()?, support.slices()?);
    let shortlist = shortlist.slices()?;
    let refined = interruptible(py, num_threads, |keep_going| {
        let (x, z) = (x.check_features("x", n_c)?, z.check_features("z", n_d)?);
        let y = y.check("y", z.n_rows())?;
        let support = support.check("support", n_d)?;
        let shortlist = shortlist.check("shortlist", z.n_rows())?;
        bilinear::refine(x, z, y, support, shortlist, &options, keep_going)
    })?;
    let weights = moved(py, refined.weights).into_any();
    Ok((weights, refined.bias, refined.objective, refined.n_passes, refined.converged))
}
