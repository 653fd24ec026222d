//! The streaming evaluator.

use std::ffi::c_char;
use std::sync::{Mutex, MutexGuard, PoisonError};

use xmc_core::{
    CsrPattern, CsrView, EmptyRows, Evaluator, Id, Metric, Options, PsNdcg, RowValues, Score, Ties,
};

use crate::arrays::{
    Matrix, Out, count, give, handle, matrix, pairs, reference, slice, text, xmc_csr, xmc_csr_f64,
};
use crate::pool::xmc_pool;
use crate::status::{Failure, Outcome, guard, xmc_status};

/// What a row without positives means for P, nDCG, R and MRR.
#[repr(C)]
pub enum xmc_empty_rows {
    /// It counts as 0.
    Zero = 0,
    /// It is left out of the mean.
    Skip = 1,
}

/// Which PSnDCG is meant where a row has fewer than k positives.
#[repr(C)]
pub enum xmc_psndcg {
    /// Row terms divided by the ideal of min(k, n) hits, as pyxclib does.
    Xclib = 0,
    /// Row terms undivided, as the benchmark's Matlab scripts do.
    Matlab = 1,
}

/// Which of two labels with equal scores ranks first.
#[repr(C)]
pub enum xmc_ties {
    /// The smaller label.
    Smaller = 0,
    /// The larger label, as pyxclib does in rows of up to 15 entries.
    Larger = 1,
}

/// Settings of an evaluator. Start from `xmc_options options = XMC_OPTIONS_INIT;`, in which all fields
/// but `size` are 0 and stand for the defaults.
///
/// `size` lets programs and libraries of different versions meet: fields that a program does not know
/// keep their defaults, and a field that the library does not know must be 0.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct xmc_options {
    /// sizeof(xmc_options).
    pub size: usize,
    /// Inverse propensity of each label, needed by the PS metrics; copied. Null: none.
    pub inv_propensity: *const f64,
    /// Length of `inv_propensity`: the number of labels, or 0.
    pub n_inv_propensity: i64,
    /// A value of xmc_empty_rows.
    pub empty_rows: u32,
    /// A value of xmc_psndcg.
    pub psndcg: u32,
    /// 1 keeps the value of each metric for each row, for xmc_evaluator_row_values.
    pub keep_rows: u32,
    /// A value of xmc_ties.
    pub ties: u32,
}

/// Numbers of rows and pairs that an evaluator has met. Start from `xmc_counts counts = XMC_COUNTS_INIT;`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct xmc_counts {
    /// sizeof(xmc_counts).
    pub size: usize,
    /// Rows so far.
    pub n_rows: i64,
    /// Rows without positives.
    pub n_empty: i64,
    /// Entries dropped from rankings because their pair was excluded.
    pub n_excluded: i64,
    /// Positives whose pair was excluded, each a sure miss.
    pub n_excluded_positives: i64,
}

/// Scores rankings against the truth, block of rows by block of rows, in constant memory.
///
/// Every kind of metric asked for is summed at every k up to the largest. Values are fractions, the
/// same to the last bit for any number of threads and however the rows are cut into updates.
pub struct xmc_evaluator {
    inner: Mutex<Evaluator>,
}

impl xmc_evaluator {
    /// Updates commit only when they have succeeded, so a poisoned evaluator is as good as before.
    fn lock(&self) -> MutexGuard<'_, Evaluator> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes an evaluator for `n_labels` labels.
///
/// `metrics` holds names separated by commas, such as "P@1,nDCG@5,PSP@5"; kinds are P, nDCG, R, MRR,
/// PSP, PSnDCG, PSR, Success, Coverage, macroP, macroR, macroF, AP, RP; of the first k labels as a set:
/// microP, microR, microF, sampleP, sampleR, sampleF, Hamming, Exact; of scores that are probabilities:
/// Brier, NLL, ECE, ECEover, ECEunder, ACE. `options` may be null for the defaults.
///
/// On success `*evaluator` is the caller's, to be ended with xmc_evaluator_free; on failure it is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xmc_evaluator_new(
    n_labels: i64,
    metrics: *const c_char,
    options: *const xmc_options,
    evaluator: *mut *mut xmc_evaluator,
) -> xmc_status {
    // SAFETY: the caller keeps the promises of the header: pointers are null or what they stand for.
    guard(|| unsafe {
        give("evaluator", evaluator, || {
            let n_labels = count("n_labels", n_labels)?;
            let names = text("metrics", metrics)?.split(',').map(str::trim);
            let metrics = names.map(str::parse).collect::<xmc_core::Result<Vec<Metric>>>()?;
            let inner = Mutex::new(Evaluator::new(n_labels, &metrics, read_options(options)?)?);
            Ok(xmc_evaluator { inner })
        })
    })
}

