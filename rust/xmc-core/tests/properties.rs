//! Fast routines against slow, obvious twins on generated input.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::float_cmp)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use xmc_core::rayon::ThreadPoolBuilder;
use xmc_core::{
    Csr, CsrPattern, EmptyRows, Evaluator, Kind, Metric, Options, ParseOptions, PsNdcg, Ranked,
    RowValues, Ties, drop_pairs_csr, drop_pairs_ids, merge_topk, parse_labels, parse_pairs,
    topk_csr, topk_dense, write_labels,
};

type Row = BTreeMap<i32, f32>;

fn csr(n_cols: usize, rows: &[Row]) -> Csr {
    let mut csr = Csr { n_cols, indptr: vec![0], indices: vec![], data: vec![] };
    for row in rows {
        csr.indices.extend(row.keys());
        csr.data.extend(row.values());
        csr.indptr.push(csr.indices.len() as i64);
    }
    csr
}

/// Few distinct scores, so that ties are common.
fn score() -> impl Strategy<Value = f32> {
    prop_oneof![Just(0.0f32), Just(-0.0), Just(f32::INFINITY), (-3i8..4).prop_map(f32::from)]
}

fn rows(n_labels: usize, value: impl Strategy<Value = f32>) -> impl Strategy<Value = Row> {
    prop::collection::btree_map(0..n_labels as i32, value, 0..=n_labels.min(12))
}

/// The ranking of a row by sorting everything.
fn rank(scores: &Row, exclude: &Row) -> Vec<i32> {
    let mut labels: Vec<i32> =
        scores.keys().copied().filter(|l| !exclude.contains_key(l)).collect();
    labels.sort_by(|a, b| scores[b].partial_cmp(&scores[a]).unwrap().then(a.cmp(b)));
    labels
}

/// Numerator and denominator of one row, from the definitions.
fn terms(metric: Metric, truth: &Row, ranking: &[i32], q: &[f64], psndcg: PsNdcg) -> (f64, f64) {
    let k = metric.k();
    let positives: BTreeSet<i32> =
        truth.iter().filter(|(_, v)| **v > 0.0).map(|(l, _)| *l).collect();
    let n = positives.len();
    let discount = |r: usize| 1.0 / ((r + 1) as f64).log2();
    let norm = |m: usize| (1..=m).map(discount).sum::<f64>();
    let hits: Vec<(usize, i32)> =
        ranking.iter().take(k).enumerate().map(|(i, l)| (i + 1, *l)).collect();
    let hits: Vec<(usize, i32)> = hits.into_iter().filter(|(_, l)| positives.contains(l)).collect();
    let mut best: Vec<f64> = positives.iter().map(|&l| q[l as usize]).collect();
    best.sort_by(|a, b| b.partial_cmp(a).unwrap());
    best.truncate(k);
    let gain: f64 = hits.iter().map(|&(_, l)| q[l as usize]).sum();
    match metric.kind() {
        Kind::P => (hits.len() as f64 / k as f64, 1.0),
        Kind::R => (hits.len() as f64 / n.max(1) as f64, 1.0),
        Kind::Success => (f64::from(u8::from(!hits.is_empty())), 1.0),
        Kind::Mrr => (hits.first().map_or(0.0, |&(r, _)| 1.0 / r as f64), 1.0),
        Kind::Ndcg if n == 0 => (0.0, 1.0),
        Kind::Ndcg => (hits.iter().map(|&(r, _)| discount(r)).sum::<f64>() / norm(k.min(n)), 1.0),
        _ if n == 0 => (0.0, 0.0),
        Kind::Psp => (gain / k as f64, best.iter().sum::<f64>() / k as f64),
        Kind::Psr => (gain / n as f64, best.iter().sum::<f64>() / n as f64),
        Kind::PsNdcg => {
            let z = if psndcg == PsNdcg::Xclib { norm(k.min(n)) } else { 1.0 };
            let dcg: f64 = hits.iter().map(|&(r, l)| q[l as usize] * discount(r)).sum();
            let ideal: f64 = best.iter().enumerate().map(|(i, b)| b * discount(i + 1)).sum();
            (dcg / z, ideal / z)
        }
        _ => panic!("{metric} has no rows, or tests of its own"),
    }
}

