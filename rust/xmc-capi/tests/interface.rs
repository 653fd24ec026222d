//! The functions of the header, called as C calls them: reference values, and every error.
#![allow(clippy::unwrap_used, clippy::float_cmp)]
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)]

use std::ffi::{CStr, CString};
use std::path::Path;
use std::ptr::{null, null_mut};

use serde_json::Value;
use xmc::*;

const OK: xmc_status = xmc_status::Ok;
const CONTENT: xmc_status = xmc_status::Content;
const PARAMETER: xmc_status = xmc_status::Parameter;

fn last_error() -> String {
    unsafe { CStr::from_ptr(xmc_last_error()) }.to_str().unwrap().to_owned()
}

/// Checks that a call failed as it should.
#[track_caller]
fn fails(status: xmc_status, expected: xmc_status, message: &str) {
    assert_eq!(status, expected, "{}", last_error());
    assert_eq!(last_error(), message);
}

struct Pool(*mut xmc_pool);

impl Pool {
    fn new() -> Self {
        let mut pool = null_mut();
        assert_eq!(unsafe { xmc_pool_new(2, &raw mut pool) }, OK);
        Self(pool)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        unsafe { xmc_pool_free(self.0) }
    }
}

struct Evaluator(*mut xmc_evaluator);

/// Every kind of the golden cases.
const EVERY: &str = "P@5, nDCG@5, R@5, MRR@5, PSP@5, PSnDCG@5, PSR@5";

impl Evaluator {
    fn new(n_labels: i64, metrics: &str, options: Option<&xmc_options>) -> Self {
        let (metrics, mut evaluator) = (CString::new(metrics).unwrap(), null_mut());
        let options = options.map_or(null(), |options| &raw const *options);
        let status =
            unsafe { xmc_evaluator_new(n_labels, metrics.as_ptr(), options, &raw mut evaluator) };
        assert_eq!(status, OK, "{}", last_error());
        Self(evaluator)
    }

    fn value(&self, metric: &str) -> Result<f64, xmc_status> {
        let (metric, mut value) = (CString::new(metric).unwrap(), f64::NAN);
        let status = unsafe { xmc_evaluator_value(self.0, metric.as_ptr(), &raw mut value) };
        if status == OK { Ok(value) } else { Err(status) }
    }

    fn counts(&self) -> [i64; 4] {
        let size = size_of::<xmc_counts>();
        let mut counts =
            xmc_counts { size, n_rows: 0, n_empty: 0, n_excluded: 0, n_excluded_positives: 0 };
        assert_eq!(unsafe { xmc_evaluator_counts(self.0, &raw mut counts) }, OK);
        [counts.n_rows, counts.n_empty, counts.n_excluded, counts.n_excluded_positives]
    }
}

impl Drop for Evaluator {
    fn drop(&mut self) {
        unsafe { xmc_evaluator_free(self.0) }
    }
}

/// Arrays of a matrix of eight labels.
#[derive(Default)]
struct Arrays {
    indptr: Vec<i64>,
    indices: Vec<i32>,
    data: Vec<f32>,
}

impl Arrays {
    /// Rows of `[label, value]` pairs.
    fn of(rows: &Value) -> Self {
        let mut arrays = Self { indptr: vec![0], ..Self::default() };
        for row in rows.as_array().unwrap() {
            for pair in row.as_array().unwrap() {
                arrays.indices.push(pair[0].as_i64().unwrap() as i32);
                arrays.data.push(pair[1].as_f64().unwrap() as f32);
            }
            arrays.indptr.push(arrays.indices.len() as i64);
        }
        arrays
    }

    fn csr(&self) -> xmc_csr {
        xmc_csr {
            n_rows: self.indptr.len() as i64 - 1,
            n_cols: 8,
            n_entries: self.indices.len() as i64,
            indptr: self.indptr.as_ptr(),
            indices: self.indices.as_ptr(),
            data: self.data.as_ptr(),
        }
    }
}

fn options() -> xmc_options {
    xmc_options {
        size: size_of::<xmc_options>(),
        inv_propensity: null(),
        n_inv_propensity: 0,
        empty_rows: 0,
        psndcg: 0,
        keep_rows: 0,
        ties: 0,
    }
}