/// Size of the options of the first version; later fields stand behind them.
const FIRST_OPTIONS: usize = size_of::<xmc_options>();

#[allow(clippy::needless_update, reason = "the core may have settings that C cannot reach yet")]
/// # Safety
/// `options` is null or starts with its size in bytes, all of which are readable.
unsafe fn read_options(options: *const xmc_options) -> Outcome<Options> {
    if options.is_null() {
        return Ok(Options::default());
    }
    let (own, start) = (size_of::<xmc_options>(), options.cast::<u8>());
    // SAFETY: an object of options starts with its size.
    let size = unsafe { *reference("options", options.cast::<usize>())? };
    if !(FIRST_OPTIONS..=1 << 16).contains(&size) {
        let message = format!("options: size is {size}, not sizeof(xmc_options) = {own}");
        return Err(Failure::parameter(message));
    }
    // SAFETY: the object is as large as it says.
    let unknown =
        unsafe { slice("options", "", start.add(own.min(size)), size.saturating_sub(own)) }?;
    if unknown.iter().any(|&byte| byte != 0) {
        let message = "options: a setting of a later version of the library is not 0";
        return Err(Failure::parameter(message));
    }
    // SAFETY: aligned, by the test of `reference`, and at least as large as this version's.
    let options = unsafe { options.read() };
    let n_weights = count("options: n_inv_propensity", options.n_inv_propensity)?;
    let inv_propensity = if options.inv_propensity.is_null() && n_weights == 0 {
        None
    } else {
        // SAFETY: the caller promises that the pointer is null or has that many numbers behind it.
        let weights =
            unsafe { slice("options", "inv_propensity", options.inv_propensity, n_weights) };
        Some(weights?.to_vec())
    };
    let choice = |name: &str, value: u32| match value {
        0 | 1 => Ok(value == 1),
        _ => Err(Failure::parameter(format!("options: {name} must be 0 or 1, not {value}"))),
    };
    let skip = choice("empty_rows", options.empty_rows)?;
    let matlab = choice("psndcg", options.psndcg)?;
    let larger = choice("ties", options.ties)?;
    Ok(Options {
        inv_propensity,
        empty_rows: if skip { EmptyRows::Skip } else { EmptyRows::Zero },
        psndcg: if matlab { PsNdcg::Matlab } else { PsNdcg::Xclib },
        ties: if larger { Ties::Larger } else { Ties::Smaller },
        keep_rows: choice("keep_rows", options.keep_rows)?,
        ..Options::default()
    })
}

/// Adds points with ranked labels.
///
/// `y_true` holds the truth of `y_true->n_rows` points: a value > 0 is a positive. `y_pred` holds as many
/// rows of `width` labels, row after row, best first, padded with -1 at the end of a row; `width` is at
/// least the largest k. Pairs in `exclude`, if not null, leave the ranking before it is cut at k; its
/// values are not looked at.
///
/// A failing update changes nothing. Rows in its message count from the first row of this update.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xmc_evaluator_update_ids(
    evaluator: *mut xmc_evaluator,
    pool: *const xmc_pool,
    y_true: *const xmc_csr,
    y_pred: *const i32,
    width: i64,
    exclude: *const xmc_csr,
) -> xmc_status {
    // SAFETY: as in `xmc_evaluator_new`.
    guard(|| unsafe { update_ids(evaluator, pool, y_true, y_pred, width, exclude) })
}

/// xmc_evaluator_update_ids for ids of 64 bits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xmc_evaluator_update_ids_i64(
    evaluator: *mut xmc_evaluator,
    pool: *const xmc_pool,
    y_true: *const xmc_csr,
    y_pred: *const i64,
    width: i64,
    exclude: *const xmc_csr,
) -> xmc_status {
    // SAFETY: as in `xmc_evaluator_new`.
    guard(|| unsafe { update_ids(evaluator, pool, y_true, y_pred, width, exclude) })
}

