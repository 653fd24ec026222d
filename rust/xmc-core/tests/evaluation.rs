//! Label groups, means over labels, exact ones, and the same bits however the rows are cut.
#![allow(clippy::unwrap_used, clippy::float_cmp)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use xmc_core::rayon::ThreadPoolBuilder;
use xmc_core::{Csr, CsrView, EmptyRows, Evaluator, Grouping, Kind, Metric, Options, PsNdcg};

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

fn metrics(ks: &[usize]) -> Vec<Metric> {
    let at = |&kind: &Kind| ks.iter().map(move |&k| Metric::new(kind, k).unwrap());
    // Those that are summed at their own k have tests of their own.
    Kind::ALL.iter().filter(|kind| !kind.is_at_its_k()).flat_map(at).collect()
}

#[derive(Debug, Clone)]
struct Scene {
    truth: Vec<Row>,
    scores: Vec<Row>,
    exclude: Vec<Row>,
    of_label: Vec<i32>,
    q: Vec<f64>,
    matlab: bool,
}

impl Scene {
    fn n_labels(&self) -> usize {
        self.q.len()
    }

    fn evaluate(&self, truth: &[Row], metrics: &[Metric], options: &Options) -> Evaluator {
        let inv_propensity = Some(self.q.clone());
        let psndcg = if self.matlab { PsNdcg::Matlab } else { PsNdcg::Xclib };
        let options = Options { inv_propensity, psndcg, ..options.clone() };
        let mut evaluator = Evaluator::new(self.n_labels(), metrics, options).unwrap();
        let [truth, scores, exclude] =
            [truth, &self.scores, &self.exclude].map(|rows| csr(self.n_labels(), rows));
        let exclude = exclude.view("exclude").unwrap().pattern();
        let y_pred = scores.view("y_pred").unwrap();
        evaluator.update_scores(truth.view("y_true").unwrap(), y_pred, Some(exclude)).unwrap();
        evaluator
    }

    /// A mean over labels from its definition.
    fn label_wise(&self, metric: Metric, picked: impl Fn(i32) -> bool) -> Option<f64> {
        let mut values = Vec::new();
        for label in (0..self.n_labels() as i32).filter(|&label| picked(label)) {
            let (mut positives, mut predicted, mut hits) = (0, 0, 0);
            for ((truth, scores), exclude) in self.truth.iter().zip(&self.scores).zip(&self.exclude)
            {
                let mut ranking: Vec<i32> =
                    scores.keys().copied().filter(|label| !exclude.contains_key(label)).collect();
                let falling = |a: &i32, b: &i32| scores[b].total_cmp(&scores[a]).then(a.cmp(b));
                ranking.sort_by(falling);
                let positive = truth.get(&label).is_some_and(|&value| value > 0.0);
                let found = ranking.iter().take(metric.k()).any(|&other| other == label);
                positives += u32::from(positive);
                predicted += u32::from(found);
                hits += u32::from(positive && found);
            }
            let share = |a: u32, b: u32| if b == 0 { 0.0 } else { f64::from(a) / f64::from(b) };
            values.push(match metric.kind() {
                Kind::MacroP => share(hits, predicted),
                Kind::MacroR => share(hits, positives),
                Kind::MacroF => share(2 * hits, predicted + positives),
                _ => f64::from(u8::from(hits > 0)),
            });
        }
        let n = values.len() as f64;
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / n)
    }
}

