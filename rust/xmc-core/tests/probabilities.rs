//! Average precision, sets of labels and probabilities, against slow twins.
#![allow(
    clippy::float_cmp,
    clippy::type_complexity,
    reason = "a slow twin: equal values are the same value, and rows are plain lists"
)]
#![allow(clippy::unwrap_used, clippy::cast_precision_loss)]

use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use xmc_core::rayon::ThreadPoolBuilder;
use xmc_core::{Csr, EmptyRows, Evaluator, Grouping, Kind, Metric, Options, RowValues};

const N_LABELS: usize = 12;

type Truth = Vec<Vec<i32>>;
/// Label and probability, in hundredths and a half, so that no bin edge is met.
type Predicted = Vec<Vec<(i32, f64)>>;

fn csr(rows: impl Iterator<Item = Vec<(i32, f64)>>) -> (Csr, Vec<f64>) {
    let mut csr = Csr { n_cols: N_LABELS, indptr: vec![0], indices: vec![], data: vec![] };
    let mut exact = Vec::new();
    for row in rows {
        for (label, value) in row {
            csr.indices.push(label);
            csr.data.push(value as f32);
            exact.push(value);
        }
        csr.indptr.push(csr.indices.len() as i64);
    }
    (csr, exact)
}

fn scene() -> impl Strategy<Value = (Truth, Predicted)> {
    let labels = 0..N_LABELS as i32;
    let truth = btree_set(labels.clone(), 0..5).prop_map(|set| set.into_iter().collect());
    let predicted = btree_map(labels, 0..100u32, 0..7)
        .prop_map(|map| map.into_iter().map(|(l, p)| (l, f64::from(p) / 100.0 + 0.005)).collect());
    vec((truth, predicted), 1..20).prop_map(|rows| rows.into_iter().unzip())
}

fn all(ks: &[usize]) -> Vec<Metric> {
    let kinds = Kind::ALL.into_iter().filter(|kind| kind.is_at_its_k());
    kinds.flat_map(|kind| ks.iter().map(move |&k| Metric::new(kind, k).unwrap())).collect()
}

fn evaluated(truth: &Truth, predicted: &Predicted, options: Options, ks: &[usize]) -> Evaluator {
    let (y, _) = csr(truth.iter().map(|row| row.iter().map(|&label| (label, 1.0)).collect()));
    let (p, exact) = csr(predicted.iter().cloned());
    let mut evaluator = Evaluator::new(N_LABELS, &all(ks), options).unwrap();
    let y_pred = xmc_core::CsrView::new("y_pred", N_LABELS, &p.indptr, &p.indices, &exact).unwrap();
    evaluator.update_scores(y.view("y_true").unwrap(), y_pred, None).unwrap();
    evaluator
}

/// The first k labels of a row, best first, with probability and whether they are right.
fn head(truth: &[i32], predicted: &[(i32, f64)], k: usize) -> Vec<(i32, f64, bool)> {
    let mut ranked = predicted.to_vec();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    ranked.into_iter().take(k).map(|(l, p)| (l, p, truth.contains(&l))).collect()
}

