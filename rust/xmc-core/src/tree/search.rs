//! Scores of labels by beam search.

use std::cell::Cell;

use rayon::prelude::*;

use super::model::LabelTree;
use super::points::unit_scale;
use super::{TREE_FLOOR, check_length, parameter};
use crate::csr::{Csr, CsrPattern, CsrView, csr_from_parts};
use crate::error::{Error, Fault, Result};
use crate::memory::{SPARE, filled, zeroed};
use crate::postings::{row_of, unpacked};
use crate::rank::{Excluded, Score, keep_best};
use crate::topk::TopK;

/// Queries that a thread scores at a time.
const ROWS_PER_TASK: usize = 64;
/// Weights of a feature at a level, for each node of the beam, that are read one after the other: as
/// fast as looking for those of the nodes.
const SCANNED: usize = 64;

/// Ranks the labels that a beam of `beam` nodes a level reaches: the `k` best of each query, equal
/// scores by smaller label. Pairs in `exclude` are dropped before the cut; a query whose beams reach
/// fewer labels is padded with label -1 and score -inf.
///
/// # Errors
/// [`Error::Parameter`] for `k = 0` or `beam = 0`; [`Error::Length`] if the shapes of `x`, `exclude` and
/// the tree differ; [`Error::Content`] for a feature that is not finite; [`Error::OutOfMemory`].
pub fn rank_tree(
    tree: &LabelTree,
    x: CsrView<'_>,
    k: usize,
    beam: usize,
    exclude: Option<CsrPattern<'_>>,
) -> Result<TopK> {
    check(tree, x, beam)?;
    if let Some(exclude) = exclude {
        exclude.check_shape(x.n_rows(), tree.n_labels)?;
    }
    TopK::fill::<f32, Scratch, _>(x.n_rows(), k, |row, keys, scratch| {
        scratch.reach(tree, x, row, beam)?;
        scratch.excluded.load(exclude, row);
        let Scratch { scored, excluded, .. } = scratch;
        let kept = scored.iter().filter(|(label, _)| !excluded.contains(*label));
        keys.extend(kept.map(|&(label, score)| score.key(label)));
        keep_best(keys, k);
        keys.sort_unstable();
        Ok(())
    })
}

/// The labels that a beam of `beam` nodes a level reaches, with their scores: (queries x labels), each
/// row sorted by label.
///
/// # Errors
/// As [`rank_tree`].
pub fn reach_tree(tree: &LabelTree, x: CsrView<'_>, beam: usize) -> Result<Csr> {
    check(tree, x, beam)?;
    csr_from_parts(
        (x.n_rows(), tree.n_labels),
        ROWS_PER_TASK,
        &|| true,
        || Ok(Scratch::default()),
        |scratch, block, part| {
            block.into_iter().try_for_each(|row| {
                scratch.reach(tree, x, row, beam)?;
                part.push_row(scratch.scored.iter().copied())
            })
        },
    )
}

