//! Resampling against exact enumeration and slow twins that use known draws.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use xmc_core::rayon::ThreadPoolBuilder;
use xmc_core::{Resampler, Terms, p_value};

const KEEP_GOING: &(dyn Fn() -> bool + Sync) = &|| true;

fn mean(numerators: &[f64]) -> Terms<'_> {
    Terms { name: "P@1", numerators, denominators: None }
}

fn ratio<'a>(numerators: &'a [f64], denominators: &'a [f64]) -> Terms<'a> {
    Terms { name: "PSP@1", numerators, denominators: Some(denominators) }
}

/// One column for each of `n` units, 1 in its own row: the bootstrap shows what was drawn.
fn one_hot(n: usize) -> Vec<Vec<f64>> {
    (0..n).map(|unit| (0..n).map(|row| f64::from(u8::from(row == unit))).collect()).collect()
}

/// How often each unit was drawn in each of the resamples `0..n_resamples`.
fn draws(n: usize, seed: u64, n_resamples: u64) -> Vec<Vec<f64>> {
    let columns = one_hot(n);
    let terms: Vec<_> = columns.iter().map(|column| mean(column)).collect();
    let resampler = Resampler::new(&terms, &[], None).unwrap();
    let shares = resampler.bootstrap(seed, 0..n_resamples, KEEP_GOING).unwrap();
    let at = |unit: usize, i: usize| (shares[unit * n_resamples as usize + i] * n as f64).round();
    (0..n_resamples as usize).map(|i| (0..n).map(|unit| at(unit, i)).collect()).collect()
}

#[test]
fn three_units_are_drawn_as_all_27_sequences() {
    let mut met = std::collections::BTreeMap::new();
    for counts in draws(3, 1, 27_000) {
        let counts: Vec<i64> = counts.iter().map(|&count| count as i64).collect();
        assert_eq!(counts.iter().sum::<i64>(), 3);
        *met.entry(counts).or_insert(0i64) += 1;
    }
    // 3! / (product of the counts' factorials) sequences of 27 give the same counts.
    assert_eq!(met.len(), 10);
    for (counts, times) in met {
        let ways = 6 / counts.iter().map(|&c| (1..=c).product::<i64>()).product::<i64>();
        assert!((times - 1000 * ways).abs() < 400, "{counts:?}: {times}");
    }
}

#[test]
fn sign_flips_are_even_over_all_patterns() {
    // Powers of two: the sum tells the signs.
    let (a, b) = ([0.0; 4], [1.0, 2.0, 4.0, 8.0]);
    let resampler = Resampler::new(&[mean(&a)], &[mean(&b)], None).unwrap();
    let flips = resampler.sign_flips(5, 0..16_000, KEEP_GOING).unwrap();
    let mut met = std::collections::BTreeMap::new();
    for flip in &flips {
        *met.entry((flip * 4.0).round() as i64).or_insert(0i64) += 1;
    }
    assert_eq!(met.keys().copied().collect::<Vec<_>>(), (-15..=15).step_by(2).collect::<Vec<_>>());
    assert!(met.values().all(|times| (times - 1000).abs() < 170), "{met:?}");
    let difference = resampler.differences()[0];
    // Of the 16 patterns, two are as far from 0 as the sample.
    let p = p_value(difference.value, difference.tolerance, &flips);
    assert!((p - 0.125).abs() < 0.02, "{p}");
}

#[test]
fn differences_that_are_equal_but_for_rounding_count() {
    // Sums of 0.1 and 0.3 in another order differ in their last bits.
    let b: Vec<f64> = (0..50).map(|row| [0.1, 0.2, 0.3][row % 3]).collect();
    let a = vec![0.0; 50];
    let resampler = Resampler::new(&[mean(&a), mean(&b)], &[mean(&b), mean(&b)], None).unwrap();
    let [first, second] = resampler.differences() else { panic!() };
    assert!(first.tolerance > 0.0 && first.tolerance < 1e-12);
    let flips = resampler.sign_flips(0, 0..100, KEEP_GOING).unwrap();
    assert!((p_value(first.value, first.tolerance, &flips[..100]) - 1.0 / 101.0).abs() < 1e-12);
    assert!((p_value(second.value, second.tolerance, &flips[100..]) - 1.0).abs() < 1e-12);
}

#[test]
fn nothing_to_draw_and_nothing_to_divide_by() {
    let resampler = Resampler::new(&[mean(&[0.5; 3])], &[], None).unwrap();
    assert_eq!(resampler.bootstrap(0, 0..4, KEEP_GOING).unwrap(), [0.5; 4]);
    assert!(resampler.sign_flips(0, 0..4, KEEP_GOING).unwrap().is_empty());
    let skipped = [f64::NAN, 1.0];
    let resampler = Resampler::new(&[mean(&skipped)], &[], None).unwrap();
    let values = resampler.bootstrap(0, 0..100, KEEP_GOING).unwrap();
    assert!(values.iter().any(|value| value.is_nan()));
    assert!(values.iter().all(|value| value.is_nan() || (value - 1.0).abs() < 1e-12));
}