fn golden() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/golden.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A training matrix with the frequencies of the golden file, and the weights of it.
fn weights(golden: &Value) -> Vec<f64> {
    let counts: Vec<i64> =
        golden["train_counts"].as_array().unwrap().iter().map(|n| n.as_i64().unwrap()).collect();
    let mut train = Arrays { indptr: vec![0], ..Arrays::default() };
    for row in 0..golden["n_train"].as_i64().unwrap() {
        train.indices.extend((0..8).filter(|&label| row < counts[label as usize]));
        // A stored 0 is no positive.
        train.indices.extend((row == 11).then_some(7));
        train.indptr.push(train.indices.len() as i64);
    }
    train.data = vec![1.0; train.indices.len()];
    *train.data.last_mut().unwrap() = 0.0;
    let (train, mut weights) = (train.csr(), vec![0.0; 8]);
    let status =
        unsafe { xmc_inv_propensity(&raw const train, 0.55, 1.5, weights.as_mut_ptr(), 8) };
    assert_eq!(status, OK, "{}", last_error());
    weights
}

#[test]
fn reference_values() {
    let (golden, pool) = (golden(), Pool::new());
    let weights = weights(&golden);
    for (weight, expected) in
        weights.iter().zip(golden["inv_propensity"][0]["expected"].as_array().unwrap())
    {
        assert!((weight - expected.as_f64().unwrap()).abs() < 1e-9);
    }
    for case in golden["cases"].as_array().unwrap() {
        let truth = Arrays::of(&case["truth"]);
        let mut exclude = Arrays { indptr: vec![0], ..Arrays::default() };
        for row in 0..truth.csr().n_rows {
            let pairs = case["exclude"].as_array().unwrap().iter();
            let pairs = pairs.filter(|pair| pair[0].as_i64() == Some(row));
            exclude.indices.extend(pairs.map(|pair| pair[1].as_i64().unwrap() as i32));
            exclude.indptr.push(exclude.indices.len() as i64);
        }
        let y_true = truth.csr();
        // Of excluded pairs only the positions count.
        let exclude = xmc_csr { data: null(), ..exclude.csr() };
        let exclude = if exclude.n_entries == 0 { null() } else { &raw const exclude };
        let (ids, scores) = rankings(case, &pool);
        let ids_i64: Vec<i64> = ids.iter().copied().map(i64::from).collect();
        let y_pred = scores.csr();
        let doubles: Vec<f64> = scores.data.iter().copied().map(f64::from).collect();
        let y_pred_f64 = xmc_csr_f64 {
            n_rows: y_pred.n_rows,
            n_cols: 8,
            n_entries: y_pred.n_entries,
            indptr: y_pred.indptr,
            indices: y_pred.indices,
            data: doubles.as_ptr(),
        };
        for (psndcg, expected) in [(0, "expected"), (1, "expected_matlab")] {
            let options = xmc_options {
                inv_propensity: weights.as_ptr(),
                n_inv_propensity: 8,
                empty_rows: u32::from(case["empty_rows"] == "skip"),
                psndcg,
                ..options()
            };
            let evaluators: [_; 4] =
                std::array::from_fn(|_| Evaluator::new(8, EVERY, Some(&options)));
            let [a, b, c, d] = evaluators.each_ref().map(|evaluator| evaluator.0);
            let (y_true, pool) = (&raw const y_true, pool.0.cast_const());
            let (ids, ids_i64) = (ids.as_ptr(), ids_i64.as_ptr());
            let (y_pred, y_pred_f64) = (&raw const y_pred, &raw const y_pred_f64);
            let statuses = unsafe {
                [
                    xmc_evaluator_update_ids(a, pool, y_true, ids, 5, exclude),
                    xmc_evaluator_update_ids_i64(b, pool, y_true, ids_i64, 5, exclude),
                    xmc_evaluator_update_scores(c, pool, y_true, y_pred, exclude),
                    xmc_evaluator_update_scores_f64(d, pool, y_true, y_pred_f64, exclude),
                ]
            };
            assert_eq!(statuses, [OK; 4], "{}", last_error());
            for (name, expected) in case[expected].as_object().unwrap() {
                for evaluator in &evaluators {
                    let value = evaluator.value(name).unwrap();
                    let difference = (value - expected.as_f64().unwrap()).abs();
                    assert!(difference < 1e-9, "case {}: {name} is {value}", case["name"]);
                }
            }
            // The same rows twice: the same means.
            let merged = &evaluators[0];
            assert_eq!(unsafe { xmc_evaluator_merge(a, b) }, OK);
            assert_eq!(unsafe { xmc_evaluator_merge(a, a) }, OK);
            assert_eq!(merged.counts()[0], 4 * evaluators[1].counts()[0]);
            let (twice, once) = (merged.value("P@5").unwrap(), evaluators[1].value("P@5").unwrap());
            assert!((twice - once).abs() < 1e-12);
        }
    }
}