/// Adds points with scored labels: every stored entry of `y_pred` is ranked, larger scores first, equal
/// scores by the smaller label. NaN is an error.
///
/// `y_true` and `exclude` as in xmc_evaluator_update_ids.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xmc_evaluator_update_scores(
    evaluator: *mut xmc_evaluator,
    pool: *const xmc_pool,
    y_true: *const xmc_csr,
    y_pred: *const xmc_csr,
    exclude: *const xmc_csr,
) -> xmc_status {
    // SAFETY: as in `xmc_evaluator_new`.
    guard(|| unsafe { update_scores(evaluator, pool, y_true, y_pred, exclude) })
}

/// xmc_evaluator_update_scores for scores of type double.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xmc_evaluator_update_scores_f64(
    evaluator: *mut xmc_evaluator,
    pool: *const xmc_pool,
    y_true: *const xmc_csr,
    y_pred: *const xmc_csr_f64,
    exclude: *const xmc_csr,
) -> xmc_status {
    // SAFETY: as in `xmc_evaluator_new`.
    guard(|| unsafe { update_scores(evaluator, pool, y_true, y_pred, exclude) })
}

/// # Safety
/// Pointers are null or what they stand for.
unsafe fn update_ids<I: Id>(
    evaluator: *mut xmc_evaluator,
    pool: *const xmc_pool,
    y_true: *const xmc_csr,
    y_pred: *const I,
    width: i64,
    exclude: *const xmc_csr,
) -> Outcome {
    let width = count("width", width)?;
    // SAFETY: as the caller promises.
    let n_rows = unsafe { matrix("y_true", y_true) }?.n_rows();
    // SAFETY: as the caller promises.
    let y_pred = unsafe { slice("y_pred", "", y_pred, n_rows.saturating_mul(width)) }?;
    let add = |evaluator: &mut Evaluator, y_true: CsrView<'_>, exclude: Option<CsrPattern<'_>>| {
        evaluator.update_ids(y_true, y_pred, width, exclude)
    };
    // SAFETY: as the caller promises.
    unsafe { update(evaluator, pool, y_true, exclude, add) }
}

/// # Safety
/// Pointers are null or what they stand for.
unsafe fn update_scores<M: Matrix>(
    evaluator: *mut xmc_evaluator,
    pool: *const xmc_pool,
    y_true: *const xmc_csr,
    y_pred: *const M,
    exclude: *const xmc_csr,
) -> Outcome
where
    M::Value: Score,
{
    // SAFETY: as the caller promises.
    let y_pred = unsafe { matrix("y_pred", y_pred) }?;
    let add = |evaluator: &mut Evaluator, y_true: CsrView<'_>, exclude: Option<CsrPattern<'_>>| {
        evaluator.update_scores(y_true, y_pred.view()?, exclude)
    };
    // SAFETY: as the caller promises.
    unsafe { update(evaluator, pool, y_true, exclude, add) }
}

/// # Safety
/// Pointers are null or what they stand for.
unsafe fn update(
    evaluator: *mut xmc_evaluator,
    pool: *const xmc_pool,
    y_true: *const xmc_csr,
    exclude: *const xmc_csr,
    add: impl FnOnce(&mut Evaluator, CsrView<'_>, Option<CsrPattern<'_>>) -> xmc_core::Result<()> + Send,
) -> Outcome {
    // SAFETY: as the caller promises.
    let (evaluator, pool) =
        unsafe { (reference("evaluator", evaluator)?, reference("pool", pool)?) };
    // SAFETY: as the caller promises.
    let (y_true, exclude) = unsafe { (matrix("y_true", y_true)?, pairs("exclude", exclude)?) };
    // The lock is taken outside the pool: a thread of the pool that waits for parts of one update may
    // start another update meanwhile, and would wait for itself.
    let mut evaluator = evaluator.lock();
    let inner = &mut *evaluator;
    pool.run(|| {
        let exclude = exclude.map(|exclude| exclude.pattern()).transpose()?;
        Ok(add(inner, y_true.view()?, exclude)?)
    })
}

