//! Labels chosen for all rows together, against every possible choice.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use xmc_core::{CsrView, Favoured, Result, Together, Worth, favour, gains_given};

const LABELS: usize = 4;

/// Candidates: rows of (label, probability).
type Rows = Vec<Vec<(i32, f32)>>;

fn arrays(rows: &Rows) -> (Vec<i64>, Vec<i32>, Vec<f32>) {
    let mut indptr = vec![0];
    for row in rows {
        indptr.push(indptr[indptr.len() - 1] + row.len() as i64);
    }
    let entries = || rows.iter().flatten();
    (indptr, entries().map(|e| e.0).collect(), entries().map(|e| e.1).collect())
}

fn run(rows: &Rows, k: usize, worth: &Worth<'_>, seed: u64) -> Result<Favoured> {
    let (indptr, indices, data) = arrays(rows);
    let view = CsrView::new("p", LABELS, &indptr, &indices, &data)?;
    favour(view, k, worth, seed, 100, &|| true)
}

/// The utility by its formula, for chosen positions of each row.
fn utility(rows: &Rows, chosen: &[Vec<usize>], worth: &Worth<'_>) -> f64 {
    (0..LABELS)
        .map(|label| {
            let own: Vec<f64> = rows
                .iter()
                .zip(chosen)
                .flat_map(|(row, chosen)| chosen.iter().map(|&at| row[at]))
                .filter(|&(other, _)| other as usize == label)
                .map(|(_, p)| f64::from(p))
                .collect();
            let (hits, given) = (own.iter().sum::<f64>(), own.len() as f64);
            let together = match worth.together {
                Together::Nothing => 0.0,
                Together::Precision if own.is_empty() => 0.0,
                Together::Precision => hits / given,
                Together::F => 2.0 * hits / (given + worth.offsets[label]),
                Together::Coverage => 1.0 - own.iter().map(|p| 1.0 - p).product::<f64>(),
            };
            worth.linear[label] * hits + worth.scale * together
        })
        .sum()
}

/// All ways to choose min(k, n) of n.
fn subsets(n: usize, k: usize) -> Vec<Vec<usize>> {
    (0u32..1 << n)
        .filter(|bits| bits.count_ones() as usize == k.min(n))
        .map(|bits| (0..n).filter(|at| bits >> at & 1 == 1).collect())
        .collect()
}

/// What the gains say was chosen: the k largest of each row, equal ones by label.
fn chosen(rows: &Rows, gains: &[f64], k: usize) -> Vec<Vec<usize>> {
    let mut start = 0;
    rows.iter()
        .map(|row| {
            let own = &gains[start..start + row.len()];
            start += row.len();
            let mut order: Vec<usize> = (0..row.len()).collect();
            order.sort_by(|&a, &b| own[b].total_cmp(&own[a]).then(row[a].0.cmp(&row[b].0)));
            order.truncate(k);
            order.sort_unstable();
            order
        })
        .collect()
}

/// The best utility that any choice for all rows has.
fn best(rows: &Rows, k: usize, worth: &Worth<'_>) -> f64 {
    let mut most = f64::NEG_INFINITY;
    let options: Vec<_> = rows.iter().map(|row| subsets(row.len(), k)).collect();
    let mut at = vec![0; rows.len()];
    loop {
        let choice: Vec<_> = options.iter().zip(&at).map(|(own, &i)| own[i].clone()).collect();
        most = most.max(utility(rows, &choice, worth));
        let Some(next) = (0..at.len()).find(|&i| at[i] + 1 < options[i].len()) else {
            return most;
        };
        at[next] += 1;
        at[..next].fill(0);
    }
}

fn rows() -> impl Strategy<Value = Rows> {
    let p = prop_oneof![Just(0.0f32), Just(1.0), Just(0.5), 0.0f32..1.0];
    let row = proptest::collection::btree_map(0..LABELS as i32, p, 0..=LABELS);
    proptest::collection::vec(row.prop_map(|row| row.into_iter().collect()), 1..5)
}

fn worths() -> impl Strategy<Value = (Together, f64, Vec<f64>, Vec<f64>)> {
    let together = prop_oneof![
        Just(Together::Nothing),
        Just(Together::Precision),
        Just(Together::F),
        Just(Together::Coverage)
    ];
    let linear = prop_oneof![Just(vec![0.0; LABELS]), proptest::collection::vec(0.0..2.0, LABELS)];
    (together, 0.1..3.0, linear, proptest::collection::vec(0.5..4.0, LABELS))
}

