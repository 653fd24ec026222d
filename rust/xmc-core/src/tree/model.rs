//! A trained label tree as plain arrays, and made ready for searching.

use std::ops::Range;

use rayon::prelude::*;

use super::points::Points;
use super::train::Rows;
use super::{check_length, parameter};
use crate::csr::{Csr, CsrView};
use crate::error::{Error, Fault, Result};
use crate::memory::{collected, filled, with_room, zeroed};

/// The form of a tree: all leaves are at one depth, and halves differ by at most one label.
///
/// Nodes are numbered level by level from the root, 0, so that the children of node i are 2i + 1 and
/// 2i + 2. Classifiers: those of nodes 1, 2, ... and then those of the labels in the order of leaves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Shape {
    pub n_labels: usize,
    pub depth: u32,
}

impl Shape {
    /// The smallest depth that leaves at most `max_leaf` labels, of which there is one at least.
    pub fn of(n_labels: usize, max_leaf: usize) -> Self {
        let mut depth = 0;
        while n_labels.div_ceil(1 << depth) > max_leaf {
            depth += 1;
        }
        Self { n_labels, depth }
    }

    /// The shape in which `n_labels` labels have `n_rows` classifiers, if there is one.
    fn with_rows(n_labels: usize, n_rows: usize) -> Option<Self> {
        let twice = n_rows.checked_sub(n_labels)?.checked_add(2)?;
        let depth = twice.ilog2() - 1;
        (twice.is_power_of_two() && twice / 2 <= n_labels.max(1))
            .then_some(Self { n_labels, depth })
    }

    /// How many of `n` labels go to the first child.
    pub fn left(n: usize) -> usize {
        n.div_ceil(2)
    }

    pub fn n_nodes(self) -> usize {
        (2 << self.depth) - 1
    }

    /// Number of classifiers.
    pub fn n_rows(self) -> usize {
        self.n_nodes() - 1 + self.n_labels
    }

    pub fn is_leaf(self, node: usize) -> bool {
        node + 1 >= 1 << self.depth
    }

    /// The classifiers of a node: of its two children, or of its labels.
    fn classifiers(self, node: usize) -> Range<usize> {
        if self.is_leaf(node) {
            let Range { start, end } = self.labels_below(node);
            self.n_nodes() - 1 + start..self.n_nodes() - 1 + end
        } else {
            2 * node..2 * node + 2
        }
    }

    /// The places of a node's labels in the order of leaves.
    pub fn labels_below(self, node: usize) -> Range<usize> {
        let level = (node + 1).ilog2();
        let (mut start, mut len) = (0, self.n_labels);
        // The bits of node + 1 behind the first say where to turn on the way down.
        for bit in (0..level).rev() {
            let left = Self::left(len);
            if (node + 1) >> bit & 1 == 0 {
                len = left;
            } else {
                start += left;
                len -= left;
            }
        }
        start..start + len
    }
}

/// A trained label tree, as arrays that the caller saves.
#[derive(Debug, Clone, PartialEq)]
pub struct TreeArrays {
    /// Number of trees.
    pub n_trees: usize,
    /// The labels of the tree in the order of its leaves, (`n_trees`, labels in the tree).
    pub labels: Vec<i32>,
    /// Bias of each classifier, (`n_trees`, classifiers): first those of the nodes below the root, level
    /// by level, then those of the labels in the order of leaves.
    pub bias: Vec<f32>,
    /// Weights of the classifiers in the same order, one row each.
    pub weights: Csr,
}

impl TreeArrays {
    /// Puts the classifiers of all nodes, tree after tree, in order.
    pub(super) fn new(
        points: &Points<'_>,
        shape: Shape,
        orders: &[Vec<u32>],
        nodes: Vec<Rows>,
    ) -> Result<Self> {
        let n_trees = orders.len();
        let mut labels = with_room(n_trees.saturating_mul(shape.n_labels))?;
        for order in orders {
            labels.extend(order.iter().map(|&place| points.labels()[place as usize]));
        }
        let n_rows = n_trees.saturating_mul(shape.n_rows());
        let n_cells = nodes.iter().map(|rows| rows.indices.len()).sum();
        let mut bias = with_room(n_rows)?;
        let mut weights = Csr {
            n_cols: points.n_features(),
            indptr: with_room(n_rows + 1)?,
            indices: with_room(n_cells)?,
            data: with_room(n_cells)?,
        };
        weights.indptr.push(0);
        // Nodes come level by level, so that the children's classifiers are already in order; the
        // leaves' come last, as they should.
        let mut end = 0;
        for rows in nodes {
            for length in rows.lengths {
                end += length as i64;
                weights.indptr.push(end);
            }
            bias.extend(rows.bias);
            weights.indices.extend(rows.indices);
            weights.data.extend(rows.data);
        }
        Ok(Self { n_trees, labels, bias, weights })
    }
}