/// Value of a metric, written as its definition is.
fn slow(kind: Kind, k: usize, rows: &[(Vec<i32>, Vec<(i32, f64)>)]) -> Option<f64> {
    let over = |a: f64, b: f64| if b == 0.0 { 0.0 } else { a / b };
    let heads: Vec<_> = rows.iter().map(|(t, p)| (t.len() as f64, head(t, p, k))).collect();
    let hits = |head: &[(i32, f64, bool)]| head.iter().filter(|place| place.2).count() as f64;
    let mean = |value: &dyn Fn(f64, &[(i32, f64, bool)]) -> f64| {
        let sum: f64 = heads.iter().map(|(n, head)| value(*n, head)).sum();
        (!heads.is_empty()).then(|| sum / heads.len() as f64)
    };
    let total = |value: &dyn Fn(f64, &[(i32, f64, bool)]) -> f64| -> f64 {
        heads.iter().map(|(n, head)| value(*n, head)).sum()
    };
    let (tp, m) = (total(&|_, h| hits(h)), total(&|_, h| h.len() as f64));
    let n = total(&|n, _| n);
    let mut pairs: Vec<(f64, f64)> = heads
        .iter()
        .flat_map(|(_, head)| head.iter().map(|&(_, p, hit)| (p, f64::from(u8::from(hit)))))
        .collect();
    let errors = |signed: &dyn Fn(f64) -> f64| {
        let bin = |b: usize| {
            let own = pairs.iter().filter(|(p, _)| ((p * 10.0) as usize).min(9) == b);
            signed(own.map(|(p, h)| p - h).sum::<f64>())
        };
        (m > 0.0).then(|| (0..10).map(bin).sum::<f64>() / m)
    };
    match kind {
        Kind::Ap => mean(&|n, h| {
            let at = |r: usize| over(hits(&h[..=r]), (r + 1) as f64);
            let sum = (0..h.len()).filter(|&r| h[r].2).map(at).sum();
            over(sum, n.min(k as f64))
        }),
        Kind::Rp => mean(&|n, h| over(hits(h), n.min(k as f64))),
        Kind::MicroP => Some(over(tp, m)),
        Kind::MicroR => Some(over(tp, n)),
        Kind::MicroF => Some(over(2.0 * tp, m + n)),
        Kind::SampleP => mean(&|_, h| over(hits(h), h.len() as f64)),
        Kind::SampleR => mean(&|n, h| over(hits(h), n)),
        Kind::SampleF => mean(&|n, h| over(2.0 * hits(h), n + h.len() as f64)),
        Kind::Hamming => mean(&|n, h| (n + h.len() as f64 - 2.0 * hits(h)) / N_LABELS as f64),
        Kind::Exact => mean(&|n, h| f64::from(u8::from(hits(h) == n && h.len() as f64 == n))),
        Kind::Brier => {
            (m > 0.0).then(|| pairs.iter().map(|(p, h)| (p - h).powi(2)).sum::<f64>() / m)
        }
        Kind::Nll => (m > 0.0).then(|| {
            let loss = |&(p, h): &(f64, f64)| -(if h > 0.0 { p.ln() } else { (1.0 - p).ln() });
            pairs.iter().map(loss).sum::<f64>() / m
        }),
        Kind::Ece => errors(&f64::abs),
        Kind::EceOver => errors(&|x| x.max(0.0)),
        Kind::EceUnder => errors(&|x| (-x).max(0.0)),
        Kind::Ace => {
            // Equal probabilities are alike: each of them stands for their mean. A bin may end
            // within a pair.
            pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
            let alike = |x: f64| {
                let own: Vec<f64> =
                    pairs.iter().filter(|pair| pair.0 == x).map(|pair| pair.1).collect();
                own.iter().sum::<f64>() / own.len() as f64
            };
            let size = m / 10.0;
            let part =
                |b: f64, i: f64| (((i + 1.0).min((b + 1.0) * size)) - i.max(b * size)).max(0.0);
            let bin = |b: u32| {
                let term = |(i, pair): (usize, &(f64, f64))| {
                    part(f64::from(b), i as f64) * (pair.0 - alike(pair.0))
                };
                pairs.iter().enumerate().map(term).sum::<f64>().abs()
            };
            (m > 0.0).then(|| (0..10).map(bin).sum::<f64>() / m)
        }
        _ => unreachable!(),
    }
}

fn rows_of(truth: &Truth, predicted: &Predicted) -> Vec<(Vec<i32>, Vec<(i32, f64)>)> {
    truth.iter().cloned().zip(predicted.iter().cloned()).collect()
}

fn same(a: Option<f64>, b: Option<f64>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => (a - b).abs() < 1e-9,
        (a, b) => a.is_none() && b.is_none(),
    }
}

