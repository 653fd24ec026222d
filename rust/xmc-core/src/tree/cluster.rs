//! The order of labels in a tree: halved again and again by 2-means.

use super::TreeOptions;
use super::local::Local;
use super::model::Shape;
use crate::csr::Csr;
use crate::error::Result;
use crate::memory::{collected, filled, zeroed};
use crate::rank::Score;
use crate::rng::Rng;

/// Stream of random numbers.
const CLUSTER: u64 = 0;

/// The labels (rows of `vectors`) of a tree in the order of its leaves, ascending within each.
pub(super) fn order(
    vectors: &Csr,
    shape: Shape,
    options: &TreeOptions,
    tree: u64,
    ask: &(impl Fn() -> Result<()> + Sync),
) -> Result<Vec<u32>> {
    let mut order = collected(0..shape.n_labels as u32)?;
    let halve = |labels: &mut [u32], node| {
        ask()?;
        halve(
            vectors,
            labels,
            options.max_rounds,
            &mut Rng::new(options.seed, &[CLUSTER, tree, node]),
        )
    };
    split(&mut order, shape.depth, 0, &halve)?;
    Ok(order)
}

/// Orders the labels of node `node`, which has `depth` levels below it.
fn split(
    labels: &mut [u32],
    depth: u32,
    node: u64,
    halve: &(impl Fn(&mut [u32], u64) -> Result<()> + Sync),
) -> Result<()> {
    if depth == 0 {
        return Ok(());
    }
    halve(labels, node)?;
    let (left, right) = labels.split_at_mut(Shape::left(labels.len()));
    let (left, right) = rayon::join(
        || split(left, depth - 1, 2 * node + 1, halve),
        || split(right, depth - 1, 2 * node + 2, halve),
    );
    left.and(right)
}

/// Moves the labels of the first half to the front; each half stays ascending.
fn halve(vectors: &Csr, labels: &mut [u32], max_rounds: usize, rng: &mut Rng) -> Result<()> {
    let n = labels.len();
    let span = |label: u32| {
        vectors.indptr[label as usize] as usize..vectors.indptr[label as usize + 1] as usize
    };
    let row = |label: u32| {
        let (features, values) = (&vectors.indices[span(label)], &vectors.data[span(label)]);
        features.iter().copied().zip(values.iter().copied())
    };
    let n_cells = labels.iter().map(|&label| span(label).len()).sum();
    let rows = Local::new(vectors.n_cols, n_cells, labels.iter().map(|&label| row(label)))?;

    let first = rng.below(n as u32) as usize;
    let second = (first + 1 + rng.below(n as u32 - 1) as usize) % n;
    // First centre less second.
    let mut difference = zeroed::<f64>(rows.n_features())?;
    rows.add(first, 1.0, &mut difference);
    rows.add(second, -1.0, &mut difference);
    let mut other = zeroed::<f64>(rows.n_features())?;
    let mut goes_left = filled(n, false)?;
    let mut keys = filled(n, 0u128)?;
    let mut sorted = filled(n, 0u128)?;
    for _ in 0..max_rounds {
        for (i, key) in keys.iter_mut().enumerate() {
            *key = rows.dot(i, &difference).key(i as i32);
        }
        sorted.copy_from_slice(&keys);
        let (_, &mut last_left, _) = sorted.select_nth_unstable(Shape::left(n) - 1);
        let mut moved = false;
        for (left, &key) in goes_left.iter_mut().zip(&keys) {
            moved |= *left != (key <= last_left);
            *left = key <= last_left;
        }
        if !moved {
            break;
        }
        difference.fill(0.0);
        other.fill(0.0);
        for (i, &left) in goes_left.iter().enumerate() {
            rows.add(i, 1.0, if left { &mut difference } else { &mut other });
        }
        let scale = |sum: &[f64]| {
            let norm = sum.iter().map(|x| x * x).sum::<f64>().sqrt();
            if norm > 0.0 { 1.0 / norm } else { 0.0 }
        };
        let (left, right) = (scale(&difference), scale(&other));
        for (a, b) in difference.iter_mut().zip(&other) {
            *a = *a * left - b * right;
        }
    }
    let mut halves = collected(labels.iter().copied())?;
    halves.clear();
    for side in [true, false] {
        let chosen = labels.iter().zip(&goes_left).filter(|&(_, left)| *left == side);
        halves.extend(chosen.map(|(&label, _)| label));
    }
    labels.copy_from_slice(&halves);
    Ok(())
}
