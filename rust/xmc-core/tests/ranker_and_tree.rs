//! Ranker and label tree on arrays from anywhere: an error or finite scores, and never a panic.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use xmc_core::{
    Candidates, CsrPattern, CsrView, LabelTree, RankerOptions, RankerView, TREE_FLOOR, TreeArrays,
    TreeOptions, fit_ranker, fit_tree, rank_tree, score_ranker, score_tree,
};

const N_LABELS: usize = 9;
const N_FEATURES: usize = 12;

/// Any value of `f32`, often an ordinary one.
fn value() -> impl Strategy<Value = f32> {
    prop_oneof![4 => -2f32..2.0, 1 => any::<f32>()]
}

/// Rows of a matrix: row pointers, columns and values.
fn matrix(n_rows: usize) -> impl Strategy<Value = (Vec<i64>, Vec<i32>, Vec<f32>)> {
    // Ascending, but for one matrix in ten.
    let cell = (0..N_FEATURES as i32, value());
    let rows = prop::collection::vec(prop::collection::vec(cell, 0..6), n_rows);
    (rows, 0..10).prop_map(|(mut rows, odd)| {
        for row in rows.iter_mut().filter(|_| odd > 0) {
            row.sort_by_key(|cell| cell.0);
            row.dedup_by_key(|cell| cell.0);
        }
        let mut indptr = vec![0];
        indptr.extend(rows.iter().scan(0, |end, row| {
            *end += row.len() as i64;
            Some(*end)
        }));
        let (indices, data) = rows.into_iter().flatten().unzip();
        (indptr, indices, data)
    })
}

/// A tree over labels 0..8; label 8 has no point.
fn tree(seed: u64) -> TreeArrays {
    let indptr: Vec<i64> = (0..=40).map(|i| i * 2).collect();
    let mut indices: Vec<i32> = (0..80).map(|i| (i * 7 + i / 12) % N_FEATURES as i32).collect();
    indices.chunks_mut(2).for_each(<[i32]>::sort_unstable);
    let data: Vec<f32> = (0..80).map(|i| 1.0 + (i % 3) as f32).collect();
    let x = CsrView::of_features("x", N_FEATURES, &indptr, &indices, &data).unwrap();
    let (ends, labels): (Vec<i64>, Vec<i32>) = (0..=40).map(|i| (i, i as i32 % 8)).unzip();
    let y = CsrPattern::new("y", N_LABELS, &ends, &labels[..40]).unwrap();
    let options = TreeOptions { n_trees: 2, max_leaf: 2, seed, ..TreeOptions::default() };
    fit_tree(x, y, &options, &|| true).unwrap()
}