proptest! {
    #[test]
    fn values_are_those_of_the_slow_twin((truth, predicted) in scene(), skip: bool) {
        let empty_rows = if skip { EmptyRows::Skip } else { EmptyRows::Zero };
        let options = Options { empty_rows, keep_rows: true, ..Options::default() };
        let evaluator = evaluated(&truth, &predicted, options, &[1, 3, 6]);
        let mut rows = rows_of(&truth, &predicted);
        if skip {
            rows.retain(|row| !row.0.is_empty());
        }
        for metric in all(&[1, 3, 6]) {
            let expected = slow(metric.kind(), metric.k(), &rows);
            let value = evaluator.value(metric).ok();
            prop_assert!(same(value, expected), "{metric}: {value:?}, not {expected:?}");
            if metric.kind().is_binned() {
                prop_assert!(evaluator.row_values(metric).is_err());
                continue;
            }
            let (above, below) = match evaluator.row_values(metric).unwrap() {
                RowValues::Mean(values) => {
                    let ones = values.iter().map(|x| if x.is_nan() { *x } else { 1.0 }).collect();
                    (values, ones)
                }
                RowValues::Ratio { numerators, denominators } => (numerators, denominators),
            };
            let sum = |x: &[f64]| x.iter().filter(|x| !x.is_nan()).sum::<f64>();
            if let (Some(value), true) = (value, sum(&below) > 0.0) {
                prop_assert!((sum(&above) / sum(&below) - value).abs() < 1e-9, "{metric}");
            }
        }
    }

    #[test]
    fn groups_see_their_own_labels((truth, predicted) in scene()) {
        let of_label: Vec<i32> = (0..N_LABELS as i32).map(|label| label % 3 - 1).collect();
        let grouping = Grouping { name: "g".to_owned(), n_groups: 2, of_label: of_label.clone() };
        let options = Options { groupings: vec![grouping], ..Options::default() };
        let evaluator = evaluated(&truth, &predicted, options, &[4]);
        for group in 0..2 {
            let own = |label: i32| of_label[label as usize] == group;
            let rows: Vec<_> = truth.iter().zip(&predicted).map(|(t, p)| {
                let top: Vec<(i32, f64)> = head(t, p, 4).iter().map(|&(l, p, _)| (l, p)).collect();
                (
                    t.iter().copied().filter(|&l| own(l)).collect::<Vec<_>>(),
                    top.into_iter().filter(|&(l, _)| own(l)).collect::<Vec<_>>(),
                )
            }).collect();
            for metric in all(&[4]) {
                if matches!(metric.kind(), Kind::Ap | Kind::Rp) {
                    continue; // ranks count among all labels
                }
                let mut rows = rows.clone();
                rows.retain(|(t, p)| !t.is_empty() || !p.is_empty());
                let expected = slow(metric.kind(), 4, &rows);
                let value = evaluator.group_value(0, group as usize, metric).ok();
                prop_assert!(same(value, expected), "{metric}: {value:?}, not {expected:?}");
            }
        }
    }

    #[test]
    fn merges_bytes_and_threads_change_no_bit((truth, predicted) in scene(), cut in 0usize..20) {
        let options = || Options { keep_rows: true, ..Options::default() };
        let whole = evaluated(&truth, &predicted, options(), &[2, 5]);
        let cut = cut.min(truth.len());
        let part = |rows: std::ops::Range<usize>| {
            evaluated(&truth[rows.clone()].to_vec(), &predicted[rows].to_vec(), options(), &[2, 5])
        };
        let mut merged = part(0..cut);
        merged.merge(&part(cut..truth.len())).unwrap();
        let pool = ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let threaded = pool.install(|| evaluated(&truth, &predicted, options(), &[2, 5]));
        let again = Evaluator::from_bytes(&whole.to_bytes()).unwrap();
        for other in [merged, threaded, again] {
            for metric in all(&[2, 5]) {
                let bits = |evaluator: &Evaluator| evaluator.value(metric).ok().map(f64::to_bits);
                prop_assert_eq!(bits(&whole), bits(&other));
            }
        }
    }
}

#[test]
fn the_case_of_the_reference() {
    let (truth, predicted) = (vec![vec![0]], vec![vec![(0, 0.9), (1, 0.8), (2, 0.3)]]);
    let evaluator = evaluated(&truth, &predicted, Options::default(), &[3]);
    let value = |name: &str| evaluator.value(name.parse().unwrap()).unwrap();
    for (name, expected) in [
        ("Brier@3", 0.74 / 3.0),
        ("ECE@3", 0.4),
        ("ECEover@3", 1.1 / 3.0),
        ("ECEunder@3", 0.1 / 3.0),
    ] {
        assert!((value(name) - expected).abs() < 1e-9, "{name}");
    }
}

#[test]
fn what_is_no_probability_is_named() {
    let metrics: Vec<Metric> = vec!["P@1".parse().unwrap(), "ECE@1".parse().unwrap()];
    let mut evaluator = Evaluator::new(N_LABELS, &metrics, Options::default()).unwrap();
    let (y, _) = csr([vec![(0, 1.0)]].into_iter());
    let y_true = y.view("y_true").unwrap();
    let error = evaluator.update_ids(y_true, &[0i32], 1, None).unwrap_err();
    let told = "ECE@1 needs probabilities: give scores between 0 and 1, not ranked labels";
    assert_eq!(error.to_string(), told);
    for bad in [1.5, -0.25, f64::INFINITY] {
        let (p, _) = csr([vec![(3, bad)]].into_iter());
        let error = evaluator.update_scores(y_true, p.view("y_pred").unwrap(), None).unwrap_err();
        let told =
            format!("y_pred: row 0: score {bad} of label 3 is no probability between 0 and 1");
        assert_eq!(error.to_string(), told);
    }
    assert_eq!(evaluator.n_rows(), 0);
}