fn scene() -> impl Strategy<Value = Scene> {
    let sizes = (prop_oneof![Just(1usize), 2usize..15, Just(70)], 0usize..8);
    sizes.prop_flat_map(|(n_labels, n_rows)| {
        let rows = |values: &'static [f32]| {
            let labels = 0..n_labels as i32;
            let value = prop::sample::select(values);
            let row = prop::collection::btree_map(labels, value, 0..=n_labels.min(12));
            prop::collection::vec(row, n_rows)
        };
        let groups = prop::collection::vec(-1i32..3, n_labels);
        let q = prop::collection::vec(prop_oneof![Just(2.0), 1.0f64..9.0], n_labels);
        let rows = (rows(&[0.0, 1.0, 2.5]), rows(&[-1.0, 0.0, 1.0, 2.0]), rows(&[1.0]));
        (rows, groups, q, any::<bool>()).prop_map(
            |((truth, scores, exclude), of_label, q, matlab)| Scene {
                truth,
                scores,
                exclude,
                of_label,
                q,
                matlab,
            },
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn groups_equal_evaluation_of_the_restricted_truth(scene in scene(), skip in any::<bool>()) {
        let metrics = metrics(&[1, 3, 8]);
        let n_labels = scene.n_labels();
        let halves = (0..n_labels as i32).map(|label| label % 2).collect();
        let groupings = vec![
            Grouping { name: "parity".into(), n_groups: 2, of_label: halves },
            Grouping { name: "any".into(), n_groups: 3, of_label: scene.of_label.clone() },
        ];
        let empty_rows = if skip { EmptyRows::Skip } else { EmptyRows::Zero };
        let options = Options { groupings: groupings.clone(), empty_rows, ..Options::default() };
        let evaluator = scene.evaluate(&scene.truth, &metrics, &options);
        for (i, grouping) in groupings.iter().enumerate() {
            for group in 0..grouping.n_groups {
                let member = |label: i32| grouping.of_label[label as usize] == group as i32;
                let mut truth = scene.truth.clone();
                for row in &mut truth {
                    row.retain(|&label, _| member(label));
                }
                let options = Options { empty_rows: EmptyRows::Skip, ..Options::default() };
                let twin = scene.evaluate(&truth, &metrics, &options);
                let counts = evaluator.group_counts(i, group).unwrap();
                prop_assert_eq!(counts.rows, twin.n_rows() - twin.n_empty());
                let positives = truth.iter().flat_map(|row| row.values()).filter(|v| **v > 0.0);
                prop_assert_eq!(counts.positives, positives.count());
                let labels = (0..n_labels as i32).filter(|&label| member(label));
                prop_assert_eq!(counts.labels, labels.count());
                for &metric in metrics.iter().filter(|metric| !metric.kind().is_label_wise()) {
                    let (found, twin) = (evaluator.group_value(i, group, metric), twin.value(metric));
                    match (found, twin) {
                        (Ok(found), Ok(twin)) => prop_assert_eq!(found, twin, "{}", metric),
                        (found, twin) => prop_assert!(found.is_err() && twin.is_err(), "{metric}"),
                    }
                }
                for &metric in metrics.iter().filter(|metric| metric.kind().is_label_wise()) {
                    let expected = scene.label_wise(metric, member);
                    let found = evaluator.group_value(i, group, metric).ok();
                    let close = found.zip(expected).is_none_or(|(a, b)| (a - b).abs() < 1e-12);
                    prop_assert!(close && found.is_some() == expected.is_some(), "{metric}");
                }
            }
        }
        if evaluator.n_rows() > 0 {
            for &metric in metrics.iter().filter(|metric| metric.kind().is_label_wise()) {
                let expected = scene.label_wise(metric, |_| true).unwrap();
                prop_assert!((evaluator.value(metric).unwrap() - expected).abs() < 1e-12);
            }
            for k in [1, 3, 8] {
                let Ok(whole) = evaluator.value(Metric::new(Kind::P, k).unwrap()) else { continue };
                let parts = (0..2).map(|group| evaluator.contribution(0, group, k).unwrap());
                prop_assert!((parts.sum::<f64>() - whole).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn a_perfect_ranking_scores_exactly_one(
        rows in prop::collection::vec(prop::collection::btree_set(0i32..40, 1..30), 1..30),
        q in prop::collection::vec(1e-3f64..1e3, 40),
        matlab in any::<bool>(),
    ) {
        let k = 35;
        let truth: Vec<Row> =
            rows.iter().map(|row| row.iter().map(|&label| (label, 1.0)).collect()).collect();
        let mut ids = Vec::new();
        for row in &rows {
            let mut ranking: Vec<i32> = row.iter().copied().collect();
            ranking.sort_by(|&a, &b| q[b as usize].total_cmp(&q[a as usize]));
            let rest = (0..40).filter(|label| !row.contains(label));
            ids.extend(ranking.iter().copied().chain(rest).take(k));
        }
        let psndcg = if matlab { PsNdcg::Matlab } else { PsNdcg::Xclib };
        let options = Options { inv_propensity: Some(q), psndcg, ..Options::default() };
        let mut evaluator = Evaluator::new(40, &metrics(&[k]), options).unwrap();
        let truth = csr(40, &truth);
        evaluator.update_ids(truth.view("y_true").unwrap(), &ids, k, None).unwrap();
        for k in 1..=k {
            for kind in [Kind::Ndcg, Kind::Mrr, Kind::Success, Kind::Psp, Kind::Psr, Kind::PsNdcg] {
                prop_assert_eq!(evaluator.value(Metric::new(kind, k).unwrap()).unwrap(), 1.0);
            }
        }
        prop_assert_eq!(evaluator.value(Metric::new(Kind::R, k).unwrap()).unwrap(), 1.0);
        let shortest = rows.iter().map(BTreeSet::len).min().unwrap();
        let precision = Metric::new(Kind::P, shortest).unwrap();
        prop_assert_eq!(evaluator.value(precision).unwrap(), 1.0);
    }
}

/// Rows with sums that would round, more than one task of them.
fn stream() -> (Csr, Vec<i32>, Vec<f64>) {
    let (n_rows, n_labels, k) = (5_003u64, 97u64, 7u64);
    let label = |number: u64| (number % n_labels) as i32;
    let rows: Vec<Row> = (0..n_rows)
        .map(|row| (0..row % 5).map(|i| (label(row * 31 + i * 17), 1.0)).collect())
        .collect();
    let ids = (0..n_rows).flat_map(|row| (0..k).map(move |i| label(row * 13 + i * 29)));
    let q = (0..n_labels).map(|label| 1.0 + 1.0 / (label + 3) as f64).collect();
    (csr(n_labels as usize, &rows), ids.collect(), q)
}

fn fresh(q: Vec<f64>) -> (Evaluator, Vec<Metric>) {
    let metrics = metrics(&[1, 3, 7]);
    let of_label = (0..97).map(|label| label % 4 - 1).collect();
    let groupings = vec![Grouping { name: "four".into(), n_groups: 4, of_label }];
    let options = Options { inv_propensity: Some(q), groupings, ..Options::default() };
    (Evaluator::new(97, &metrics, options).unwrap(), metrics)
}

/// Everything that can be read, to the bit.
fn bits(evaluator: &Evaluator, metrics: &[Metric]) -> Vec<u64> {
    let mut bits = Vec::new();
    for &metric in metrics {
        bits.push(evaluator.value(metric).unwrap().to_bits());
        bits.extend((0..3).map(|g| evaluator.group_value(0, g, metric).unwrap().to_bits()));
    }
    for group in 0..4 {
        let counts = evaluator.group_counts(0, group).unwrap();
        bits.extend([counts.labels as u64, counts.rows as u64, counts.positives as u64]);
        bits.push(evaluator.contribution(0, group, 3).unwrap().to_bits());
    }
    bits
}

#[test]
fn groups_have_the_same_bits_for_any_threads_cuts_and_merges() {
    let (truth, ids, q) = stream();
    let (fresh, metrics) = fresh(q);
    let run = |threads: usize, evaluator: &mut Evaluator, ends: &[usize]| {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        for pair in ends.windows(2) {
            let indptr = &truth.indptr[pair[0]..=pair[1]];
            let y_true = CsrView::new("y_true", 97, indptr, &truth.indices, &truth.data).unwrap();
            let ids = &ids[pair[0] * 7..pair[1] * 7];
            pool.install(|| evaluator.update_ids(y_true, ids, 7, None)).unwrap();
        }
    };
    let mut whole = fresh.clone();
    run(1, &mut whole, &[0, 5_003]);
    let expected = bits(&whole, &metrics);
    for (threads, ends) in [(2, vec![0, 5_003]), (7, vec![0, 1, 1, 64, 4_096, 5_003])] {
        let mut evaluator = fresh.clone();
        run(threads, &mut evaluator, &ends);
        assert_eq!(bits(&evaluator, &metrics), expected);
    }
    let (mut first, mut second) = (fresh.clone(), fresh.clone());
    run(2, &mut first, &[0, 77]);
    run(1, &mut second, &[77, 5_003]);
    second.merge(&first).unwrap();
    assert_eq!(bits(&second, &metrics), expected);
}

#[test]
fn a_failing_update_leaves_groups_and_labels() {
    let (truth, mut ids, q) = stream();
    let (mut evaluator, metrics) = fresh(q);
    let y_true = truth.view("y_true").unwrap();
    evaluator.update_ids(y_true, &ids, 7, None).unwrap();
    let before = bits(&evaluator, &metrics);
    *ids.last_mut().unwrap() = 97;
    let error = evaluator.update_ids(y_true, &ids, 7, None).unwrap_err();
    assert_eq!(error.to_string(), "y_pred: row 5002: label 97 out of range (n_labels = 97)");
    assert_eq!(bits(&evaluator, &metrics), before);
}

/// Rows whose discounts add up to more than usual, and weights far apart.
#[test]
fn long_rows_and_wide_weights_do_not_overflow() {
    let (n, n_rows) = (10_000, 40);
    let row: Row = (0..n).map(|label| (label, 1.0)).collect();
    let truth = csr(n as usize, &vec![row; n_rows]);
    let mut q = vec![1e6; n as usize];
    q[0] = 1.0;
    let options = Options { inv_propensity: Some(q), ..Options::default() };
    let k = n as usize + 10;
    let mut evaluator = Evaluator::new(n as usize, &metrics(&[k]), options).unwrap();
    // All labels, the lightest first, padded.
    let one: Vec<i64> = (0..i64::from(n)).chain([-1; 10]).collect();
    let y_true = truth.view("y_true").unwrap();
    evaluator.update_ids(y_true, &one.repeat(n_rows), k, None).unwrap();
    for kind in [Kind::Ndcg, Kind::R, Kind::Psp, Kind::Psr] {
        assert_eq!(evaluator.value(Metric::new(kind, k).unwrap()).unwrap(), 1.0, "{kind}");
    }
    let value = |kind, k| evaluator.value(Metric::new(kind, k).unwrap()).unwrap();
    assert!((value(Kind::Psp, 1) - 1e-6).abs() < 1e-12);
    assert!((value(Kind::Psp, 2) - 0.500_000_5).abs() < 1e-12);
    let wide = Options { inv_propensity: Some(vec![1.0, 2e6]), ..Options::default() };
    let message = Evaluator::new(2, &metrics(&[1]), wide).unwrap_err().to_string();
    assert_eq!(message, "inv_propensity must span a factor of 2^20 at most, not 2000000");
    assert!((value(Kind::P, k) - f64::from(n) / k as f64).abs() < 1e-12);
}

/// A share of a light weight beside a heavy one, of a row with very many positives.
#[test]
fn recall_keeps_its_digits_in_long_rows() {
    let n = 100_000;
    let mut weights: Vec<f64> = (0..n).map(|label| 1.0 + f64::from(label % 97) / 97.0).collect();
    weights.push(1000.0); // of a label that occurs nowhere
    let truth = csr(n as usize + 1, &[(0..n).map(|label| (label, 1.0)).collect()]);
    let metrics = metrics(&[1, 3]);
    let options = Options { inv_propensity: Some(weights.clone()), ..Options::default() };
    let mut evaluator = Evaluator::new(truth.n_cols, &metrics, options).unwrap();
    evaluator.update_ids(truth.view("y_true").unwrap(), &[0, 1, 2], 3, None).unwrap();
    let heaviest = 1.0 + 96.0 / 97.0;
    let value = |k| evaluator.value(Metric::new(Kind::Psr, k).unwrap()).unwrap();
    assert!((value(1) - weights[0] / heaviest).abs() < 1e-12);
    assert!((value(3) - weights[..3].iter().sum::<f64>() / (3.0 * heaviest)).abs() < 1e-12);
}

#[test]
fn errors_of_groups() {
    let metrics: Vec<Metric> = vec!["P@1".parse().unwrap()];
    let new = |of_label: &[i32]| {
        let grouping = Grouping { name: "f".into(), n_groups: 2, of_label: of_label.to_vec() };
        let options = Options { groupings: vec![grouping], ..Options::default() };
        Evaluator::new(3, &metrics, options)
    };
    let message = |error: xmc_core::Error| error.to_string();
    assert_eq!(message(new(&[0]).unwrap_err()), "label_groups 'f': 1 labels, expected 3");
    for bad in [2, -2] {
        assert_eq!(
            message(new(&[0, 1, bad]).unwrap_err()),
            format!(
                "label_groups 'f': group {bad} of label 2 out of range (n_groups = 2, -1 for none)"
            )
        );
    }
    let mut evaluator = new(&[0, 1, -1]).unwrap();
    let missing = evaluator.group_value(0, 2, metrics[0]).unwrap_err();
    assert_eq!(message(missing), "group must be one of label_groups, not 0, 2");
    assert!(evaluator.group_counts(1, 0).is_err());
    let empty = evaluator.group_value(0, 0, metrics[0]).unwrap_err();
    assert_eq!(message(empty), "no rows left to average");
    let other = new(&[0, 0, -1]).unwrap();
    let message = evaluator.merge(&other).unwrap_err().to_string();
    assert_eq!(message, "cannot merge evaluators that differ in label_groups");
}