#[derive(Debug, Clone)]
struct Scene {
    n_labels: usize,
    k: usize,
    truth: Vec<Row>,
    scores: Vec<Row>,
    exclude: Vec<Row>,
    q: Vec<f64>,
    skip: bool,
    matlab: bool,
}

impl Scene {
    fn metrics(&self) -> Vec<Metric> {
        Kind::ALL
            .iter()
            .filter(|kind| !kind.is_label_wise() && !kind.is_at_its_k())
            .flat_map(|&kind| (1..=self.k).map(move |k| Metric::new(kind, k).unwrap()))
            .collect()
    }

    fn options(&self) -> Options {
        Options {
            inv_propensity: Some(self.q.clone()),
            empty_rows: if self.skip { EmptyRows::Skip } else { EmptyRows::Zero },
            psndcg: if self.matlab { PsNdcg::Matlab } else { PsNdcg::Xclib },
            keep_rows: true,
            ..Options::default()
        }
    }
}

fn scene() -> impl Strategy<Value = Scene> {
    (prop_oneof![Just(1usize), 2usize..15, Just(70)], 1usize..9, 0usize..8).prop_flat_map(
        |(n_labels, k, n_rows)| {
            let truth = prop_oneof![Just(0.0f32), Just(1.0), Just(2.5)];
            (
                prop::collection::vec(rows(n_labels, truth), n_rows),
                prop::collection::vec(rows(n_labels, score()), n_rows),
                prop::collection::vec(rows(n_labels, Just(1.0)), n_rows),
                prop::collection::vec(1.0f64..9.0, n_labels),
                any::<(bool, bool)>(),
            )
                .prop_map(move |(truth, scores, exclude, q, (skip, matlab))| Scene {
                    n_labels,
                    k,
                    truth,
                    scores,
                    exclude,
                    q,
                    skip,
                    matlab,
                })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn evaluator_equals_its_twin(scene in scene()) {
        let metrics = scene.metrics();
        let (truth, scores) = (csr(scene.n_labels, &scene.truth), csr(scene.n_labels, &scene.scores));
        let excluded = csr(scene.n_labels, &scene.exclude);
        let exclude = excluded.view("exclude").unwrap().pattern();
        let mut evaluator = Evaluator::new(scene.n_labels, &metrics, scene.options()).unwrap();
        let y_true = truth.view("y_true").unwrap();
        evaluator.update_scores(y_true, scores.view("y_pred").unwrap(), Some(exclude)).unwrap();

        // The same rankings as ids, with the excluded labels still inside.
        let width = scene.k.max(12);
        let ids = topk_csr(scores.view("y_pred").unwrap(), width, None).unwrap().ids;
        let mut by_ids = Evaluator::new(scene.n_labels, &metrics, scene.options()).unwrap();
        by_ids.update_ids(y_true, &ids, width, Some(exclude)).unwrap();

        let pairs = scene.scores.iter().zip(&scene.exclude);
        let rankings: Vec<Vec<i32>> = pairs.map(|(scores, exclude)| rank(scores, exclude)).collect();
        let empty = |row: &Row| row.values().all(|&value| value == 0.0);
        prop_assert_eq!(evaluator.n_rows(), scene.truth.len());
        prop_assert_eq!(evaluator.n_empty(), scene.truth.iter().filter(|row| empty(row)).count());
        let removed = scene.scores.iter().zip(&rankings).map(|(s, r)| s.len() - r.len()).sum::<usize>();
        prop_assert_eq!(evaluator.n_excluded(), removed);
        prop_assert_eq!(by_ids.n_excluded(), removed);
        let misses = scene.truth.iter().zip(&scene.exclude);
        let misses = misses.map(|(t, e)| t.iter().filter(|(l, v)| **v > 0.0 && e.contains_key(l)).count());
        prop_assert_eq!(evaluator.n_excluded_positives(), misses.sum::<usize>());

        for metric in metrics {
            let (mut numerator, mut denominator) = (0.0, 0.0);
            let (kept, mut expected_rows) = (evaluator.row_values(metric).unwrap(), Vec::new());
            for (truth, ranking) in scene.truth.iter().zip(&rankings) {
                if scene.skip && empty(truth) {
                    expected_rows.push((f64::NAN, f64::NAN));
                    continue;
                }
                let row = terms(metric, truth, ranking, &scene.q, scene.options().psndcg);
                expected_rows.push(row);
                numerator += row.0;
                denominator += row.1;
            }
            let close = |a: f64, b: f64| (a - b).abs() < 1e-12 || (a.is_nan() && b.is_nan());
            for evaluator in [&evaluator, &by_ids] {
                if let Ok(value) = evaluator.value(metric) {
                    prop_assert!(close(value, numerator / denominator), "{metric}");
                } else {
                    prop_assert_eq!(denominator, 0.0);
                }
            }
            let (values, denominators) = match kept {
                RowValues::Mean(values) => (values, None),
                RowValues::Ratio { numerators, denominators } => (numerators, Some(denominators)),
            };
            prop_assert_eq!(values.len(), expected_rows.len());
            for (row, &(numerator, denominator)) in expected_rows.iter().enumerate() {
                prop_assert!(close(values[row], numerator), "{metric} row {row}");
                if let Some(denominators) = &denominators {
                    prop_assert!(close(denominators[row], denominator), "{metric} row {row}");
                }
            }
        }
    }

    #[test]
    fn topk_equals_sorting(scene in scene(), k in 1usize..20) {
        let (scores, excluded) = (csr(scene.n_labels, &scene.scores), csr(scene.n_labels, &scene.exclude));
        let exclude = excluded.view("exclude").unwrap().pattern();
        let top = topk_csr(scores.view("y_pred").unwrap(), k, Some(exclude)).unwrap();
        for (row, (scores, exclude)) in scene.scores.iter().zip(&scene.exclude).enumerate() {
            let mut expected = rank(scores, exclude);
            expected.resize(k.max(expected.len()), -1);
            expected.truncate(k);
            prop_assert_eq!(&top.ids[row * k..(row + 1) * k], &expected[..]);
            for (&id, &score) in expected.iter().zip(&top.scores[row * k..]) {
                prop_assert_eq!(score, scores.get(&id).copied().unwrap_or(f32::NEG_INFINITY));
            }
        }
    }

    #[test]
    fn dropped_pairs_are_those_a_filter_drops(scene in scene()) {
        let (scores, excluded) = (csr(scene.n_labels, &scene.scores), csr(scene.n_labels, &scene.exclude));
        let exclude = excluded.view("exclude").unwrap().pattern();
        let pairs = scene.scores.iter().zip(&scene.exclude);
        let left: Vec<Row> = pairs.map(|(scores, exclude)| {
            scores.iter().filter(|(l, _)| !exclude.contains_key(l)).map(|(&l, &v)| (l, v)).collect()
        }).collect();
        prop_assert_eq!(
            drop_pairs_csr(scores.view("y_pred").unwrap(), exclude).unwrap(),
            csr(scene.n_labels, &left)
        );
        let width = 14;
        let padded = |rankings: Vec<Vec<i32>>| -> Vec<i32> {
            let pad = |row: Vec<i32>| row.into_iter().chain(std::iter::repeat(-1)).take(width);
            rankings.into_iter().flat_map(pad).collect()
        };
        let all = scene.scores.iter().map(|scores| rank(scores, &Row::new())).collect();
        let pairs = scene.scores.iter().zip(&scene.exclude);
        let few = pairs.map(|(scores, exclude)| rank(scores, exclude)).collect();
        prop_assert_eq!(drop_pairs_ids(&padded(all), width, exclude).unwrap(), padded(few));
    }

    #[test]
    fn dense_topk_equals_sorting_in_one_block_or_two(
        row in prop::collection::vec(prop_oneof![score(), -1f32..1.0], 1..900),
        k in 1usize..300,
        cut in any::<prop::sample::Index>(),
        excluded in prop::collection::btree_set(0i32..900, 0..9),
    ) {
        let excluded: Vec<i32> = excluded.into_iter().filter(|&l| (l as usize) < row.len()).collect();
        let indptr = [0, excluded.len() as i64];
        let exclude = CsrPattern::new("exclude", row.len(), &indptr, &excluded).unwrap();
        let top = topk_dense(&row, 1, row.len(), k, Some(exclude), 0).unwrap();
        let scores: Row = row.iter().enumerate().map(|(label, &score)| (label as i32, score)).collect();
        let mut expected = rank(&scores, &excluded.iter().map(|&label| (label, 1.0)).collect());
        expected.resize(k.max(expected.len()), -1);
        expected.truncate(k);
        prop_assert_eq!(&top.ids, &expected);

        let cut = cut.index(row.len());
        let block = |first: usize, scores: &[f32]| {
            topk_dense(scores, 1, scores.len(), k, Some(exclude), first).unwrap()
        };
        let (a, b) = (block(0, &row[..cut]), block(cut, &row[cut..]));
        let a = Ranked::new(1, k, &a.ids, &a.scores).unwrap();
        let b = Ranked::new(1, k, &b.ids, &b.scores).unwrap();
        prop_assert_eq!(&merge_topk(1, &[a, b], k).unwrap(), &top);
        prop_assert_eq!(&merge_topk(1, &[b, a], k).unwrap(), &top);
    }

    #[test]
    fn label_text_round_trips(scene in scene(), value in -1e30f32..1e30) {
        let mut matrix = csr(scene.n_labels, &scene.truth);
        matrix.data.iter_mut().step_by(2).for_each(|cell| *cell = value);
        let mut text = Vec::new();
        write_labels(matrix.view("y").unwrap(), &mut text).unwrap();
        let read = parse_labels("Y.txt", &text, ParseOptions::default()).unwrap();
        prop_assert_eq!(&read, &matrix);
        let mut again = Vec::new();
        write_labels(read.view("y").unwrap(), &mut again).unwrap();
        prop_assert_eq!(again, text);
    }

    #[test]
    fn parsers_never_panic(
        head in prop_oneof![Just("3 9\n"), Just("1 9\r\n"), Just("")],
        body in prop::collection::vec(prop_oneof![
            prop::sample::select(b"0123456789:. \t\r\n-+e,#".to_vec()), any::<u8>()
        ], 0..200),
        missing_value in prop::option::of(Just(1.0f32)),
    ) {
        let text = [head.as_bytes(), &body].concat();
        let options = ParseOptions { missing_value, ..ParseOptions::default() };
        if let Ok(csr) = parse_labels("Y.txt", &text, options) {
            prop_assert!(csr.view("y").is_ok());
            for row in 0..csr.n_rows() {
                prop_assert!(csr.view("y").unwrap().row(row).0.is_sorted_by(|a, b| a < b));
            }
        }
        if let Ok(pairs) = parse_pairs("pairs.txt", &body, 5, 5) {
            prop_assert!(CsrPattern::new("exclude", 5, &pairs.indptr, &pairs.indices).is_ok());
        }
    }
}

/// A stream longer than two blocks, with sums that do round.
fn stream() -> (Csr, Vec<i32>, Vec<f64>) {
    let (n_rows, n_labels, k) = (9_001u64, 97u64, 7u64);
    let rows: Vec<Row> = (0..n_rows)
        .map(|row| (0..row % 5).map(|i| (((row * 31 + i * 17) % n_labels) as i32, 1.0)).collect())
        .collect();
    let ids =
        (0..n_rows).flat_map(|row| (0..k).map(move |i| ((row * 13 + i * 29) % n_labels) as i32));
    let q = (0..n_labels).map(|label| 1.0 + 1.0 / (label + 3) as f64).collect();
    (csr(n_labels as usize, &rows), ids.collect(), q)
}

#[test]
fn any_cut_and_any_number_of_threads_give_the_same_bits() {
    let (truth, ids, q) = stream();
    let kinds = Kind::ALL.iter().filter(|kind| !kind.needs_probabilities());
    let metrics: Vec<Metric> = kinds.map(|&kind| Metric::new(kind, 7).unwrap()).collect();
    let run = |threads: usize, cuts: &[usize]| -> Vec<u64> {
        let options =
            Options { inv_propensity: Some(q.clone()), keep_rows: true, ..Options::default() };
        let mut evaluator = Evaluator::new(97, &metrics, options).unwrap();
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let ends = cuts.iter().copied().chain([truth.n_rows()]);
            let mut start = 0;
            for end in ends {
                let indptr = &truth.indptr[start..=end];
                let y_true =
                    xmc_core::CsrView::new("y_true", 97, indptr, &truth.indices, &truth.data);
                evaluator.update_ids(y_true.unwrap(), &ids[start * 7..end * 7], 7, None).unwrap();
                start = end;
            }
        });
        let mut bits: Vec<u64> =
            metrics.iter().map(|&m| evaluator.value(m).unwrap().to_bits()).collect();
        for &metric in &metrics {
            if let Ok(RowValues::Mean(values)) = evaluator.row_values(metric) {
                bits.extend(values.iter().map(|value| value.to_bits()));
            }
        }
        bits
    };
    let whole = run(1, &[]);
    assert_eq!(run(2, &[]), whole);
    assert_eq!(run(7, &[0, 0, 1, 4095, 4096]), whole);
    assert_eq!(run(3, &[4096, 4097, 8192, 9001]), whole);
    assert_eq!(run(2, &(0..9001).step_by(613).collect::<Vec<_>>()), whole);
}