/// Scores given labels: `ids` holds `x.n_rows()` rows of label ids, row-major, padded with -1.
///
/// A label that is not in the tree, and padding, scores -inf; a label that no beam reaches
/// [`TREE_FLOOR`].
///
/// # Errors
/// As [`rank_tree`]; [`Error::Length`] if `ids` is not a whole number of rows; [`Error::Content`] for a
/// label out of range.
pub fn score_tree(tree: &LabelTree, x: CsrView<'_>, ids: &[i32], beam: usize) -> Result<Vec<f32>> {
    check(tree, x, beam)?;
    let width = ids.len().checked_div(x.n_rows()).unwrap_or(0);
    check_length("ids", "labels", width * x.n_rows(), ids.len())?;
    let mut scores = filled(ids.len(), f32::NEG_INFINITY)?;
    if width == 0 {
        return Ok(scores);
    }
    let cells = width.saturating_mul(ROWS_PER_TASK);
    let tasks: Vec<Result<()>> = scores
        .par_chunks_mut(cells)
        .zip(ids.par_chunks(cells))
        .enumerate()
        .map(|(task, (scores, ids))| {
            let mut scratch = Scratch::default();
            for (i, (scores, ids)) in scores.chunks_mut(width).zip(ids.chunks(width)).enumerate() {
                let row = task * ROWS_PER_TASK + i;
                scratch.reach(tree, x, row, beam)?;
                for (score, &label) in scores.iter_mut().zip(ids) {
                    if label == -1 {
                        continue;
                    }
                    let Some(&known) = tree.known.get(label as u32 as usize) else {
                        let (label, n_labels) = (label.to_string(), tree.n_labels);
                        let fault = Fault::LabelOutOfRange { label, n_labels };
                        return Err(Error::at_row("ids", row, fault));
                    };
                    if known {
                        let at = scratch.scored.binary_search_by_key(&label, |&(label, _)| label);
                        *score = at.map_or(TREE_FLOOR, |at| scratch.scored[at].1);
                    }
                }
            }
            Ok(())
        })
        .collect();
    tasks.into_iter().collect::<Result<()>>()?;
    Ok(scores)
}

fn check(tree: &LabelTree, x: CsrView<'_>, beam: usize) -> Result<()> {
    check_length(x.name(), "features", tree.n_features, x.n_cols())?;
    if beam == 0 {
        return Err(parameter("beam", "must be at least 1", 0));
    }
    Ok(())
}

thread_local! {
    /// `Scratch::places` of the last task of this thread.
    static LEFT: Cell<Vec<u32>> = const { Cell::new(Vec::new()) };
}

/// Memory of a task.
#[derive(Default)]
struct Scratch {
    /// Features and values of the query, scaled to unit length.
    query: Vec<(i32, f32)>,
    /// For each feature of the query, how many of its weights are behind the search.
    passed: Vec<usize>,
    /// For each classifier of a level, 1 + its place in `margins`; 0 if no node of the beam has it.
    /// All 0 between levels; at least as many as there are classifiers in a tree.
    places: Vec<u32>,
    margins: Vec<f64>,
    /// Log-probabilities and nodes of the beam, nodes ascending, and of their children.
    beam: Vec<(f64, usize)>,
    children: Vec<(f64, usize)>,
    /// Labels and log-probabilities, tree after tree.
    reached: Vec<(i32, f64)>,
    /// The labels of a query with their scores, ascending.
    scored: Vec<(i32, f32)>,
    excluded: Excluded,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if (1..=SPARE).contains(&self.places.len()) {
            LEFT.set(std::mem::take(&mut self.places));
        }
    }
}

impl Scratch {
    /// Leaves the labels that the beams of query `row` reach in `scored`.
    fn reach(&mut self, tree: &LabelTree, x: CsrView<'_>, row: usize, beam: usize) -> Result<()> {
        let scale = unit_scale(x, row)?;
        let (features, values) = x.row(row);
        self.query.clear();
        self.query.extend(features.iter().zip(values).map(|(&f, &value)| (f, value * scale)));
        self.passed.clear();
        self.passed.resize(self.query.len(), 0);
        if self.places.is_empty() {
            self.places = LEFT.take();
        }
        if self.places.len() < tree.shape.n_rows() {
            self.places = zeroed(tree.shape.n_rows())?;
        }
        self.reached.clear();
        for number in 0..tree.n_trees {
            self.descend(tree, number, beam);
        }
        self.average(tree.n_trees);
        Ok(())
    }