/// Adds the rows of `other`, made with the same settings, after the rows of `evaluator`. `other` stays as
/// it is and remains the caller's. The order of merges shows in the last bits of sums only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xmc_evaluator_merge(
    evaluator: *mut xmc_evaluator,
    other: *const xmc_evaluator,
) -> xmc_status {
    // SAFETY: as in `xmc_evaluator_new`.
    guard(|| unsafe {
        let (evaluator, other) = (reference("evaluator", evaluator)?, reference("other", other)?);
        // One lock at a time: two threads may merge the same pair both ways.
        let other = other.lock().clone();
        Ok(evaluator.lock().merge(&other)?)
    })
}

/// The metric over all rows so far: any kind at any k up to the largest k of the list; means over labels,
/// AP, RP, and metrics of sets and of probabilities at the k of the list only.
///
/// XMC_STATUS_UNDEFINED if there are no rows, or no positives for a PS metric.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xmc_evaluator_value(
    evaluator: *const xmc_evaluator,
    metric: *const c_char,
    value: *mut f64,
) -> xmc_status {
    // SAFETY: as in `xmc_evaluator_new`.
    guard(|| unsafe {
        let (evaluator, metric) = (reference("evaluator", evaluator)?, text("metric", metric)?);
        let out = Out::new("value", value, 1)?;
        let value = evaluator.lock().value(metric.parse()?)?;
        out.write(&[value])
    })
}

/// Numbers of rows and pairs so far.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xmc_evaluator_counts(
    evaluator: *const xmc_evaluator,
    counts: *mut xmc_counts,
) -> xmc_status {
    // SAFETY: as in `xmc_evaluator_new`; the object starts with its size.
    guard(|| unsafe {
        let evaluator = reference("evaluator", evaluator)?;
        let (size, own) = (*reference("counts", counts.cast::<usize>())?, size_of::<xmc_counts>());
        // A larger object is one of a later version, whose new fields stay as they are.
        if size < own {
            let message = format!("counts: size is {size}, not sizeof(xmc_counts) = {own}");
            return Err(Failure::parameter(message));
        }
        let inner = evaluator.lock();
        Out::new("counts", counts, 1)?.write(&[xmc_counts {
            size,
            n_rows: inner.n_rows() as i64,
            n_empty: inner.n_empty() as i64,
            n_excluded: inner.n_excluded() as i64,
            n_excluded_positives: inner.n_excluded_positives() as i64,
        }])
    })
}

/// The terms of a metric of the list, one for each row so far, if `keep_rows` was set.
///
/// The metric is the sum of `numerators` over the sum of `denominators`, rows with NaN (skipped ones)
/// left out. Denominators are 1 but for the PS metrics, microP, microR, microF, Brier and NLL; only for
/// those they may not be null. Both arrays
/// have room for `n_values` numbers, which must be the number of rows.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xmc_evaluator_row_values(
    evaluator: *const xmc_evaluator,
    metric: *const c_char,
    numerators: *mut f64,
    denominators: *mut f64,
    n_values: i64,
) -> xmc_status {
    // SAFETY: as in `xmc_evaluator_new`.
    guard(|| unsafe {
        let (evaluator, metric) = (reference("evaluator", evaluator)?, text("metric", metric)?);
        let n_values = count("n_values", n_values)?;
        let rows = evaluator.lock().row_values(metric.parse()?)?;
        let (above, below) = match rows {
            RowValues::Mean(values) => {
                let ones = values.iter().map(|value| if value.is_nan() { *value } else { 1.0 });
                let ones = (!denominators.is_null()).then(|| ones.collect::<Vec<_>>());
                (values, ones)
            }
            RowValues::Ratio { numerators, denominators } => (numerators, Some(denominators)),
        };
        if n_values != above.len() {
            let message = format!("values: room for {n_values} rows, expected {}", above.len());
            return Err(Failure::parameter(message));
        }
        let numerators = Out::new("numerators", numerators, n_values)?;
        if let Some(below) = below {
            Out::new("denominators", denominators, n_values)?.write(&below)?;
        }
        numerators.write(&above)
    })
}

/// Ends an evaluator; null is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xmc_evaluator_free(evaluator: *mut xmc_evaluator) {
    guard(|| {
        // SAFETY: null, or from `xmc_evaluator_new` and given back once.
        drop(unsafe { handle(evaluator) });
        Ok(())
    });
}
