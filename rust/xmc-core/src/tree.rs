//! A linear label tree on sparse features: the kind of Parabel and PECOS XR-Linear.
//!
//! Labels are the leaves of a binary tree that keeps similar labels together. Each child of a node and
//! each label of a leaf has a linear classifier, trained only on the points that reach the node, so
//! that a label competes with its neighbours and a search visits a small part of the tree.
//!
//! **Features.** Rows of points are scaled to unit length here, in training and in search. A label's
//! vector is the mean of the rows of its points (PIFA), cut to its largest weights, of unit length.
//! Labels without a point are not in the tree.
//!
//! **Tree.** Spherical 2-means with halves of equal size (the median of the difference in similarity;
//! ties by label) from two labels drawn at random. All leaves have the same depth,
//! the smallest that leaves at most `max_leaf` labels in each.
//!
//! **Classifiers.** L2-regularised squared hinge with a bias feature of 1, one against the rest, by dual
//! coordinate descent with shrinking, as liblinear does it, in `f32` and 16 labels of a leaf at once; none
//! of them depends on the others. Points that have a label of a node are its
//! points; those of a child are its positives and the others its negatives. Weights below `threshold`
//! are dropped, but for the bias.
//!
//! **Search.** A beam of nodes level by level. The log-probability of a node or label is the sum of
//! `-max(0, 1 - margin)^2` over its path; a label's score is the logarithm of the mean over the trees of
//! its probability, 0 in a tree whose beam does not reach it. Scores lie in [`TREE_FLOOR`]`..=0`.
//!
//! **Randomness.** Every draw belongs to (`seed`, tree, node) and every node is worked on
//! by one thread in a fixed order, so the number of threads does not change the result.
//!
//! # Why not the crate `omikuji`
//!
//! It is the reference for this module: version 0.5.2, MIT licence, maintained by the National Library
//! of Finland since August 2026. Its clusters and its solver draw from `thread_rng()` and take no seed:
//! three runs on `DebTags` differ by 1.4 points of P@1. It has 16 direct dependencies, among them
//! `serde_cbor`, which is unmaintained (RUSTSEC-2021-0127). It prints progress bars, and asserts where
//! data is not as it expects. A model is a folder: `settings.json` and one CBOR file a tree.
//!
//! Measured on tf-idf of single words (sublinear), 3 trees, beam 10, one thread; in percent, of three
//! seeds the range. For omikuji three runs (`DebTags`) and one run (LF-DebianRelated):
//!
//! | set | | P@1 | P@5 | nDCG@5 | R@100 | training, CPU s | peak MiB |
//! |---|---|---|---|---|---|---|---|
//! | `DebTags` | this | 85.3-86.2 | 46.7 | 84.0-84.2 | 97.1-97.3 | 9-10 | 123-126 |
//! | | omikuji | 84.6-85.9 | 46.6-46.7 | 83.8-84.1 | 97.3-97.8 | 11 | 143-152 |
//! | LF-DebianRelated | this | 43.0-43.3 | 21.5 | 40.1-40.2 | 62.6-63.0 | 15-16 | 337 |
//! | | omikuji | 42.8 | 21.4 | 40.0 | 64.0 | 19 | 389 |
//!
//! (CPU seconds on a busy machine; those of omikuji include reading its text file, 1 to 2 s. Ours are from
//! before 16 classifiers were trained at once.)

mod cluster;
mod local;
mod model;
mod points;
mod search;
mod solve;
mod train;

use rayon::prelude::*;

use crate::csr::{CsrPattern, CsrView};
use crate::error::{Error, Result};
use model::Shape;
pub use model::{LabelTree, TreeArrays};
use points::Points;
pub use search::{rank_tree, reach_tree, score_tree};

/// The smallest score of a label of the tree: also the score of a label that no beam reaches.
pub const TREE_FLOOR: f32 = -100.0;

const MAX_TREES: usize = 1024;