#[test]
fn a_long_run_can_be_stopped() {
    let (a, b) = (vec![0.0; 5000], vec![1.0; 5000]);
    let column: Vec<f64> = (0..5000).map(f64::from).collect();
    let resampler =
        Resampler::new(&[mean(&a), mean(&column)], &[mean(&b), mean(&b)], None).unwrap();
    let stop: &(dyn Fn() -> bool + Sync) = &|| false;
    assert!(resampler.bootstrap(0, 0..9, stop).is_err());
    assert_eq!(resampler.sign_flips(0, 0..9, stop).unwrap_err().to_string(), "interrupted");
}

#[test]
fn faults_are_named() {
    let fault = |first: &[Terms<'_>], second: &[Terms<'_>], clusters: Option<&[u32]>| {
        Resampler::new(first, second, clusters).unwrap_err().to_string()
    };
    let (two, three) = ([1.0, 2.0], [1.0, 2.0, 3.0]);
    assert_eq!(fault(&[], &[], None), "terms must hold at least one metric and one row, not none");
    assert_eq!(fault(&[mean(&two), mean(&three)], &[], None), "P@1: 3 terms, expected 2");
    assert_eq!(fault(&[ratio(&two, &three)], &[], None), "PSP@1: 3 terms, expected 2");
    assert_eq!(fault(&[mean(&two)], &[mean(&two); 2], None), "second: 2 metrics, expected 1");
    assert_eq!(
        fault(&[ratio(&two, &[1.0, 2.0])], &[ratio(&two, &[1.0, 3.0])], None),
        "PSP@1: row 1: denominators 2 and 3 differ: not scored against the same truth"
    );
    let infinite = [0.0, f64::INFINITY];
    assert_eq!(fault(&[mean(&infinite)], &[], None), "P@1: row 1: term inf is not finite");
    assert_eq!(fault(&[mean(&two)], &[], Some(&[0])), "clusters: 1 clusters, expected 2");
    for clusters in [[0, 2], [1, 1]] {
        let message = fault(&[mean(&two)], &[], Some(&clusters));
        assert!(message.starts_with("clusters must be numbered from 0 without gaps"), "{message}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn equals_the_twin_with_the_same_draws(
        n in 1usize..9,
        seed: u64,
        rows in prop::collection::vec((0.0..1.0f64, 0.0..1.0f64, 0.0..2.0f64, any::<bool>()), 8 * 3),
        clustered: bool,
    ) {
        // With clusters, rows `i`, `i + n`, `i + 2 n` belong together.
        let n_rows = if clustered { 3 * n } else { n };
        let column = |f: fn(&(f64, f64, f64, bool)) -> f64| -> Vec<f64> {
            rows[..n_rows].iter().map(f).collect()
        };
        let (a, b, denominators) = (column(|r| r.0), column(|r| r.1), column(|r| r.2));
        let skipped = column(|r| if r.3 { f64::NAN } else { r.0 });
        let ids: Vec<u32> = (0..n_rows).map(|row| (row % n) as u32).collect();
        let first = [mean(&a), ratio(&a, &denominators), mean(&skipped)];
        let second = [mean(&b), ratio(&b, &denominators), mean(&skipped)];
        let resampler =
            Resampler::new(&first, &second, clustered.then_some(&ids[..])).unwrap();
        prop_assert_eq!(resampler.n_units(), n);
        let n_resamples = 300;
        let values = resampler.bootstrap(seed, 0..n_resamples, KEEP_GOING).unwrap();
        let draws = if n == 1 { vec![vec![1.0]; 300] } else { draws(n, seed, n_resamples) };
        for (metric, terms) in first.iter().chain(&second).enumerate() {
            for (i, counts) in draws.iter().enumerate() {
                let (mut numerator, mut denominator) = (0.0, 0.0);
                for row in (0..n_rows).filter(|&row| !terms.numerators[row].is_nan()) {
                    numerator += counts[row % n] * terms.numerators[row];
                    denominator += counts[row % n] * terms.denominators.map_or(1.0, |d| d[row]);
                }
                let (found, expected) = (values[metric * 300 + i], numerator / denominator);
                prop_assert!(
                    (found - expected).abs() < 1e-12 || (found.is_nan() && expected.is_nan()),
                    "metric {} resample {}: {} {}", metric, i, found, expected
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn bits_depend_on_neither_threads_nor_cuts(n in 1usize..3000, seed: u64) {
        let a: Vec<f64> = (0..n).map(|row| (row as f64).sin()).collect();
        let b: Vec<f64> = (0..n).map(|row| (row as f64).cos()).collect();
        let run = |threads: usize, cuts: &[u64]| {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let resampler = Resampler::new(&[mean(&a)], &[mean(&b)], None).unwrap();
                let mut values = [Vec::new(), Vec::new(), Vec::new()];
                for cut in cuts.windows(2) {
                    let range = cut[0]..cut[1];
                    let width = (cut[1] - cut[0]) as usize;
                    let drawn = resampler.bootstrap(seed, range.clone(), KEEP_GOING).unwrap();
                    values[0].extend_from_slice(&drawn[..width]);
                    values[1].extend_from_slice(&drawn[width..]);
                    values[2].extend(resampler.sign_flips(seed, range, KEEP_GOING).unwrap());
                }
                values.map(|values| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>())
            })
        };
        let expected = run(1, &[0, 270]);
        prop_assert_eq!(&run(2, &[0, 270]), &expected);
        prop_assert_eq!(&run(7, &[0, 3, 100, 270]), &expected);
    }
}