#[derive(Debug, Clone)]
enum Damage {
    Label(usize, i32),
    Bias(usize, f32),
    Pointer(usize, i64),
    Column(usize, i32),
    Weight(usize, f32),
    Cut(usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = 0usize..200;
    prop_oneof![
        (at.clone(), -2..12).prop_map(|(at, label)| Damage::Label(at, label)),
        (at.clone(), value()).prop_map(|(at, bias)| Damage::Bias(at, bias)),
        (at.clone(), -3i64..90).prop_map(|(at, pointer)| Damage::Pointer(at, pointer)),
        (at.clone(), -2..14).prop_map(|(at, column)| Damage::Column(at, column)),
        (at.clone(), value()).prop_map(|(at, weight)| Damage::Weight(at, weight)),
        at.prop_map(Damage::Cut),
    ]
}

fn put<T>(vector: &mut [T], at: usize, value: T) {
    let n = vector.len();
    if let Some(slot) = vector.get_mut(at % n.max(1)) {
        *slot = value;
    }
}

#[test]
fn a_tree_gives_its_arrays_back() {
    for seed in 0..5 {
        let TreeArrays { n_trees, labels, bias, weights } = tree(seed);
        let view = weights.view("weights").unwrap();
        let made = LabelTree::new(N_LABELS, n_trees, &labels, &bias, view).unwrap();
        assert_eq!((made.n_trees(), made.labels(), made.bias()), (n_trees, &labels[..], &bias[..]));
        assert_eq!(made.weights().unwrap(), weights);
    }
}

proptest! {
    #[test]
    fn a_damaged_tree_is_refused_or_scores(
        harm in prop::collection::vec(damage(), 0..3),
        (indptr, indices, data) in matrix(5),
        ids in prop::collection::vec(-1..N_LABELS as i32, 10),
        (n_trees, k, beam) in (0usize..4, 0usize..12, 0usize..5),
    ) {
        let TreeArrays { mut labels, mut bias, mut weights, .. } = tree(0);
        let n_trees = if n_trees == 3 { 2 } else { n_trees };
        for harm in harm {
            match harm {
                Damage::Label(at, label) => put(&mut labels, at, label),
                Damage::Bias(at, value) => put(&mut bias, at, value),
                Damage::Pointer(at, pointer) => put(&mut weights.indptr, at, pointer),
                Damage::Column(at, column) => put(&mut weights.indices, at, column),
                Damage::Weight(at, weight) => put(&mut weights.data, at, weight),
                Damage::Cut(at) => labels.truncate(at),
            }
        }
        let (rows, columns, values) = (&weights.indptr, &weights.indices, &weights.data);
        let weights = CsrView::of_features("weights", N_FEATURES, rows, columns, values);
        let tree = weights.and_then(|w| LabelTree::new(N_LABELS, n_trees, &labels, &bias, w));
        let x = CsrView::of_features("x", N_FEATURES, &indptr, &indices, &data).unwrap();
        let Ok(tree) = tree else { return Ok(()) };
        let good = |score: &f32| (TREE_FLOOR..=0.0).contains(score) || *score == f32::NEG_INFINITY;
        if let Ok(top) = rank_tree(&tree, x, k, beam, None) {
            prop_assert!(top.scores.iter().all(good));
        }
        if let Ok(scores) = score_tree(&tree, x, &ids, beam) {
            prop_assert!(scores.iter().all(good));
        }
    }

    #[test]
    fn a_tree_of_any_points_is_an_error_or_can_be_searched(
        (indptr, indices, data) in matrix(12),
        labels in prop::collection::vec(prop::collection::vec(0..N_LABELS as i32, 0..4), 12),
        (max_leaf, seed, cost) in (0usize..6, 0u64..3, 0.01f64..1e4),
    ) {
        let x = CsrView::of_features("x", N_FEATURES, &indptr, &indices, &data).unwrap();
        let mut ends = vec![0];
        ends.extend(labels.iter().scan(0, |end, row| {
            *end += row.len() as i64;
            Some(*end)
        }));
        let labels = labels.concat();
        let y = CsrPattern::new("y", N_LABELS, &ends, &labels).unwrap();
        let options = TreeOptions { max_leaf, seed, cost, ..TreeOptions::default() };
        let Ok(arrays) = fit_tree(x, y, &options, &|| true) else { return Ok(()) };
        let weights = arrays.weights.view("weights").unwrap();
        let tree = LabelTree::new(N_LABELS, 3, &arrays.labels, &arrays.bias, weights).unwrap();
        rank_tree(&tree, x, 3, 2, None).unwrap();
        prop_assert!(fit_tree(x, y, &options, &|| false).is_err());
    }

    #[test]
    fn a_ranker_of_any_candidates_is_an_error_or_scores(
        features in prop::collection::vec(value(), 36),
        sizes in prop::collection::vec(0i64..6, 1..6),
        positive in prop::collection::vec(any::<bool>(), 12),
        weights in prop::collection::vec(value(), 12),
        queries in prop::option::of(prop::collection::vec(-1i64..8, 0..6)),
        (hidden, weighted) in (0usize..10, any::<bool>()),
    ) {
        let mut indptr = vec![0];
        indptr.extend(sizes.iter().scan(0, |end, size| {
            *end += size;
            Some((*end).min(12))
        }));
        indptr.push(12);
        let weights = weighted.then_some(&weights[..]);
        let queries = queries.as_deref();
        let (features, positive, indptr) = (&features[..], &positive[..], &indptr[..]);
        let candidates = Candidates { features, n_features: 3, indptr, positive, weights, queries };
        let options = RankerOptions { hidden, epochs: 2, n_members: 2, ..RankerOptions::default() };
        let Ok(ranker) = fit_ranker(&candidates, &options, &|| true) else { return Ok(()) };
        let scores = score_ranker(&ranker.view().unwrap(), features).unwrap();
        prop_assert!(scores.iter().all(|score| score.is_finite()));
        prop_assert!(fit_ranker(&candidates, &options, &|| false).is_err());
    }

    #[test]
    fn arrays_of_a_ranker_are_checked(
        lengths in prop::collection::vec(0usize..7, 6),
        (n_members, hidden) in (0usize..3, 0usize..3),
        values in prop::collection::vec(value(), 7),
    ) {
        let part = |i: usize| &values[..lengths[i]];
        let ranker =
            RankerView::new(n_members, hidden, [part(0), part(1)], [part(2), part(3), part(4), part(5)]);
        if let Ok(ranker) = ranker {
            let scores = score_ranker(&ranker, &vec![0.5; 3 * ranker.n_features()]).unwrap();
            prop_assert!(scores.iter().all(|score| !score.is_nan()));
        }
    }
}