#[test]
fn a_failing_update_changes_nothing() {
    let (truth, mut ids, q) = stream();
    let metrics: Vec<Metric> = vec!["PSP@5".parse().unwrap()];
    let options = Options { inv_propensity: Some(q), ..Options::default() };
    let mut evaluator = Evaluator::new(97, &metrics, options).unwrap();
    let y_true = truth.view("y_true").unwrap();
    evaluator.update_ids(y_true, &ids, 7, None).unwrap();
    let before = evaluator.value(metrics[0]).unwrap();
    ids[9_000 * 7 + 2] = ids[9_000 * 7];
    ids[5_000 * 7 + 2] = 97;
    let error = evaluator.update_ids(y_true, &ids, 7, None).unwrap_err().shift_rows(9_001);
    assert_eq!(error.to_string(), "y_pred: row 14001: label 97 out of range (n_labels = 97)");
    assert_eq!(evaluator.n_rows(), 9_001);
    assert_eq!(evaluator.value(metrics[0]).unwrap(), before);
}

#[test]
fn merged_parts_equal_the_whole() {
    let (truth, ids, q) = stream();
    let metrics: Vec<Metric> = vec!["nDCG@5".parse().unwrap(), "PSP@7".parse().unwrap()];
    let options = Options { inv_propensity: Some(q), keep_rows: true, ..Options::default() };
    let fresh = Evaluator::new(97, &metrics, options.clone()).unwrap();
    let part = |from: usize, to: usize| {
        let mut evaluator = fresh.clone();
        let indptr = &truth.indptr[from..=to];
        let y_true = xmc_core::CsrView::new("y_true", 97, indptr, &truth.indices, &truth.data);
        evaluator.update_ids(y_true.unwrap(), &ids[from * 7..to * 7], 7, None).unwrap();
        evaluator
    };
    let whole = part(0, 9_001);
    let mut merged = part(0, 5_000);
    merged.merge(&part(5_000, 9_001)).unwrap();
    assert_eq!(merged.n_rows(), whole.n_rows());
    for &metric in &metrics {
        assert_eq!(merged.value(metric).unwrap(), whole.value(metric).unwrap());
        assert_eq!(merged.row_values(metric).unwrap(), whole.row_values(metric).unwrap());
    }
    let other = Options { empty_rows: EmptyRows::Skip, ..options };
    let other = Evaluator::new(97, &metrics, other).unwrap();
    let message = merged.merge(&other).unwrap_err().to_string();
    assert_eq!(message, "cannot merge evaluators that differ in empty_rows");
}

