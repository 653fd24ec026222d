//! Bilinear models that answer texts.

use std::ffi::c_char;
use std::path::Path;

use xmc_core::bilinear::TextModel;

use crate::arrays::{Out, count, give, handle, pairs, reference, slice, text, xmc_csr};
use crate::pool::xmc_pool;
use crate::status::{Failure, Outcome, guard, xmc_status};

/// A bilinear model (ZestXML) with its words and labels. It never changes: threads may share it.
pub struct xmc_bilinear {
    model: TextModel,
}

/// Opens a file that `python -m dexml.zest export` wrote. Another file, or one that was changed or cut, gives
/// XMC_STATUS_CONTENT.
///
/// On success `*model` is the caller's, to be ended with xmc_bilinear_free; on failure it is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xmc_bilinear_open(
    pool: *const xmc_pool,
    path: *const c_char,
    model: *mut *mut xmc_bilinear,
) -> xmc_status {
    // SAFETY: the caller keeps the promises of the header: pointers are null or what they stand for.
    guard(|| unsafe {
        give("model", model, || {
            let (pool, path) = (reference("pool", pool)?, Path::new(text("path", path)?));
            Ok(xmc_bilinear { model: pool.run(|| Ok(TextModel::open(path)?))? })
        })
    })
}

/// Writes the number of labels to `*n_labels`: ids are below it. Labels that were removed are never found.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xmc_bilinear_n_labels(
    model: *const xmc_bilinear,
    n_labels: *mut i64,
) -> xmc_status {
    // SAFETY: as in `xmc_bilinear_open`.
    guard(|| unsafe {
        let model = reference("model", model)?;
        Out::new("n_labels", n_labels, 1)?.write(&[model.model.n_labels() as i64])
    })
}

/// The `k` best labels of each text: larger scores first, equal scores by the smaller label.
///
/// `texts` are `n_texts` texts in UTF-8. `ids` and `scores` have room for `n_values` numbers each, which must be
/// `n_texts * k`; short rows are padded with label -1 and score -infinity.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xmc_bilinear_search(
    pool: *const xmc_pool,
    model: *const xmc_bilinear,
    texts: *const *const c_char,
    n_texts: i64,
    k: i64,
    ids: *mut i32,
    scores: *mut f32,
    n_values: i64,
) -> xmc_status {
    // SAFETY: as in `xmc_bilinear_open`.
    guard(|| unsafe {
        let (pool, model) = (reference("pool", pool)?, reference("model", model)?);
        let texts = strings(texts, n_texts)?;
        let (k, n_values) = (count("k", k)?, count("n_values", n_values)?);
        if texts.len().checked_mul(k) != Some(n_values) {
            let (n, values) = (texts.len(), n_values);
            let message = format!("n_values is {values}, not {n} rows of k = {k} labels");
            return Err(Failure::parameter(message));
        }
        let (ids, scores) =
            (Out::new("ids", ids, n_values)?, Out::new("scores", scores, n_values)?);
        let best = pool.run(|| Ok(model.model.search(&texts, k)?))?;
        ids.write(&best.ids)?;
        scores.write(&best.scores)
    })
}

/// The score of each stored entry of `pairs` (texts x labels), in their order; -infinity for a label that was
/// removed or has no feature. The values of `pairs` do not count.
///
/// `scores` has room for `n_values` numbers, which must be the number of entries.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xmc_bilinear_score(
    pool: *const xmc_pool,
    model: *const xmc_bilinear,
    texts: *const *const c_char,
    n_texts: i64,
    pairs: *const xmc_csr,
    scores: *mut f32,
    n_values: i64,
) -> xmc_status {
    // SAFETY: as in `xmc_bilinear_open`.
    guard(|| unsafe {
        let (pool, model) = (reference("pool", pool)?, reference("model", model)?);
        let (texts, pairs) = (strings(texts, n_texts)?, self::pairs("pairs", pairs)?);
        let Some(pairs) = pairs else {
            return Err(Failure::parameter("pairs is null"));
        };
        let n_values = count("n_values", n_values)?;
        let found = pool.run(|| Ok(model.model.score(&texts, pairs.pattern()?)?))?;
        if found.len() != n_values {
            let message =
                format!("n_values is {n_values}, not {}, the entries of pairs", found.len());
            return Err(Failure::parameter(message));
        }
        Out::new("scores", scores, n_values)?.write(&found)
    })
}

/// Ends a model; null is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xmc_bilinear_free(model: *mut xmc_bilinear) {
    guard(|| {
        // SAFETY: null, or from `xmc_bilinear_open` and given back once.
        drop(unsafe { handle(model) });
        Ok(())
    });
}

/// # Safety
/// `texts` is null or readable for `n_texts` pointers, each null or to a text with a nul at its end.
unsafe fn strings<'a>(texts: *const *const c_char, n_texts: i64) -> Outcome<Vec<&'a str>> {
    let n_texts = count("n_texts", n_texts)?;
    // SAFETY: as the caller promises.
    let texts: &[*const c_char] = unsafe { slice("texts", "", texts, n_texts) }?;
    // SAFETY: as the caller promises.
    texts.iter().enumerate().map(|(i, &one)| unsafe { text(&format!("texts[{i}]"), one) }).collect()
}
