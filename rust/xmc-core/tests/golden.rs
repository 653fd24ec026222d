//! The published reference values, which the Python tests read as well.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use serde_json::Value;
use xmc_core::{
    Csr, CsrPattern, Evaluator, Kind, Metric, Options, PsNdcg, Ties, inv_propensity, topk_csr,
};

fn golden() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/golden.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

/// Rows of `[label, value]` pairs, as they stand.
fn csr(rows: &Value) -> Csr {
    let mut csr = Csr { n_cols: 8, indptr: vec![0], indices: vec![], data: vec![] };
    for row in rows.as_array().unwrap() {
        for pair in row.as_array().unwrap() {
            csr.indices.push(pair[0].as_i64().unwrap() as i32);
            csr.data.push(pair[1].as_f64().unwrap() as f32);
        }
        csr.indptr.push(csr.indices.len() as i64);
    }
    csr
}

/// Rankings as padded ids of width `k`, and the same as scores.
fn ranked(rows: &Value, k: usize) -> (Vec<i32>, Csr) {
    let mut ids = Vec::new();
    let mut scores = Csr { n_cols: 8, indptr: vec![0], indices: vec![], data: vec![] };
    for row in rows.as_array().unwrap() {
        let row: Vec<i32> =
            row.as_array().unwrap().iter().map(|id| id.as_i64().unwrap() as i32).collect();
        ids.extend((0..k).map(|rank| row.get(rank).copied().unwrap_or(-1)));
        scores.indices.extend(&row);
        scores.data.extend((0..row.len()).map(|rank| -(rank as f32)));
        scores.indptr.push(scores.indices.len() as i64);
    }
    (ids, scores)
}

fn exclude(pairs: &Value, n_rows: usize) -> (Vec<i64>, Vec<i32>) {
    let (mut indptr, mut indices) = (vec![0], Vec::new());
    for row in 0..n_rows {
        for pair in pairs.as_array().unwrap() {
            if pair[0].as_u64().unwrap() as usize == row {
                indices.push(pair[1].as_i64().unwrap() as i32);
            }
        }
        indptr.push(indices.len() as i64);
    }
    (indptr, indices)
}

#[test]
fn inverse_propensities() {
    let golden = golden();
    let counts: Vec<i64> =
        golden["train_counts"].as_array().unwrap().iter().map(|n| n.as_i64().unwrap()).collect();
    for entry in golden["inv_propensity"].as_array().unwrap() {
        let (a, b) = (entry["a"].as_f64().unwrap(), entry["b"].as_f64().unwrap());
        let weights = inv_propensity(&counts, 12, a, b).unwrap();
        for (weight, expected) in weights.iter().zip(floats(&entry["expected"])) {
            assert!((weight - expected).abs() < 1e-9, "{a} {b}: {weight} for {expected}");
        }
    }
}

#[test]
fn cases() {
    let golden = golden();
    let k = golden["k"].as_u64().unwrap() as usize;
    let tolerance = golden["tolerance"].as_f64().unwrap();
    let weights = floats(&golden["inv_propensity"][0]["expected"]);
    let kinds = Kind::ALL.iter().filter(|kind| !kind.needs_probabilities());
    let all: Vec<Metric> = kinds.map(|&kind| Metric::new(kind, k).unwrap()).collect();
    for case in golden["cases"].as_array().unwrap() {
        let truth = csr(&case["truth"]);
        let y_true = truth.view("y_true").unwrap();
        let (indptr, indices) = exclude(&case["exclude"], y_true.n_rows());
        let exclude = CsrPattern::new("exclude", 8, &indptr, &indices).unwrap();
        let exclude = (!indices.is_empty()).then_some(exclude);
        let (ids, scores) = if case["rankings"].is_array() {
            ranked(&case["rankings"], k)
        } else {
            let scores = csr(&case["scores"]);
            (topk_csr(scores.view("y_pred").unwrap(), k, None).unwrap().ids, scores)
        };
        for (psndcg, expected) in [(PsNdcg::Xclib, "expected"), (PsNdcg::Matlab, "expected_matlab")]
        {
            let options = Options {
                inv_propensity: Some(weights.clone()),
                empty_rows: case["empty_rows"].as_str().unwrap().parse().unwrap(),
                psndcg,
                ..Options::default()
            };
            let mut by_ids = Evaluator::new(8, &all, options).unwrap();
            let mut by_scores = by_ids.clone();
            by_ids.update_ids(y_true, &ids, k, exclude).unwrap();
            by_scores.update_scores(y_true, scores.view("y_pred").unwrap(), exclude).unwrap();
            for (name, expected) in case[expected].as_object().unwrap() {
                let (metric, expected) = (name.parse().unwrap(), expected.as_f64().unwrap());
                for evaluator in [&by_ids, &by_scores] {
                    let value = evaluator.value(metric).unwrap();
                    assert!(
                        (value - expected).abs() < tolerance,
                        "case {}: {name} is {value}, not {expected}",
                        case["name"]
                    );
                }
            }
        }
    }
}

/// Case F as pyxclib ranks it.
#[test]
fn larger_ids_first() {
    let golden = golden();
    let case = golden["cases"].as_array().unwrap().iter().find(|case| case["name"] == "F").unwrap();
    let (truth, scores) = (csr(&case["truth"]), csr(&case["scores"]));
    let options = Options { ties: Ties::Larger, ..Options::default() };
    let mut evaluator = Evaluator::new(8, &["P@5".parse().unwrap()], options).unwrap();
    let y_pred = scores.view("y_pred").unwrap();
    evaluator.update_scores(truth.view("y_true").unwrap(), y_pred, None).unwrap();
    for (k, expected) in (1..).zip([0.75, 0.5, 0.416_666_666_7, 0.375, 0.4]) {
        let value = evaluator.value(Metric::new(Kind::P, k).unwrap()).unwrap();
        assert!((value - expected).abs() < 1e-9, "P@{k} is {value}, not {expected}");
    }
}
