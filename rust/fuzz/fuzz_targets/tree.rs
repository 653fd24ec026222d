//! A label tree from arrays of any content: an error, or answers that agree with each other.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use twins::Sparse;
use xmc_core::{CsrView, LabelTree, TREE_FLOOR, rank_tree, reach_tree, score_tree};

#[derive(Arbitrary, Debug)]
struct Input {
    n_labels: u8,
    n_trees: u8,
    n_features: u8,
    /// Make lengths fit, for a tree of this depth over these labels.
    fitting: Option<(u8, u8)>,
    labels: Vec<i8>,
    bias: Vec<f32>,
    weights: Sparse,
    queries: Sparse,
    ids: Vec<i8>,
    k: u8,
    beam: u8,
}

fuzz_target!(|input: Input| {
    twins::on_this_thread();
    let n_labels = usize::from(input.n_labels);
    let n_trees = usize::from(input.n_trees % 4);
    let n_features = usize::from(input.n_features) + 1;
    let mut labels: Vec<i32> = input.labels.iter().copied().map(i32::from).collect();
    let mut bias = input.bias.clone();
    if let Some((depth, known)) = input.fitting {
        let known = usize::from(known).clamp(1, n_labels.max(1));
        let depth = u32::from(depth % 6).min(known.ilog2());
        let n_rows = (2usize << depth) - 2 + known;
        bias.retain(|b| b.is_finite());
        bias.resize(n_trees * n_rows, 0.5);
        labels.clear();
        for tree in 0..n_trees {
            let turned = (0..known).map(|label| ((label + tree) % known) as i32);
            labels.extend(turned);
        }
    }
    let weights = input.weights.arrays(bias.len(), n_features);
    let queries = input.queries.arrays(input.queries.rows.len(), n_features);
    let weights = CsrView::of_features("weights", n_features, &weights.0, &weights.1, &weights.2);
    let x = CsrView::of_features("x", n_features, &queries.0, &queries.1, &queries.2);
    let (Ok(weights), Ok(x)) = (weights, x) else { return };
    let Ok(tree) = LabelTree::new(n_labels, n_trees, &labels, &bias, weights) else {
        assert!(input.fitting.is_none() || n_labels == 0 || n_trees == 0 || !input.weights.tidy);
        return;
    };
    let (k, beam) = (usize::from(input.k % 20), usize::from(input.beam));
    let Ok(reached) = reach_tree(&tree, x, beam) else {
        assert!(rank_tree(&tree, x, k.max(1), beam, None).is_err());
        return;
    };
    let reached_view = reached.view("reached").expect("valid");
    let Ok(ranked) = rank_tree(&tree, x, k, beam, None) else {
        assert_eq!(k, 0);
        return;
    };
    let mut ids: Vec<i32> = input.ids.iter().copied().map(i32::from).collect();
    let width = ids.len().checked_div(x.n_rows()).unwrap_or(0);
    ids.truncate(width * x.n_rows());
    let scores = score_tree(&tree, x, &ids, beam);
    let right = ids.iter().all(|&id| id >= -1 && id < n_labels as i32);
    assert!(scores.is_ok() || !right);
    for row in 0..x.n_rows() {
        let (found, values) = reached_view.row(row);
        assert!(values.iter().all(|v| (TREE_FLOOR..=0.0).contains(v)));
        let mut expected: Vec<_> = found.iter().copied().zip(values.iter().copied()).collect();
        expected.sort_by(twins::by_rank);
        expected.resize(expected.len().max(k), (-1, f32::NEG_INFINITY));
        expected.truncate(k);
        let cells = row * k..(row + 1) * k;
        let given = ranked.ids[cells.clone()].iter().copied();
        let given: Vec<_> = given.zip(ranked.scores[cells].iter().copied()).collect();
        assert_eq!(given, expected);
        for at in (row * width..(row + 1) * width).take(if scores.is_ok() { width } else { 0 }) {
            let score = scores.as_ref().expect("seen above")[at];
            match found.iter().position(|&label| label == ids[at]) {
                Some(place) => assert_eq!(score, values[place]),
                None => assert!(score == f32::NEG_INFINITY || score == TREE_FLOOR),
            }
        }
    }
});
