//! The best labels of each row, into the caller's memory.

use xmc_core::{Ranked, Score, TopK, merge_topk, topk_csr, topk_dense};

use crate::arrays::{Matrix, Out, count, matrix, pairs, reference, slice, xmc_csr, xmc_csr_f64};
use crate::pool::xmc_pool;
use crate::status::{Failure, Outcome, guard, xmc_status};

/// Ranked rows in the caller's memory: row after row, best first, padded with label -1.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct xmc_ranked {
    /// Rows.
    pub n_rows: i64,
    /// Labels a row.
    pub width: i64,
    /// Labels, `n_rows * width`.
    pub ids: *const i32,
    /// Their scores, `n_rows * width`.
    pub scores: *const f32,
}

/// The `k` best stored entries of each row of `y_pred`: larger scores first, equal scores by the smaller
/// label. Pairs in `exclude`, if not null, are dropped before the cut.
///
/// `ids` and `scores` have room for `n_values` numbers each, which must be `y_pred->n_rows * k`; short
/// rows are padded with label -1 and score -infinity.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xmc_topk_csr(
    pool: *const xmc_pool,
    y_pred: *const xmc_csr,
    k: i64,
    exclude: *const xmc_csr,
    ids: *mut i32,
    scores: *mut f32,
    n_values: i64,
) -> xmc_status {
    // SAFETY: the caller keeps the promises of the header: pointers are null or what they stand for.
    guard(|| unsafe { csr(pool, y_pred, k, exclude, ids, scores, n_values) })
}

/// xmc_topk_csr for scores of type double, which are ranked as such and rounded in the result only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xmc_topk_csr_f64(
    pool: *const xmc_pool,
    y_pred: *const xmc_csr_f64,
    k: i64,
    exclude: *const xmc_csr,
    ids: *mut i32,
    scores: *mut f32,
    n_values: i64,
) -> xmc_status {
    // SAFETY: as in `xmc_topk_csr`.
    guard(|| unsafe { csr(pool, y_pred, k, exclude, ids, scores, n_values) })
}

/// # Safety
/// Pointers are null or what they stand for.
unsafe fn csr<M: Matrix>(
    pool: *const xmc_pool,
    y_pred: *const M,
    k: i64,
    exclude: *const xmc_csr,
    ids: *mut i32,
    scores: *mut f32,
    n_values: i64,
) -> Outcome
where
    M::Value: Score,
{
    // SAFETY: as the caller promises.
    let (pool, y_pred) = unsafe { (reference("pool", pool)?, matrix("y_pred", y_pred)?) };
    // SAFETY: as the caller promises.
    let exclude = unsafe { pairs("exclude", exclude) }?;
    let k = count("k", k)?;
    // SAFETY: as the caller promises.
    let out = unsafe { Best::new(y_pred.n_rows(), k, ids, scores, n_values) }?;
    out.write(&pool.run(|| {
        let exclude = exclude.map(|exclude| exclude.pattern()).transpose()?;
        Ok(topk_csr(y_pred.view()?, k, exclude)?)
    })?)
}

/// The `k` best of dense rows: `values` holds `n_rows` rows of `n_labels` scores, row after row, whose
/// first column is label `first_label`.
///
/// Large label sets are scored block by block: rank each block with its `first_label`, then join the
/// results with xmc_merge_topk. Labels in `exclude` count from label 0. `ids`, `scores` and `n_values` as in
/// xmc_topk_csr.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xmc_topk_dense(
    pool: *const xmc_pool,
    values: *const f32,
    n_rows: i64,
    n_labels: i64,
    first_label: i64,
    k: i64,
    exclude: *const xmc_csr,
    ids: *mut i32,
    scores: *mut f32,
    n_values: i64,
) -> xmc_status {
    // SAFETY: as in `xmc_topk_csr`.
    guard(|| unsafe {
        let pool = reference("pool", pool)?;
        let (n_rows, n_labels) = (count("n_rows", n_rows)?, count("n_labels", n_labels)?);
        let (first_label, k) = (count("first_label", first_label)?, count("k", k)?);
        let values = slice("values", "", values, n_rows.saturating_mul(n_labels))?;
        let exclude = pairs("exclude", exclude)?;
        let out = Best::new(n_rows, k, ids, scores, n_values)?;
        out.write(&pool.run(|| {
            let exclude = exclude.map(|exclude| exclude.pattern()).transpose()?;
            Ok(topk_dense(values, n_rows, n_labels, k, exclude, first_label)?)
        })?)
    })
}

