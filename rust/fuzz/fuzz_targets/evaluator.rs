//! The evaluator through the C interface, with arrays that are often wrong: a status and never a panic,
//! and P@k as counting finds it.
#![no_main]

use std::collections::HashSet;
use std::ffi::CString;
use std::ptr::{null, null_mut};
use std::sync::OnceLock;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use xmc::*;

#[derive(Arbitrary, Debug)]
struct Matrix {
    rows: Vec<Vec<(u8, f32)>>,
    /// Where the arrays are made wrong, and how.
    faults: Vec<(u8, i64)>,
}

#[derive(Arbitrary, Debug)]
struct Input {
    n_labels: u8,
    k: u8,
    metrics: String,
    truth: Matrix,
    scores: Matrix,
    exclude: Option<Matrix>,
    ids: Vec<i8>,
    width: u8,
    settings: [u8; 4],
    weights: Vec<f64>,
}

struct Arrays {
    n_cols: i64,
    indptr: Vec<i64>,
    indices: Vec<i32>,
    data: Vec<f32>,
}

impl Arrays {
    fn new(matrix: &Matrix, n_cols: i64, n_rows: usize) -> Self {
        let mut arrays = Self { n_cols, indptr: vec![0], indices: vec![], data: vec![] };
        for row in (0..n_rows).map(|row| matrix.rows.get(row).map_or(&[][..], |row| row)) {
            arrays.indices.extend(row.iter().map(|&(label, _)| i32::from(label)));
            arrays.data.extend(row.iter().map(|&(_, value)| value));
            arrays.indptr.push(arrays.indices.len() as i64);
        }
        for &(at, value) in &matrix.faults {
            let at = usize::from(at);
            match value & 1 {
                0 => *arrays.indptr.get_mut(at).unwrap_or(&mut 0) = value >> 1,
                _ => *arrays.indices.get_mut(at).unwrap_or(&mut 0) = (value >> 1) as i32,
            }
        }
        arrays
    }

    fn csr(&self) -> xmc_csr {
        xmc_csr {
            n_rows: self.indptr.len() as i64 - 1,
            n_cols: self.n_cols,
            n_entries: self.indices.len() as i64,
            indptr: self.indptr.as_ptr(),
            indices: self.indices.as_ptr(),
            data: self.data.as_ptr(),
        }
    }

    fn row(&self, row: usize) -> impl Iterator<Item = (i32, f32)> + '_ {
        let span = self.indptr[row] as usize..self.indptr[row + 1] as usize;
        self.indices[span.clone()].iter().copied().zip(self.data[span].iter().copied())
    }
}

struct Pool(*mut xmc_pool);
// SAFETY: the header says that any thread may use a pool.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

fn pool() -> *const xmc_pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(|| {
        let mut pool = null_mut();
        // SAFETY: the pointer is to a local.
        assert_eq!(unsafe { xmc_pool_new(1, &raw mut pool) }, xmc_status::Ok);
        Pool(pool)
    })
    .0
}

/// Whether a call did what it says; a fault of the library is none of the answers.
fn done(status: xmc_status) -> bool {
    assert!(!matches!(status, xmc_status::Internal | xmc_status::Io | xmc_status::Memory));
    status == xmc_status::Ok
}