/// Ranked ids of width 5, and the scores that rank so.
fn rankings(case: &Value, pool: &Pool) -> (Vec<i32>, Arrays) {
    if !case["rankings"].is_array() {
        let scores = Arrays::of(&case["scores"]);
        let n_values = 5 * scores.csr().n_rows;
        let (mut ids, mut best) = (vec![0; n_values as usize], vec![0.0; n_values as usize]);
        let (ids_out, best_out, y_pred) = (ids.as_mut_ptr(), best.as_mut_ptr(), scores.csr());
        let status = unsafe {
            xmc_topk_csr(pool.0, &raw const y_pred, 5, null(), ids_out, best_out, n_values)
        };
        assert_eq!(status, OK);
        return (ids, scores);
    }
    let (mut ids, mut scores) = (Vec::new(), Arrays { indptr: vec![0], ..Arrays::default() });
    for row in case["rankings"].as_array().unwrap() {
        let row: Vec<i32> =
            row.as_array().unwrap().iter().map(|id| id.as_i64().unwrap() as i32).collect();
        ids.extend((0..5).map(|rank| row.get(rank).copied().unwrap_or(-1)));
        scores.indices.extend(&row);
        scores.data.extend((0..row.len()).map(|rank| -(rank as f32)));
        scores.indptr.push(scores.indices.len() as i64);
    }
    (ids, scores)
}

