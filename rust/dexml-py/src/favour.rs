//! Rankings for a metric over all rows.

use numpy::PyArray1;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use xmc_core::{Together, Worth};

use crate::arrays::{CsrArgs, CsrArrays, moved, vector};
use crate::border::{count, in_pool, interruptible};

/// What [`favour`] returns: gains, sums, given, utility, passes.
type Found<'py> =
    (Bound<'py, PyArray1<f64>>, Bound<'py, PyArray1<f64>>, Bound<'py, PyArray1<f64>>, f64, usize);

/// Chooses the labels of each row that are best for all rows together.
#[pyfunction]
#[pyo3(signature = (
    probabilities, n_labels, k, together, *, scale, linear, offsets, seed, max_passes
))]
#[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
pub(crate) fn favour<'py>(
    py: Python<'py>,
    probabilities: CsrArgs<'py>,
    n_labels: i64,
    k: i64,
    together: &str,
    scale: f64,
    linear: Bound<'py, PyAny>,
    offsets: Bound<'py, PyAny>,
    seed: u64,
    max_passes: i64,
) -> PyResult<Found<'py>> {
    let (n_labels, k) = (count("n_labels", n_labels)?, count("k", k)?);
    let max_passes = count("max_passes", max_passes)?;
    let together = parse(together)?;
    let rows = CsrArrays::<f32>::borrow("probabilities", &probabilities)?;
    let (linear, offsets) =
        (vector::<f64>("linear", &linear)?, vector::<f64>("offsets", &offsets)?);
    let (rows, linear, offsets) = (rows.slices()?, linear.as_slice()?, offsets.as_slice()?);
    let found = interruptible(py, Some(1), |keep_going| {
        let rows = rows.check("probabilities", n_labels)?;
        let worth = Worth { together, scale, linear, offsets };
        xmc_core::favour(rows, k, &worth, seed, max_passes, keep_going)
    })?;
    let arrays = (moved(py, found.gains), moved(py, found.sums), moved(py, found.given));
    Ok((arrays.0, arrays.1, arrays.2, found.utility, found.passes))
}

/// What each entry would add to rows that were given labels before.
#[pyfunction]
#[pyo3(signature = (
    probabilities, n_labels, together, *, scale, linear, offsets, sums, given, num_threads=None
))]
#[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
pub(crate) fn gains_given<'py>(
    py: Python<'py>,
    probabilities: CsrArgs<'py>,
    n_labels: i64,
    together: &str,
    scale: f64,
    linear: Bound<'py, PyAny>,
    offsets: Bound<'py, PyAny>,
    sums: Bound<'py, PyAny>,
    given: Bound<'py, PyAny>,
    num_threads: Option<i64>,
) -> PyResult<Bound<'py, PyArray1<f64>>> {
    let n_labels = count("n_labels", n_labels)?;
    let together = parse(together)?;
    let rows = CsrArrays::<f32>::borrow("probabilities", &probabilities)?;
    let (linear, offsets) =
        (vector::<f64>("linear", &linear)?, vector::<f64>("offsets", &offsets)?);
    let (sums, given) = (vector::<f64>("sums", &sums)?, vector::<f64>("given", &given)?);
    let (rows, linear, offsets) = (rows.slices()?, linear.as_slice()?, offsets.as_slice()?);
    let (sums, given) = (sums.as_slice()?, given.as_slice()?);
    let gains = in_pool(py, num_threads, || {
        let rows = rows.check("probabilities", n_labels)?;
        let worth = Worth { together, scale, linear, offsets };
        xmc_core::gains_given(rows, &worth, sums, given)
    })?;
    Ok(moved(py, gains))
}

fn parse(together: &str) -> PyResult<Together> {
    match together {
        "nothing" => Ok(Together::Nothing),
        "precision" => Ok(Together::Precision),
        "f" => Ok(Together::F),
        "coverage" => Ok(Together::Coverage),
        other => {
            let message =
                format!("together = '{other}'; expected nothing, precision, f or coverage");
            Err(PyValueError::new_err(message))
        }
    }
}