proptest! {
    /// No other labels of a single row are better, the utility is that of its formula, and what is
    /// returned of labels is what their rows add up to.
    #[test]
    fn no_single_row_can_be_bettered(rows in rows(), weights in worths(), k in 1usize..4, seed: u64) {
        let (together, scale, linear, offsets) = weights;
        let worth = Worth { together, scale, linear: &linear, offsets: &offsets };
        let found = run(&rows, k, &worth, seed).unwrap();
        let choice = chosen(&rows, &found.gains, k);
        let own = utility(&rows, &choice, &worth);
        prop_assert!((own - found.utility).abs() < 1e-6, "{own} {}", found.utility);
        for row in 0..rows.len() {
            for other in subsets(rows[row].len(), k) {
                let mut changed = choice.clone();
                changed[row] = other;
                prop_assert!(utility(&rows, &changed, &worth) <= own + 1e-6);
            }
        }
        for label in 0..LABELS {
            let given = rows.iter().zip(&choice).flat_map(|(row, own)| own.iter().map(|&at| row[at]));
            let given = given.filter(|entry| entry.0 as usize == label).count();
            prop_assert!((found.given[label] - given as f64).abs() < 1e-9);
        }
        prop_assert_eq!(run(&rows, k, &worth, seed).unwrap(), found);
    }

    /// Where each row counts by itself, every row gets its best labels: the best of all choices.
    #[test]
    fn without_anything_together_the_best_is_found(
        rows in rows(), linear in proptest::collection::vec(0.0..2.0, LABELS), k in 1usize..4,
    ) {
        let worth = Worth { together: Together::Nothing, scale: 0.0, linear: &linear, offsets: &[] };
        let found = run(&rows, k, &worth, 0).unwrap();
        prop_assert!((found.utility - best(&rows, k, &worth)).abs() < 1e-6);
    }

    /// A tiny problem has few local optima: the best of some seeds is the best of all choices, or
    /// close to it.
    #[test]
    fn a_few_seeds_come_close_to_the_best_of_all_choices(
        rows in rows(), weights in worths(), k in 1usize..3,
    ) {
        let (together, scale, linear, offsets) = weights;
        let worth = Worth { together, scale, linear: &linear, offsets: &offsets };
        let found = (0..20).map(|seed| run(&rows, k, &worth, seed).unwrap().utility);
        let found = found.fold(f64::NEG_INFINITY, f64::max);
        let most = best(&rows, k, &worth);
        prop_assert!(found <= most + 1e-6);
        prop_assert!(found >= 0.9 * most - 1e-6, "{found} {most}");
    }

    /// The gain of one more row is the difference of two utilities.
    #[test]
    fn a_fixed_gain_is_what_one_more_row_adds(rows in rows(), weights in worths(), k in 1usize..4) {
        let (together, scale, linear, offsets) = weights;
        let worth = Worth { together, scale, linear: &linear, offsets: &offsets };
        let found = run(&rows, k, &worth, 0).unwrap();
        let choice = chosen(&rows, &found.gains, k);
        let before = utility(&rows, &choice, &worth);
        let more: Vec<(i32, f32)> = (0..LABELS as i32).map(|label| (label, 0.25)).collect();
        let (indptr, indices, data) = arrays(&vec![more.clone()]);
        let view = CsrView::new("p", LABELS, &indptr, &indices, &data).unwrap();
        let gains = gains_given(view, &worth, &found.sums, &found.given).unwrap();
        let mut all = rows.clone();
        all.push(more);
        for (at, gain) in gains.into_iter().enumerate() {
            let mut choice = choice.clone();
            choice.push(vec![at]);
            let after = utility(&all, &choice, &worth);
            prop_assert!((after - before - gain).abs() < 1e-6, "{} {gain}", after - before);
        }
    }
}

#[test]
fn a_label_that_is_sure_elsewhere_is_not_given_twice_for_coverage() {
    let rows: Rows = vec![vec![(0, 0.9), (1, 0.3)], vec![(0, 0.8), (1, 0.2)]];
    let none = [0.0; LABELS];
    let worth = Worth { together: Together::Coverage, scale: 1.0, linear: &none, offsets: &[] };
    let found = run(&rows, 1, &worth, 0).unwrap();
    assert_eq!(chosen(&rows, &found.gains, 1), [vec![1], vec![0]]);
    assert!((found.utility - 1.1).abs() < 1e-6);
}

#[test]
fn a_caller_can_stop_it() {
    let rows: Rows = vec![vec![(0, 0.5)]];
    let (indptr, indices, data) = arrays(&rows);
    let view = CsrView::new("p", LABELS, &indptr, &indices, &data).unwrap();
    let one = [1.0; LABELS];
    let worth = Worth { together: Together::Nothing, scale: 1.0, linear: &one, offsets: &[] };
    assert!(favour(view, 1, &worth, 0, 1, &|| false).is_err());
}

#[test]
fn errors() {
    let message =
        |rows: &Rows, k, worth: &Worth<'_>| run(rows, k, worth, 0).unwrap_err().to_string();
    let rows: Rows = vec![vec![(0, 0.5)]];
    let one = [1.0; LABELS];
    let plain = Worth { together: Together::F, scale: 1.0, linear: &one, offsets: &one };
    assert_eq!(message(&rows, 0, &plain), "k must be at least 1, not 0");
    assert_eq!(
        message(&vec![vec![(0, 1.5)]], 1, &plain),
        "p: row 0: score 1.5 of label 0 is no probability between 0 and 1"
    );
    assert_eq!(
        message(&vec![vec![], vec![(2, 0.5), (2, 0.1)]], 1, &plain),
        "p: row 1: duplicate label 2"
    );
    let scale = Worth { scale: -1.0, ..plain };
    assert_eq!(message(&rows, 1, &scale), "scale must be finite and at least 0, not -1");
    let linear = Worth { linear: &one[..2], ..plain };
    assert_eq!(message(&rows, 1, &linear), "linear: 2 labels, expected 4");
    let linear = Worth { linear: &[0.0, f64::NAN, 0.0, 0.0], ..plain };
    assert_eq!(
        message(&rows, 1, &linear),
        "linear must be finite and at least 0, not NaN (label 1)"
    );
    let offsets = Worth { offsets: &[1.0, 1.0, 0.0, 1.0], ..plain };
    assert_eq!(message(&rows, 1, &offsets), "offsets must be finite and above 0, not 0 (label 2)");
    let (indptr, indices, data) = arrays(&rows);
    let view = CsrView::new("p", LABELS, &indptr, &indices, &data).unwrap();
    let given = |given: &[f64]| gains_given(view, &plain, &one, given).unwrap_err().to_string();
    assert_eq!(
        given(&[1.0, -1.0, 0.0, 0.0]),
        "given must be finite and at least 0, not -1 (label 1)"
    );
    assert_eq!(given(&[]), "given: 0 labels, expected 4");
}
