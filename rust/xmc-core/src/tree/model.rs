//! A trained label tree as plain arrays, and made ready for searching.

use std::ops::Range;

use super::points::Points;
use super::train::Rows;
use super::{check_length, parameter};
use crate::csr::{Csr, CsrView};
use crate::error::{Error, Fault, Result};
use crate::memory::{collected, filled, with_room, zeroed};
use crate::postings::Postings;

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

    /// The classifiers of all nodes at a level, from level 0, the root.
    pub fn level(self, level: u32) -> Range<usize> {
        let first = self.classifiers((1 << level) - 1).start;
        first..self.classifiers((2 << level) - 2).end
    }

    pub fn is_leaf(self, node: usize) -> bool {
        node + 1 >= 1 << self.depth
    }

    /// The classifiers of a node: of its two children, or of its labels.
    pub fn classifiers(self, node: usize) -> Range<usize> {
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
    /// Bias of each classifier, tree after tree.
    pub(super) bias: Vec<f32>,
    /// Weights of the classifiers by feature: a query has few features, and its beams visit hundreds
    /// of nodes, which are far apart in memory; the classifiers of a feature lie side by side.
    pub(super) weights: Postings,
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
        if u32::try_from(bias.len()).is_err() {
            return Err(parameter("classifiers", "must be below 2^32", bias.len()));
        }
        let n_features = weights.n_cols();
        let labels = collected(labels.iter().copied())?;
        let bias = collected(bias.iter().copied())?;
        let weights = Postings::new(weights)?;
        Ok(Self { shape, n_trees, n_labels, n_features, labels, bias, weights, known })
    }

    /// Number of features.
    #[must_use]
    pub const fn n_features(&self) -> usize {
        self.n_features
    }

    /// Number of trees.
    #[must_use]
    pub const fn n_trees(&self) -> usize {
        self.n_trees
    }

    /// Labels as in [`TreeArrays`].
    #[must_use]
    pub fn labels(&self) -> &[i32] {
        &self.labels
    }

    /// Bias of the classifiers as in [`TreeArrays`].
    #[must_use]
    pub fn bias(&self) -> &[f32] {
        &self.bias
    }

    /// Weights of the classifiers as in [`TreeArrays`], without those of 0: a copy, for they are kept by feature.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn weights(&self) -> Result<Csr> {
        self.weights.rows(self.bias.len())
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