/// A label tree that can be searched.
#[derive(Debug)]
pub struct LabelTree {
    pub(super) shape: Shape,
    pub(super) n_trees: usize,
    pub(super) n_labels: usize,
    pub(super) n_features: usize,
    /// As in [`TreeArrays`].
    pub(super) labels: Vec<i32>,
    /// The classifiers of each node, tree after tree.
    pub(super) nodes: Vec<Classifiers>,
    /// Whether each label is in the tree.
    pub(super) known: Vec<bool>,
}

impl LabelTree {
    /// Checks the arrays, laid out as in [`TreeArrays`] and from wherever they come, of a tree over
    /// labels in `0..n_labels`, and copies them.
    ///
    /// # Errors
    /// [`Error::Length`] if they do not fit together; [`Error::Content`] for a label out of range, one that
    /// stands twice in a tree or not in all of them, and for a weight that is not finite;
    /// [`Error::Parameter`] without trees or labels, for numbers of classifiers that make no tree, and
    /// for a bias that is not finite; [`Error::OutOfMemory`].
    pub fn new(
        n_labels: usize,
        n_trees: usize,
        labels: &[i32],
        bias: &[f32],
        weights: CsrView<'_>,
    ) -> Result<Self> {
        for (name, value) in [("n_trees", n_trees), ("labels", labels.len())] {
            if value == 0 {
                return Err(parameter(name, "must be at least 1", 0));
            }
        }
        if n_labels > i32::MAX as usize {
            return Err(parameter("n_labels", "must be below 2^31", n_labels));
        }
        let n_known = labels.len() / n_trees;
        check_length("labels", "labels", n_known.saturating_mul(n_trees), labels.len())?;
        check_length("bias", "classifiers", weights.n_rows(), bias.len())?;
        let per_tree = bias.len() / n_trees;
        let shape =
            Shape::with_rows(n_known, per_tree).filter(|_| per_tree * n_trees == bias.len());
        let Some(shape) = shape else {
            let rule = "must fit the number of trees and labels";
            return Err(parameter("classifiers", rule, bias.len()));
        };
        let known = known(n_labels, n_known, labels)?;
        let (_, _, _, values) = weights.window();
        if !(values.iter().all(|w| w.is_finite()) && bias.iter().all(|b| b.is_finite())) {
            return Err(first_not_finite(bias, weights));
        }
        let nodes: Vec<Result<Classifiers>> = (0..n_trees * shape.n_nodes())
            .into_par_iter()
            .map(|at| {
                let base = at / shape.n_nodes() * shape.n_rows();
                let rows = shape.classifiers(at % shape.n_nodes());
                Classifiers::new(weights, bias, base + rows.start..base + rows.end)
            })
            .collect();
        let nodes = nodes.into_iter().collect::<Result<_>>()?;
        let n_features = weights.n_cols();
        let labels = collected(labels.iter().copied())?;
        Ok(Self { shape, n_trees, n_labels, n_features, labels, nodes, known })
    }

    /// Number of features.
    #[must_use]
    pub const fn n_features(&self) -> usize {
        self.n_features
    }

    /// Number of labels, with those that are not in the tree.
    #[must_use]
    pub const fn n_labels(&self) -> usize {
        self.n_labels
    }
}

/// Which labels are in the tree; an error unless every tree has the same ones, each once.
fn known(n_labels: usize, n_known: usize, labels: &[i32]) -> Result<Vec<bool>> {
    let mut known = filled(n_labels, false)?;
    let mut n_trees = zeroed::<usize>(n_labels)?;
    for (tree, order) in labels.chunks_exact(n_known).enumerate() {
        for &label in order {
            let fault = |fault| Error::at_row("labels", tree, fault);
            let Some(count) = n_trees.get_mut(label as u32 as usize) else {
                let label = label.to_string();
                return Err(fault(Fault::LabelOutOfRange { label, n_labels }));
            };
            // A tree that lacks a label of the others has another one twice, or a new one.
            if *count != tree {
                return Err(fault(Fault::DuplicateLabel { label }));
            }
            *count += 1;
            known[label as usize] = true;
        }
    }
    Ok(known)
}