    /// Adds the labels that the beam of one tree reaches to `reached`.
    fn descend(&mut self, tree: &LabelTree, number: usize, beam: usize) {
        let shape = tree.shape;
        let loss = |margin: f64| {
            let short = (1.0 - margin).max(0.0);
            short * short
        };
        self.beam.clear();
        self.beam.push((0.0, 0));
        for level in 0..shape.depth {
            self.level(tree, number, level);
            let Self { margins, beam: nodes, children, .. } = self;
            children.clear();
            for (&(log, node), margins) in nodes.iter().zip(margins.chunks_exact(2)) {
                let both = margins.iter().zip([2 * node + 1, 2 * node + 2]);
                children.extend(both.map(|(&margin, child)| (log - loss(margin), child)));
            }
            if children.len() > beam {
                let best_first =
                    |a: &(f64, usize), b: &(f64, usize)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
                children.select_nth_unstable_by(beam, best_first);
                children.truncate(beam);
            }
            children.sort_unstable_by_key(|&(_, node)| node);
            std::mem::swap(nodes, children);
        }
        self.level(tree, number, shape.depth);
        let labels = &tree.labels[number * shape.n_labels..(number + 1) * shape.n_labels];
        let mut margins = self.margins.iter();
        for &(log, node) in &self.beam {
            let own = labels[shape.labels_below(node)].iter().zip(&mut margins);
            self.reached.extend(own.map(|(&label, &margin)| (label, log - loss(margin))));
        }
    }

    /// Leaves the margins of the beam's classifiers in `margins`, node after node: sums in `f64` in the
    /// order of the query's features. Levels and trees come in order.
    fn level(&mut self, tree: &LabelTree, number: usize, level: u32) {
        let Self { query, passed, places, margins, beam: nodes, .. } = self;
        let (shape, base) = (tree.shape, number * tree.shape.n_rows());
        margins.clear();
        for &(_, node) in nodes.iter() {
            for row in shape.classifiers(node) {
                margins.push(f64::from(tree.bias[base + row]));
                places[row] = margins.len() as u32;
            }
        }
        let end = base + shape.level(level).end;
        let mut add = |posting: u64, value: f32| {
            let (row, weight) = unpacked(posting);
            let place = places[row as usize - base] as usize;
            if let Some(margin) = margins.get_mut(place.wrapping_sub(1)) {
                *margin += weight * f64::from(value);
            }
        };
        for (&(feature, value), passed) in query.iter().zip(passed) {
            let rest = &tree.weights.column(feature)[*passed..];
            let before = |row: usize| move |posting: &u64| (row_of(*posting) as usize) < row;
            if rest.get(nodes.len() * SCANNED).is_some_and(before(end)) {
                // So many classifiers of this level have the feature that each node of the beam looks
                // for its own.
                let here = &rest[..rest.partition_point(before(end))];
                for &(_, node) in nodes.iter() {
                    let rows = shape.classifiers(node);
                    let own = &here[here.partition_point(before(base + rows.start))..];
                    let own = own.iter().take_while(|posting| before(base + rows.end)(posting));
                    own.for_each(|&posting| add(posting, value));
                }
                *passed += here.len();
            } else {
                let here = rest.iter().take_while(|posting| before(end)(posting));
                here.for_each(|&posting| {
                    add(posting, value);
                    *passed += 1;
                });
            }
        }
        for &(_, node) in nodes.iter() {
            places[shape.classifiers(node)].fill(0);
        }
    }

    /// Averages the probabilities of each label over the trees.
    fn average(&mut self, n_trees: usize) {
        // Stable: a label's trees stay in order.
        self.reached.sort_by_key(|&(label, _)| label);
        self.scored.clear();
        for group in self.reached.chunk_by(|a, b| a.0 == b.0) {
            let largest = group.iter().map(|&(_, log)| log).fold(f64::NEG_INFINITY, f64::max);
            // Below the floor whatever the others are; also keeps -inf - -inf away.
            let score = if largest > f64::from(TREE_FLOOR) {
                let sum: f64 = group.iter().map(|&(_, log)| (log - largest).exp()).sum();
                (largest + (sum / n_trees as f64).ln()).min(0.0) as f32
            } else {
                TREE_FLOOR
            };
            self.scored.push((group[0].0, score.max(TREE_FLOOR)));
        }
    }
}