#[test]
fn evaluator_errors() {
    let metric: Metric = "P@2".parse().unwrap();
    let new = |options| Evaluator::new(3, &["PSP@2".parse().unwrap()], options);
    let message = |error: xmc_core::Error| error.to_string();
    assert_eq!(message(new(Options::default()).unwrap_err()), "PSP@2 needs inv_propensity");
    let weights = |q: &[f64]| Options { inv_propensity: Some(q.to_vec()), ..Options::default() };
    let short = new(weights(&[1.0, 2.0])).unwrap_err();
    assert_eq!(message(short), "inv_propensity: 2 weights, expected 3");
    let zero = new(weights(&[1.0, 0.0, 1.0])).unwrap_err();
    assert_eq!(message(zero), "inv_propensity of label 1 must be finite and > 0, not 0");
    assert!(
        message(Evaluator::new(3, &[], Options::default()).unwrap_err()).contains("at least one")
    );
    assert_eq!(
        message("x".parse::<EmptyRows>().unwrap_err()),
        "empty_rows must be 'zero' or 'skip', not 'x'"
    );
    assert_eq!(
        message("x".parse::<PsNdcg>().unwrap_err()),
        "psndcg must be 'xclib' or 'matlab', not 'x'"
    );
    assert_eq!(
        message("x".parse::<Ties>().unwrap_err()),
        "ties must be 'smaller' or 'larger', not 'x'"
    );

    let mut evaluator = Evaluator::new(3, &[metric], Options::default()).unwrap();
    assert_eq!(message(evaluator.value(metric).unwrap_err()), "no rows left to average");
    let beyond = evaluator.value("P@3".parse().unwrap()).unwrap_err();
    assert_eq!(message(beyond), "P@3 is beyond the largest k = 2 of this evaluator");
    let unlisted = evaluator.value("R@1".parse().unwrap()).unwrap_err();
    assert_eq!(message(unlisted), "R@1 is not summed by this evaluator: name it in its metrics");
    let no_rows = evaluator.row_values("macroF@2".parse().unwrap()).unwrap_err();
    assert_eq!(message(no_rows), "macroF@2 is a mean over labels and has no row values");
    assert_eq!(
        message(evaluator.row_values(metric).unwrap_err()),
        "row values of P@2 were not kept"
    );
    let mut update = |labels: &[i32], values: &[f32], ids: &[i64], width| {
        let indptr = [0, labels.len() as i64];
        let y_true = xmc_core::CsrView::new("y_true", 3, &indptr, labels, values).unwrap();
        message(evaluator.update_ids(y_true, ids, width, None).unwrap_err())
    };
    assert_eq!(
        update(&[0], &[1.0], &[0], 1),
        "y_pred: 1 columns, fewer than the largest k = 2 (pad with -1)"
    );
    assert_eq!(update(&[0], &[1.0], &[0, 1, 2], 2), "y_pred: 3 labels, expected 2");
    assert_eq!(update(&[0], &[1.0], &[1, 1], 2), "y_pred: row 0: duplicate label 1");
    assert_eq!(
        update(&[0], &[1.0], &[1, 3], 2),
        "y_pred: row 0: label 3 out of range (n_labels = 3)"
    );
    assert_eq!(
        update(&[0], &[1.0], &[-2, 1], 2),
        "y_pred: row 0: label -2 out of range (n_labels = 3)"
    );
    assert_eq!(update(&[0], &[1.0], &[-1, 1], 2), "y_pred: row 0: label 1 after padding");
    assert_eq!(update(&[0, 0], &[1.0, 0.0], &[0, 1], 2), "y_true: row 0: duplicate label 0");
    let negative = "y_true: row 0: truth value of label 2 must be >= 0, not -1";
    assert_eq!(update(&[2], &[-1.0], &[0, 1], 2), negative);
    let nan = "y_true: row 0: truth value of label 2 must be >= 0, not NaN";
    assert_eq!(update(&[2], &[f32::NAN], &[0, 1], 2), nan);

    let y_true = xmc_core::CsrView::new("y_true", 3, &[0, 0], &[], &[]).unwrap();
    let mut score = |indptr: &[i64], labels: &[i32], scores: &[f64]| {
        let y_pred = xmc_core::CsrView::new("y_pred", 3, indptr, labels, scores).unwrap();
        message(evaluator.update_scores(y_true, y_pred, None).unwrap_err())
    };
    assert_eq!(score(&[0, 2], &[2, 2], &[1.0, 0.0]), "y_pred: row 0: duplicate label 2");
    assert_eq!(score(&[0, 1], &[2], &[f64::NAN]), "y_pred: row 0: score of label 2 is NaN");
    assert_eq!(score(&[0, 0, 0], &[], &[]), "y_pred: 2 rows, expected 1");

    let mut weighted = new(weights(&[1.0; 3])).unwrap();
    weighted.update_ids(y_true, &[0i32, 1], 2, None).unwrap();
    let zero = weighted.value("PSP@1".parse().unwrap()).unwrap_err();
    assert_eq!(message(zero), "the denominator of PSP@1 is 0: no row has a positive");
}