/// The classifiers of a node, by feature: a query has few features, of which a node knows some.
#[derive(Debug)]
pub(super) struct Classifiers {
    bias: Vec<f32>,
    /// Features that have a weight, ascending.
    features: Vec<i32>,
    /// `features[buckets[b]..buckets[b + 1]]` are those with `feature >> shift == b`: about as many
    /// buckets as features, so that a look-up reads two places of memory instead of a dozen.
    buckets: Vec<usize>,
    shift: u32,
    /// The weights of `features[i]` are `cells[starts[i]..starts[i + 1]]`: (classifier, weight).
    starts: Vec<usize>,
    cells: Vec<(u32, f32)>,
}

impl Classifiers {
    fn new(weights: CsrView<'_>, bias: &[f32], rows: Range<usize>) -> Result<Self> {
        let mut all = with_room(rows.clone().map(|row| weights.row(row).0.len()).sum())?;
        for (number, row) in rows.clone().enumerate() {
            let (features, values) = weights.row(row);
            let cells = features.iter().zip(values);
            all.extend(cells.map(|(&feature, &weight)| (feature, number as u32, weight)));
        }
        all.sort_by_key(|&(feature, _, _)| feature);
        let n_features = all.chunk_by(|a, b| a.0 == b.0).count();
        let (mut features, mut starts) = (with_room(n_features)?, with_room(n_features + 1)?);
        starts.push(0);
        for group in all.chunk_by(|a, b| a.0 == b.0) {
            features.push(group[0].0);
            starts.push(starts.last().map_or(0, |start| start + group.len()));
        }
        let shift = (weights.n_cols() / n_features.max(1)).max(1).ilog2();
        let mut buckets = zeroed::<usize>((weights.n_cols() >> shift) + 2)?;
        for &feature in &features {
            buckets[(feature as usize >> shift) + 1] += 1;
        }
        for bucket in 1..buckets.len() {
            buckets[bucket] += buckets[bucket - 1];
        }
        let cells = collected(all.iter().map(|&(_, number, weight)| (number, weight)))?;
        let bias = collected(bias[rows].iter().copied())?;
        Ok(Self { bias, features, buckets, shift, starts, cells })
    }

    /// Leaves the margins of a query in `margins`, one for each classifier: sums in `f64` in the order
    /// of the query's features.
    pub fn margins(&self, query: &[(i32, f32)], margins: &mut Vec<f64>) {
        margins.clear();
        margins.extend(self.bias.iter().map(|&bias| f64::from(bias)));
        for &(feature, value) in query {
            let bucket = feature as usize >> self.shift;
            let first = self.buckets[bucket];
            let found = &self.features[first..self.buckets[bucket + 1]];
            if let Ok(at) = found.binary_search(&feature) {
                let at = first + at;
                for &(number, weight) in &self.cells[self.starts[at]..self.starts[at + 1]] {
                    margins[number as usize] += f64::from(weight) * f64::from(value);
                }
            }
        }
    }
}

#[cold]
fn first_not_finite(bias: &[f32], weights: CsrView<'_>) -> Error {
    for (row, &bias) in bias.iter().enumerate() {
        if !bias.is_finite() {
            return parameter("bias", "must be finite", format!("{bias} (classifier {row})"));
        }
        let (features, values) = weights.row(row);
        if let Some(at) = values.iter().position(|w| !w.is_finite()) {
            let fault = Fault::FeatureNotFinite { feature: features[at] };
            return Error::at_row(weights.name(), row, fault);
        }
    }
    parameter("weights", "must be finite", "NaN")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_are_balanced_and_cover_all_labels() {
        for n_labels in (1..300).chain([29_951, 1 << 20]) {
            for max_leaf in [2, 3, 7, 100] {
                let shape = Shape::of(n_labels, max_leaf);
                let leaves = (0..shape.n_nodes()).filter(|&node| shape.is_leaf(node));
                let ranges: Vec<_> = leaves.map(|leaf| shape.labels_below(leaf)).collect();
                let sizes = || ranges.iter().map(Range::len);
                assert_eq!(sizes().sum::<usize>(), n_labels);
                assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
                let (least, most) = (sizes().min(), sizes().max());
                assert!(least >= Some(1) && most <= Some(max_leaf), "{n_labels} {max_leaf}");
                assert!(most <= least.map(|least| least + 1), "{n_labels} {max_leaf}");
                assert_eq!(Shape::with_rows(n_labels, shape.n_rows()), Some(shape));
            }
        }
        assert_eq!(Shape::with_rows(3, 4), None);
        assert_eq!(Shape::with_rows(3, 2), None);
        assert_eq!(Shape::with_rows(3, usize::MAX), None);
    }
}
