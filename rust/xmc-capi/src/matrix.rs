//! Matrices that the library owns, their files, and label weights.

use std::ffi::c_char;
use std::path::Path;
use std::ptr;

use xmc_core::{Csr, ParseOptions, inv_propensity, load_labels, load_pairs, save_labels};

use crate::arrays::{Out, count, give, handle, matrix, reference, text, xmc_csr};
use crate::pool::xmc_pool;
use crate::status::{Failure, guard, xmc_status};

/// A sparse matrix that the library has loaded and owns. It never changes.
pub struct xmc_matrix {
    csr: Csr,
    /// Pairs have no values.
    has_values: bool,
}

/// Loads label text: a line "rows labels", then a line of "label:value" tokens for each row.
///
/// Rows come out sorted by label. A label without a value is an error if `missing_value` is null, else
/// it gets the value there. Bad content gives XMC_STATUS_CONTENT and a message that names file and line.
///
/// On success `*matrix` is the caller's, to be ended with xmc_matrix_free; on failure it is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xmc_load_labels(
    pool: *const xmc_pool,
    path: *const c_char,
    missing_value: *const f32,
    matrix: *mut *mut xmc_matrix,
) -> xmc_status {
    // SAFETY: the caller keeps the promises of the header: pointers are null or what they stand for.
    guard(|| unsafe {
        give("matrix", matrix, || {
            let (pool, path) = (reference("pool", pool)?, Path::new(text("path", path)?));
            let missing_value = if missing_value.is_null() {
                None
            } else {
                Some(*reference("missing_value", missing_value)?)
            };
            let options = || ParseOptions { missing_value, ..ParseOptions::default() };
            let csr = pool.run(|| Ok(load_labels(path, options())?))?;
            Ok(xmc_matrix { csr, has_values: true })
        })
    })
}

/// Loads filter pairs, a line "row label" each, for a matrix of the given shape. An empty file has none.
///
/// The result holds each pair once; `n_repeated`, unless null, gets the number of repetitions dropped.
///
/// On success `*matrix` is the caller's, to be ended with xmc_matrix_free; on failure it is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xmc_load_pairs(
    path: *const c_char,
    n_rows: i64,
    n_labels: i64,
    matrix: *mut *mut xmc_matrix,
    n_repeated: *mut i64,
) -> xmc_status {
    // SAFETY: as in `xmc_load_labels`.
    guard(|| unsafe {
        give("matrix", matrix, || {
            let path = Path::new(text("path", path)?);
            let (n_rows, n_labels) = (count("n_rows", n_rows)?, count("n_labels", n_labels)?);
            let pairs = load_pairs(path, n_rows, n_labels)?;
            if !n_repeated.is_null() {
                Out::new("n_repeated", n_repeated, 1)?.write(&[pairs.n_repeated as i64])?;
            }
            let (indptr, indices) = (pairs.indptr, pairs.indices);
            let csr = Csr { n_cols: n_labels, indptr, indices, data: Vec::new() };
            Ok(xmc_matrix { csr, has_values: false })
        })
    })
}

/// Writes label text that xmc_load_labels reads back to the same matrix, and the same bytes each time.
///
/// The file appears under its name when it is complete, in the place of an older one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xmc_save_labels(path: *const c_char, y: *const xmc_csr) -> xmc_status {
    // SAFETY: as in `xmc_load_labels`.
    guard(|| unsafe {
        let (path, y) = (Path::new(text("path", path)?), matrix("y", y)?);
        Ok(save_labels(path, y.view()?)?)
    })
}

/// Fills `*view` with the arrays of a matrix; `data` is null for pairs.
///
/// The matrix keeps the arrays: read them until xmc_matrix_free, and do not change or free them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xmc_matrix_view(
    matrix: *const xmc_matrix,
    view: *mut xmc_csr,
) -> xmc_status {
    // SAFETY: as in `xmc_load_labels`.
    guard(|| unsafe {
        let xmc_matrix { csr, has_values } = reference("matrix", matrix)?;
        Out::new("view", view, 1)?.write(&[xmc_csr {
            n_rows: csr.n_rows() as i64,
            n_cols: csr.n_cols as i64,
            n_entries: csr.indices.len() as i64,
            indptr: csr.indptr.as_ptr(),
            indices: csr.indices.as_ptr(),
            data: if *has_values { csr.data.as_ptr() } else { ptr::null() },
        }])
    })
}

/// Ends a matrix and every view of it; null is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xmc_matrix_free(matrix: *mut xmc_matrix) {
    guard(|| {
        // SAFETY: null, or from a function of this module and given back once.
        drop(unsafe { handle(matrix) });
        Ok(())
    });
}

/// Inverse propensities 1 + C (n_l + b)^-a with C = (ln N - 1) (b + 1)^a of a training matrix.
///
/// n_l is the number of positives (values > 0) of label l, N the number of rows, at least 3. Usual
/// constants: a = 0.55, b = 1.5; a = 0.6, b = 2.6 for the Amazon sets; a = 0.5, b = 0.4 for Wikipedia-500K.
/// `weights` has room for `n_weights` numbers, which must be the number of labels.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xmc_inv_propensity(
    y_train: *const xmc_csr,
    a: f64,
    b: f64,
    weights: *mut f64,
    n_weights: i64,
) -> xmc_status {
    // SAFETY: as in `xmc_load_labels`.
    guard(|| unsafe {
        let y_train = matrix("y_train", y_train)?.view()?;
        let (n_weights, n_labels) = (count("n_weights", n_weights)?, y_train.n_cols());
        if n_weights != n_labels {
            let message = format!("weights: room for {n_weights}, expected {n_labels}");
            return Err(Failure::parameter(message));
        }
        let out = Out::new("weights", weights, n_weights)?;
        let mut counts = vec![0; n_labels];
        for row in 0..y_train.n_rows() {
            let (labels, values) = y_train.row(row);
            for (&label, &value) in labels.iter().zip(values) {
                counts[label as usize] += i64::from(value > 0.0);
            }
        }
        out.write(&inv_propensity(&counts, y_train.n_rows(), a, b)?)
    })
}