fuzz_target!(|input: Input| {
    let n_labels = i64::from(input.n_labels);
    let k = usize::from(input.k % 16) + 1;
    let n_rows = input.truth.rows.len();
    let truth = Arrays::new(&input.truth, n_labels, n_rows);
    let scores = Arrays::new(&input.scores, n_labels, n_rows);
    let exclude = input.exclude.as_ref().map(|exclude| Arrays::new(exclude, n_labels, n_rows));
    let exclude_csr = exclude.as_ref().map(Arrays::csr);
    let exclude_csr = exclude_csr.as_ref().map_or(null(), |csr| &raw const *csr);
    let (y_true, y_pred) = (truth.csr(), scores.csr());
    let [empty_rows, psndcg, keep_rows, wrong] = input.settings;
    let options = xmc_options {
        size: size_of::<xmc_options>(),
        inv_propensity: if input.weights.is_empty() { null() } else { input.weights.as_ptr() },
        n_inv_propensity: input.weights.len() as i64,
        empty_rows: u32::from(empty_rows & 1),
        psndcg: u32::from(psndcg & 1),
        keep_rows: u32::from(keep_rows & 1),
        ties: u32::from(wrong >> 6), // 2 and 3 are refused
    };
    let named = CString::new(input.metrics.replace('\0', "")).expect("no nul");
    let mut other = null_mut();
    // SAFETY: arrays live until the end of this function, and the lengths given are theirs.
    unsafe {
        if done(xmc_evaluator_new(n_labels, named.as_ptr(), &raw const options, &raw mut other)) {
            xmc_evaluator_free(other);
        }
        assert!(xmc_evaluator_new(-1, named.as_ptr(), null(), &raw mut other) != xmc_status::Ok);
        let mut evaluator = null_mut();
        let metric = CString::new(format!("P@{k}")).expect("no nul");
        if !done(xmc_evaluator_new(
            n_labels,
            metric.as_ptr(),
            &raw const options,
            &raw mut evaluator,
        )) {
            return;
        }

        let width = usize::from(input.width);
        if width > 0 {
            let mut ids: Vec<i64> = input.ids.iter().copied().map(i64::from).collect();
            ids.resize(n_rows * width, -1);
            let ids_i32: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
            let (width, truth, pool) = (width as i64, &raw const y_true, pool());
            let a = xmc_evaluator_update_ids(
                evaluator,
                pool,
                truth,
                ids_i32.as_ptr(),
                width,
                exclude_csr,
            );
            let b = xmc_evaluator_update_ids_i64(
                evaluator,
                pool,
                truth,
                ids.as_ptr(),
                width,
                exclude_csr,
            );
            assert_eq!(done(a), done(b));
        }
        xmc_evaluator_free(evaluator);

        evaluator = null_mut();
        assert!(done(xmc_evaluator_new(
            n_labels,
            metric.as_ptr(),
            &raw const options,
            &raw mut evaluator
        )));
        let status = xmc_evaluator_update_scores(
            evaluator,
            pool(),
            &raw const y_true,
            &raw const y_pred,
            exclude_csr,
        );
        let mut counts = xmc_counts {
            size: size_of::<xmc_counts>(),
            n_rows: 0,
            n_empty: 0,
            n_excluded: 0,
            n_excluded_positives: 0,
        };
        assert!(done(xmc_evaluator_counts(evaluator, &raw mut counts)));
        if !done(status) {
            assert_eq!(counts.n_rows, 0, "a failing update leaves no trace");
        } else {
            let skip = options.empty_rows == 1;
            let expected = precision(&truth, &scores, exclude.as_ref(), k, skip);
            let mut value = f64::NAN;
            let status = xmc_evaluator_value(evaluator, metric.as_ptr(), &raw mut value);
            assert_eq!(done(status).then_some(value).is_some(), expected.is_some());
            assert!(expected.is_none_or(|expected| (expected - value).abs() < 1e-9));
            let mut rows = vec![0.0; n_rows];
            let status = xmc_evaluator_row_values(
                evaluator,
                metric.as_ptr(),
                rows.as_mut_ptr(),
                null_mut(),
                n_rows as i64,
            );
            assert_eq!(done(status), options.keep_rows == 1);
            assert!(done(xmc_evaluator_merge(evaluator, evaluator)));
        }
        xmc_evaluator_free(evaluator);
    }
});

/// P@k by sorting and counting; nothing if there are no rows to average.
fn precision(
    truth: &Arrays,
    scores: &Arrays,
    exclude: Option<&Arrays>,
    k: usize,
    skip: bool,
) -> Option<f64> {
    let (mut sum, mut n_rows) = (0.0, 0);
    for row in 0..truth.indptr.len() - 1 {
        let positives: HashSet<i32> =
            truth.row(row).filter(|entry| entry.1 > 0.0).map(|entry| entry.0).collect();
        if skip && positives.is_empty() {
            continue;
        }
        n_rows += 1;
        let dropped: HashSet<i32> =
            exclude.iter().flat_map(|pairs| pairs.row(row)).map(|pair| pair.0).collect();
        let mut ranked: Vec<_> =
            scores.row(row).filter(|entry| !dropped.contains(&entry.0)).collect();
        ranked.sort_by(twins::by_rank);
        let hits = ranked.iter().take(k).filter(|entry| positives.contains(&entry.0)).count();
        sum += hits as f64 / k as f64;
    }
    (n_rows > 0).then(|| sum / f64::from(n_rows))
}