#[test]
fn row_values_and_counts() {
    let (pool, weights) = (Pool::new(), [2.0, 1.0, 4.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
    let truth = Arrays { indptr: vec![0, 2, 2], indices: vec![0, 2], data: vec![1.0; 2] };
    let (truth, ids) = (truth.csr(), [2, 5, 0, 1]);
    let options = xmc_options {
        inv_propensity: weights.as_ptr(),
        n_inv_propensity: 8,
        empty_rows: 1,
        keep_rows: 1,
        ..options()
    };
    let evaluator = Evaluator::new(8, "P@2,PSP@2", Some(&options));
    let status = unsafe {
        xmc_evaluator_update_ids(evaluator.0, pool.0, &raw const truth, ids.as_ptr(), 2, null())
    };
    assert_eq!(status, OK, "{}", last_error());
    assert_eq!(evaluator.counts(), [2, 1, 0, 0]);

    let read = |metric: &CStr, above: &mut [f64], below: *mut f64, n: i64| unsafe {
        xmc_evaluator_row_values(evaluator.0, metric.as_ptr(), above.as_mut_ptr(), below, n)
    };
    let (mut above, mut below) = ([0.0; 2], [0.0; 2]);
    assert_eq!(read(c"P@2", &mut above, null_mut(), 2), OK);
    assert!(above[0] == 0.5 && above[1].is_nan());
    assert_eq!(read(c"P@2", &mut above, below.as_mut_ptr(), 2), OK);
    assert!(below[0] == 1.0 && below[1].is_nan());
    assert_eq!(read(c"PSP@2", &mut above, below.as_mut_ptr(), 2), OK);
    assert_eq!(above[0] / below[0], evaluator.value("PSP@2").unwrap());
    assert_eq!(above[0] / below[0], 4.0 / 6.0);
    let status = read(c"PSP@2", &mut above, null_mut(), 2);
    fails(status, PARAMETER, "denominators is null");
    let status = read(c"P@2", &mut above, null_mut(), 1);
    fails(status, PARAMETER, "values: room for 1 rows, expected 2");
    let status = read(c"P@1", &mut above, null_mut(), 2);
    fails(status, PARAMETER, "row values of P@1 were not kept");
}

#[test]
fn files() {
    let (pool, folder) = (Pool::new(), tempfile::tempdir().unwrap());
    let path = |name: &str| CString::new(folder.path().join(name).to_str().unwrap()).unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let mut view = Arrays::default().csr();

    write("y.txt", "2 8\n5:0.5 1:2\n3\n");
    let mut matrix = null_mut();
    let load = |matrix: &mut *mut xmc_matrix, missing: *const f32| unsafe {
        xmc_load_labels(pool.0, path("y.txt").as_ptr(), missing, matrix)
    };
    let message = format!("{}:3: missing ':value' after label 3", path("y.txt").to_str().unwrap());
    fails(load(&mut matrix, null()), CONTENT, &message);
    assert!(matrix.is_null());
    assert_eq!(load(&mut matrix, &1.0), OK);
    assert_eq!(unsafe { xmc_matrix_view(matrix, &raw mut view) }, OK);
    assert_eq!((view.n_rows, view.n_cols, view.n_entries), (2, 8, 3));
    let labels = unsafe { std::slice::from_raw_parts(view.indices, 3) };
    assert_eq!(labels, [1, 5, 3]);
    assert_eq!(unsafe { xmc_save_labels(path("z.txt").as_ptr(), &raw const view) }, OK);
    let saved = std::fs::read_to_string(folder.path().join("z.txt")).unwrap();
    assert_eq!(saved, "2 8\n1:2.0 5:0.5\n3:1.0\n");
    unsafe { xmc_matrix_free(matrix) };

    write("pairs.txt", "1 4\n0 7\n1 4\n");
    let mut n_repeated = -1;
    let load = |matrix: &mut *mut xmc_matrix, n_rows: i64, n_repeated: *mut i64| unsafe {
        xmc_load_pairs(path("pairs.txt").as_ptr(), n_rows, 8, matrix, n_repeated)
    };
    assert_eq!(load(&mut matrix, 2, &raw mut n_repeated), OK);
    assert_eq!(unsafe { xmc_matrix_view(matrix, &raw mut view) }, OK);
    assert_eq!((n_repeated, view.n_rows, view.n_entries), (1, 2, 2));
    assert!(view.data.is_null());
    // Without values it is no matrix to be saved.
    let status = unsafe { xmc_save_labels(path("z.txt").as_ptr(), &raw const view) };
    fails(status, PARAMETER, "y: data is null");
    unsafe { xmc_matrix_free(matrix) };
    let message = "n_rows must not be negative, not -1";
    fails(load(&mut matrix, -1, null_mut()), PARAMETER, message);
    assert!(matrix.is_null());

    let status =
        unsafe { xmc_load_labels(pool.0, path("none.txt").as_ptr(), null(), &raw mut matrix) };
    assert_eq!(status, xmc_status::Io);
    assert!(last_error().contains("none.txt: "), "{}", last_error());
    let status = unsafe { xmc_load_labels(pool.0, c"\xff.txt".as_ptr(), null(), &raw mut matrix) };
    fails(status, PARAMETER, r"path is not UTF-8: '\xff.txt'");
}

#[test]
fn null_handles_and_bad_options() {
    let (pool, mut evaluator, mut other) = (Pool::new(), null_mut(), null_mut());
    unsafe {
        xmc_pool_free(null_mut());
        xmc_matrix_free(null_mut());
        xmc_evaluator_free(null_mut());
        fails(xmc_pool_new(1, null_mut()), PARAMETER, "pool is null");
        let message = "num_threads must be in 0..=1024, not 1025";
        fails(xmc_pool_new(1025, &raw mut other), PARAMETER, message);
        let status = xmc_load_labels(null(), c"y".as_ptr(), null(), null_mut());
        fails(status, PARAMETER, "matrix is null");
        let mut matrix = null_mut();
        let status = xmc_load_labels(null(), c"y".as_ptr(), null(), &raw mut matrix);
        fails(status, PARAMETER, "pool is null");
        let status = xmc_load_labels(pool.0, null(), null(), &raw mut matrix);
        fails(status, PARAMETER, "path is null");
        fails(xmc_matrix_view(null(), null_mut()), PARAMETER, "matrix is null");
        fails(xmc_evaluator_merge(null_mut(), null()), PARAMETER, "evaluator is null");
        fails(xmc_evaluator_counts(null(), null_mut()), PARAMETER, "evaluator is null");
        let status = xmc_evaluator_value(null(), null(), null_mut());
        fails(status, PARAMETER, "evaluator is null");
    }
    let mut new = |n_labels, metrics: &CStr, options: xmc_options| unsafe {
        let options = &raw const options;
        let status = xmc_evaluator_new(n_labels, metrics.as_ptr(), options, &raw mut evaluator);
        assert!(evaluator.is_null());
        status
    };
    let weights = [1.0, 0.0];
    let with =
        |n| xmc_options { inv_propensity: weights.as_ptr(), n_inv_propensity: n, ..options() };
    for (n_labels, metrics, options, message) in [
        (-2, c"P@1", options(), "n_labels must not be negative, not -2"),
        (2, c"P@0", options(), "k must be in 1..=65536 in metric 'P@0'"),
        (2, c"PSP@1", options(), "PSP@1 needs inv_propensity"),
        (2, c"PSP@1", with(1), "inv_propensity: 1 weights, expected 2"),
        (2, c"PSP@1", with(2), "inv_propensity of label 1 must be finite and > 0, not 0"),
        (2, c"P@1", with(-1), "options: n_inv_propensity must not be negative, not -1"),
        (
            2,
            c"P@1",
            xmc_options { inv_propensity: null(), ..with(2) },
            "options: inv_propensity is null",
        ),
        (
            2,
            c"P@1",
            xmc_options { empty_rows: 2, ..options() },
            "options: empty_rows must be 0 or 1, not 2",
        ),
        (
            2,
            c"P@1",
            xmc_options { psndcg: 9, ..options() },
            "options: psndcg must be 0 or 1, not 9",
        ),
        (
            2,
            c"P@1",
            xmc_options { keep_rows: 3, ..options() },
            "options: keep_rows must be 0 or 1, not 3",
        ),
        (2, c"P@1", xmc_options { ties: 2, ..options() }, "options: ties must be 0 or 1, not 2"),
        (
            2,
            c"P@1",
            xmc_options { size: 0, ..options() },
            "options: size is 0, not sizeof(xmc_options) = 40",
        ),
    ] {
        fails(new(n_labels, metrics, options), PARAMETER, message);
    }
    fails(
        new(2, c"", options()),
        PARAMETER,
        "unknown metric '' (known: P@k, nDCG@k, R@k, MRR@k, PSP@k, PSnDCG@k, PSR@k, Success@k, \
         Coverage@k, macroP@k, macroR@k, macroF@k, AP@k, RP@k, microP@k, microR@k, microF@k, \
         sampleP@k, sampleR@k, sampleF@k, Hamming@k, Exact@k, Brier@k, NLL@k, ECE@k, ECEover@k, \
         ECEunder@k, ACE@k)",
    );
}

#[test]
fn ties_can_go_to_the_larger_label() {
    let pool = Pool::new();
    let truth = Arrays { indptr: vec![0, 1], indices: vec![5], data: vec![1.0] };
    let scores = Arrays { indptr: vec![0, 2], indices: vec![3, 5], data: vec![0.5; 2] };
    for (ties, expected) in [(0, 0.0), (1, 1.0)] {
        let evaluator = Evaluator::new(8, "P@1", Some(&xmc_options { ties, ..options() }));
        let (truth, scores) = (truth.csr(), scores.csr());
        let (truth, scores) = (&raw const truth, &raw const scores);
        let status =
            unsafe { xmc_evaluator_update_scores(evaluator.0, pool.0, truth, scores, null()) };
        assert_eq!(status, OK, "{}", last_error());
        assert_eq!(evaluator.value("P@1"), Ok(expected));
    }
}

#[test]
fn options_of_a_later_version() {
    #[repr(C)]
    struct Later {
        options: xmc_options,
        unknown: u64,
    }
    let mut later = Later { options: options(), unknown: 0 };
    later.options.size = size_of::<Later>();
    let mut evaluator = null_mut();
    let mut new = |later: &Later| unsafe {
        let options = (&raw const *later).cast();
        xmc_evaluator_new(2, c"P@1".as_ptr(), options, &raw mut evaluator)
    };
    assert_eq!(new(&later), OK);
    later.unknown = 1 << 40;
    let message = "options: a setting of a later version of the library is not 0";
    fails(new(&later), PARAMETER, message);
}

#[test]
fn bad_matrices() {
    let (pool, evaluator) = (Pool::new(), Evaluator::new(8, "P@2", None));
    let good = Arrays { indptr: vec![0, 1, 2], indices: vec![3, 4], data: vec![1.0; 2] };
    let update = |truth: xmc_csr, pred: xmc_csr, exclude: *const xmc_csr| unsafe {
        let (truth, pred) = (&raw const truth, &raw const pred);
        xmc_evaluator_update_scores(evaluator.0, pool.0, truth, pred, exclude)
    };
    let csr = || good.csr();
    let indptr = |indptr: &'static [i64]| xmc_csr { indptr: indptr.as_ptr(), ..csr() };
    let odd = csr().indptr.cast::<u8>().wrapping_add(1).cast();
    let pointers = "indptr decreases or points outside the 2 stored entries";
    for (truth, status, message) in [
        (xmc_csr { n_rows: -1, ..csr() }, PARAMETER, "y_true: n_rows must not be negative, not -1"),
        (xmc_csr { n_cols: -1, ..csr() }, PARAMETER, "y_true: n_cols must not be negative, not -1"),
        (
            xmc_csr { n_entries: -1, ..csr() },
            PARAMETER,
            "y_true: n_entries must not be negative, not -1",
        ),
        (xmc_csr { indptr: null(), ..csr() }, PARAMETER, "y_true: indptr is null"),
        (xmc_csr { indptr: odd, ..csr() }, PARAMETER, "y_true: indptr is not aligned to 8 bytes"),
        (xmc_csr { indices: null(), ..csr() }, PARAMETER, "y_true: indices is null"),
        (xmc_csr { data: null(), ..csr() }, PARAMETER, "y_true: data is null"),
        (
            xmc_csr { n_cols: 1 << 31, ..csr() },
            PARAMETER,
            "n_labels must be below 2^31, not 2147483648",
        ),
        (xmc_csr { n_cols: 9, ..csr() }, PARAMETER, "y_true: 9 labels, expected 8"),
        (
            xmc_csr { n_cols: 4, ..csr() },
            CONTENT,
            "y_true: row 1: label 4 out of range (n_labels = 4)",
        ),
        (indptr(&[0, 2, 1]), CONTENT, &format!("y_true: row 1: {pointers}")),
        (indptr(&[0, 1, 3]), CONTENT, &format!("y_true: row 1: {pointers}")),
        (indptr(&[-1, 1, 2]), CONTENT, &format!("y_true: row 0: {pointers}")),
        (indptr(&[0, i64::MIN, 2]), CONTENT, &format!("y_true: row 0: {pointers}")),
    ] {
        fails(update(truth, csr(), null()), status, message);
    }
    let huge = xmc_csr { n_entries: i64::MAX, ..csr() };
    let message = format!("y_true: indices: {} values are more than memory holds", i64::MAX);
    fails(update(huge, csr(), null()), PARAMETER, &message);
    let huge = xmc_csr { n_rows: i64::MAX, ..csr() };
    let message = format!("y_true: indptr: {} values are more than memory holds", 1u64 << 63);
    fails(update(huge, csr(), null()), PARAMETER, &message);

    let nan = Arrays { indptr: vec![0, 1, 2], indices: vec![3, 4], data: vec![1.0, f32::NAN] };
    fails(update(csr(), nan.csr(), null()), CONTENT, "y_pred: row 1: score of label 4 is NaN");
    let message = "y_true: row 1: truth value of label 4 must be >= 0, not NaN";
    fails(update(nan.csr(), csr(), null()), CONTENT, message);
    let short = xmc_csr { n_rows: 1, ..csr() };
    fails(update(csr(), csr(), &raw const short), PARAMETER, "exclude: 1 rows, expected 2");
    fails(update(csr(), short, null()), PARAMETER, "y_pred: 1 rows, expected 2");

    let ids = [0i32; 4];
    let by_ids = |ids: *const i32, width: i64| unsafe {
        let truth = csr();
        xmc_evaluator_update_ids(evaluator.0, pool.0, &raw const truth, ids, width, null())
    };
    fails(by_ids(null(), 2), PARAMETER, "y_pred is null");
    fails(by_ids(ids.as_ptr(), -2), PARAMETER, "width must not be negative, not -2");
    fails(
        by_ids(ids.as_ptr(), i64::MAX),
        PARAMETER,
        &format!("y_pred: {} values are more than memory holds", u64::MAX - 1),
    );
    let message = "y_pred: 1 columns, fewer than the largest k = 2 (pad with -1)";
    fails(by_ids(ids.as_ptr(), 1), PARAMETER, message);
    fails(by_ids(ids.as_ptr(), 2), CONTENT, "y_pred: row 0: duplicate label 0");

    // Nothing of all this has left a trace.
    assert_eq!(evaluator.counts(), [0; 4]);
    assert_eq!(evaluator.value("P@2"), Err(xmc_status::Undefined));
    assert_eq!(last_error(), "no rows left to average");
    let status = unsafe { xmc_evaluator_value(evaluator.0, c"P@2".as_ptr(), null_mut()) };
    fails(status, PARAMETER, "value is null");
    let other = Evaluator::new(8, "P@3", None);
    let status = unsafe { xmc_evaluator_merge(evaluator.0, other.0) };
    fails(status, PARAMETER, "cannot merge evaluators that differ in metrics");
    let mut weights = [0.0; 8];
    let truth = csr();
    let propensity =
        |n| unsafe { xmc_inv_propensity(&raw const truth, 0.5, 1.0, weights.as_mut_ptr(), n) };
    let mut propensity = propensity;
    fails(propensity(7), PARAMETER, "weights: room for 7, expected 8");
    fails(propensity(8), PARAMETER, "n_points must be at least 3, not 2");
}

#[test]
fn best_labels_of_shards() {
    let pool = Pool::new();
    let dense = [0.5f32, 0.1, 0.9, 0.5, 0.2, 0.2, 0.2, 0.3];
    let best = |first: usize, width: usize| {
        let rows: Vec<f32> =
            dense.chunks(4).flat_map(|row| &row[first..first + width]).copied().collect();
        let (mut ids, mut scores) = (vec![0; 6], vec![0.0; 6]);
        let (n, first, ids_out, scores_out) =
            (width as i64, first as i64, ids.as_mut_ptr(), scores.as_mut_ptr());
        let status = unsafe {
            xmc_topk_dense(pool.0, rows.as_ptr(), 2, n, first, 3, null(), ids_out, scores_out, 6)
        };
        assert_eq!(status, OK, "{}", last_error());
        (ids, scores)
    };
    let (mut ids, mut scores) = best(0, 2);
    assert_eq!(ids, [0, 1, -1, 0, 1, -1]);
    assert_eq!(scores[2], f32::NEG_INFINITY);
    let (ids_b, scores_b) = best(2, 2);
    let a = xmc_ranked { n_rows: 2, width: 3, ids: ids.as_ptr(), scores: scores.as_ptr() };
    let b = xmc_ranked { n_rows: 2, width: 3, ids: ids_b.as_ptr(), scores: scores_b.as_ptr() };
    // The result may take the place of an argument.
    let mut merge = |b: xmc_ranked, k: i64, n_values: i64| unsafe {
        let (shards, ids, scores) = ([a, b], ids.as_mut_ptr(), scores.as_mut_ptr());
        xmc_merge_topk(pool.0, shards.as_ptr(), 2, k, ids, scores, n_values)
    };
    fails(merge(b, 0, 0), PARAMETER, "k must be at least 1, not 0");
    fails(merge(b, 3, 5), PARAMETER, "n_values is 5, not 2 rows of k = 3 labels");
    fails(merge(xmc_ranked { n_rows: 1, ..b }, 3, 6), PARAMETER, "shards[1]: 1 rows, expected 2");
    fails(merge(xmc_ranked { ids: null(), ..b }, 3, 6), PARAMETER, "shards[1]: ids is null");
    assert_eq!(merge(b, 3, 6), OK);
    assert_eq!((&ids, &scores), (&best(0, 4).0, &best(0, 4).1));
    let (ids_out, scores_out) = (ids.as_mut_ptr(), scores.as_mut_ptr());
    let status = unsafe { xmc_merge_topk(pool.0, null(), 0, 3, ids_out, scores_out, 6) };
    fails(status, PARAMETER, "n_shards must be at least 1, not 0");
    let (mut ids, mut scores) = (vec![0; 2], vec![0.0; 2]);
    let huge = 1 << 62;
    let status = unsafe {
        let (ids, scores) = (ids.as_mut_ptr(), scores.as_mut_ptr());
        xmc_topk_dense(pool.0, dense.as_ptr(), 2, 4, 0, huge, null(), ids, scores, 2)
    };
    fails(status, PARAMETER, &format!("n_values is 2, not 2 rows of k = {huge} labels"));
}