/// Joins the best labels of disjoint sets of labels, row by row, into the `k` best of all.
///
/// `shards` are `n_shards` results of the functions above, or of a search, of equally many rows: best first,
/// equal scores by the smaller label. `ids`, `scores` and `n_values` as in xmc_topk_csr; they may be the
/// memory of a shard.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xmc_merge_topk(
    pool: *const xmc_pool,
    shards: *const xmc_ranked,
    n_shards: i64,
    k: i64,
    ids: *mut i32,
    scores: *mut f32,
    n_values: i64,
) -> xmc_status {
    // SAFETY: as in `xmc_topk_csr`.
    guard(|| unsafe {
        let (pool, k) = (reference("pool", pool)?, count("k", k)?);
        let shards = slice("shards", "", shards, count("n_shards", n_shards)?)?;
        let Some(first) = shards.first() else {
            return Err(Failure::parameter("n_shards must be at least 1, not 0"));
        };
        let n_rows = count("shards[0]: n_rows", first.n_rows)?;
        let ranked = shards.iter().enumerate().map(|(i, shard)| ranked(i, shard, n_rows));
        let ranked = ranked.collect::<Outcome<Vec<_>>>()?;
        let out = Best::new(n_rows, k, ids, scores, n_values)?;
        // The borrows of the shards end here, before their memory may be written to.
        let merged = pool.run(|| Ok(merge_topk(n_rows, &ranked, k)?))?;
        out.write(&merged)
    })
}

/// # Safety
/// The pointers in `shard` are null or readable for the lengths it states.
unsafe fn ranked<'a>(i: usize, shard: &xmc_ranked, n_rows: usize) -> Outcome<Ranked<'a>> {
    let name = format!("shards[{i}]");
    let found = count(&format!("{name}: n_rows"), shard.n_rows)?;
    if found != n_rows {
        return Err(Failure::parameter(format!("{name}: {found} rows, expected {n_rows}")));
    }
    let width = count(&format!("{name}: width"), shard.width)?;
    let len = n_rows.saturating_mul(width);
    // SAFETY: as the caller promises.
    let ids = unsafe { slice(&name, "ids", shard.ids, len) }?;
    // SAFETY: as the caller promises.
    let scores = unsafe { slice(&name, "scores", shard.scores, len) }?;
    Ok(Ranked::new(n_rows, width, ids, scores)?)
}

/// Checked room for `k` labels and scores a row.
struct Best {
    ids: Out<i32>,
    scores: Out<f32>,
}

impl Best {
    /// # Safety
    /// The pointers are null or writable for `n_values` numbers while this lives.
    unsafe fn new(
        n_rows: usize,
        k: usize,
        ids: *mut i32,
        scores: *mut f32,
        n_values: i64,
    ) -> Outcome<Self> {
        let n_values = count("n_values", n_values)?;
        if n_rows.checked_mul(k) != Some(n_values) {
            let message = format!("n_values is {n_values}, not {n_rows} rows of k = {k} labels");
            return Err(Failure::parameter(message));
        }
        // SAFETY: as the caller promises.
        let (ids, scores) =
            unsafe { (Out::new("ids", ids, n_values)?, Out::new("scores", scores, n_values)?) };
        Ok(Self { ids, scores })
    }

    fn write(self, best: &TopK) -> Outcome {
        self.ids.write(&best.ids)?;
        self.scores.write(&best.scores)
    }
}