/// How a label tree is built and trained.
#[derive(Debug, Clone, PartialEq)]
pub struct TreeOptions {
    /// Trees whose probabilities are averaged; at most 1024.
    pub n_trees: usize,
    /// Labels a leaf at most; at least 2.
    pub max_leaf: usize,
    /// Largest weights of a label's vector that clustering looks at.
    pub max_label_features: usize,
    /// Rounds of 2-means at most; a node whose halves no longer change stops earlier.
    pub max_rounds: usize,
    /// What the loss of a point weighs against the regulariser. From some 10^5 on, `f32` is not enough
    /// to converge.
    pub cost: f64,
    /// The solver stops when projected gradients differ by less.
    pub tolerance: f64,
    /// Passes of the solver over the points at most.
    pub max_passes: usize,
    /// Smaller weights are dropped.
    pub threshold: f32,
    /// Seed of the clusters and of the order in which the solver visits points.
    pub seed: u64,
}

impl Default for TreeOptions {
    fn default() -> Self {
        Self {
            n_trees: 3,
            max_leaf: 100,
            max_label_features: 1000,
            max_rounds: 5,
            cost: 1.0,
            tolerance: 0.1,
            max_passes: 20,
            threshold: 0.1,
            seed: 0,
        }
    }
}

impl TreeOptions {
    fn check(&self) -> Result<()> {
        let whole = [
            ("max_leaf", self.max_leaf, 2, "must be at least 2"),
            ("max_label_features", self.max_label_features, 1, "must be at least 1"),
            ("max_rounds", self.max_rounds, 1, "must be at least 1"),
            ("max_passes", self.max_passes, 1, "must be at least 1"),
        ];
        if !(1..=MAX_TREES).contains(&self.n_trees) {
            return Err(parameter("n_trees", "must be in 1..=1024", self.n_trees));
        }
        for (name, value, least, rule) in whole {
            if value < least {
                return Err(parameter(name, rule, value));
            }
        }
        for (name, value) in [("cost", self.cost), ("tolerance", self.tolerance)] {
            if !(value.is_finite() && value > 0.0) {
                return Err(parameter(name, "must be finite and above 0", value));
            }
        }
        if !(self.threshold.is_finite() && self.threshold >= 0.0) {
            return Err(parameter("threshold", "must be finite and at least 0", self.threshold));
        }
        Ok(())
    }
}

/// Builds and trains a label tree from the features `x` and the labels `y` of points; every stored
/// entry of `y` is a positive. `keep_going` is asked before each node.
///
/// Besides the trees, a thread holds the rows of one node, and in a leaf 136 bytes for each of its points
/// and 64 for each of their features.
///
/// # Errors
/// [`Error::Length`] if `x` and `y` differ in rows; [`Error::Content`] for a row whose features do not ascend
/// or that has one that is not finite; [`Error::Parameter`] for an option out of range, 2^31 points or more,
/// or if no label has a point; [`Error::OutOfMemory`];
/// [`Error::Interrupted`].
pub fn fit_tree(
    x: CsrView<'_>,
    y: CsrPattern<'_>,
    options: &TreeOptions,
    keep_going: &(dyn Fn() -> bool + Sync),
) -> Result<TreeArrays> {
    options.check()?;
    y.check_shape(x.n_rows(), y.n_cols())?;
    let points = Points::new(x, y)?;
    let shape = Shape::of(points.labels().len(), options.max_leaf);
    let vectors = points.label_vectors(options.max_label_features)?;
    let ask = || if keep_going() { Ok(()) } else { Err(Error::Interrupted) };
    let orders: Vec<Result<Vec<u32>>> = (0..options.n_trees)
        .into_par_iter()
        .map(|tree| cluster::order(&vectors, shape, options, tree as u64, &ask))
        .collect();
    let orders = orders.into_iter().collect::<Result<Vec<_>>>()?;
    drop(vectors);
    let nodes: Vec<Result<train::Rows>> = (0..options.n_trees * shape.n_nodes())
        .into_par_iter()
        .with_max_len(1)
        .map(|at| {
            ask()?;
            let (tree, node) = (at / shape.n_nodes(), at % shape.n_nodes());
            train::node(&points, shape, &orders[tree], tree as u64, node, options)
        })
        .collect();
    let nodes = nodes.into_iter().collect::<Result<Vec<_>>>()?;
    TreeArrays::new(&points, shape, &orders, nodes)
}

fn check_length(name: &str, what: &'static str, expected: usize, found: usize) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(Error::Length { name: name.to_owned(), what, expected, found })
}

fn parameter(name: &'static str, rule: &'static str, value: impl std::fmt::Display) -> Error {
    Error::Parameter { name, rule, value: value.to_string() }
}
