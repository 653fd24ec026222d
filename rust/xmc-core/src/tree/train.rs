//! The classifiers of one node: of its two children, or of the labels of a leaf.

use super::TreeOptions;
use super::local::Local;
use super::model::Shape;
use super::points::Points;
use super::solve::{Problem, Solver};
use crate::bitmap::Bitmap;
use crate::error::Result;
use crate::memory::{reserve, with_room};
use crate::rng::Rng;

/// Stream of random numbers.
const TRAIN: u64 = 1;

/// Classifiers one after another: how many weights each has, its bias, and the weights.
#[derive(Default)]
pub(super) struct Rows {
    pub lengths: Vec<usize>,
    pub bias: Vec<f32>,
    pub indices: Vec<i32>,
    pub data: Vec<f32>,
}

/// Classifiers of a leaf that are trained at once: their weights of a feature are as long as a cache line.
const LABELS: usize = 16;

/// Trains the classifiers of node `node` of the tree with the given order of labels.
pub(super) fn node(
    points: &Points<'_>,
    shape: Shape,
    order: &[u32],
    tree: u64,
    node: usize,
    options: &TreeOptions,
) -> Result<Rows> {
    let labels = &order[shape.labels_below(node)];
    let own = union(points, labels)?;
    let n_cells = own.iter().map(|&point| points.row_len(point)).sum();
    let rows = own.iter().map(|&point| points.row(point));
    let local = Local::new(points.n_features(), n_cells, rows)?;
    let rng = || Rng::new(options.seed, &[TRAIN, tree, node as u64]);
    if shape.is_leaf(node) {
        let positives: Vec<&[u32]> = labels.iter().map(|&label| points.of(label)).collect();
        classifiers::<LABELS>(&own, &local, &positives, rng, options)
    } else {
        let (left, right) = labels.split_at(Shape::left(labels.len()));
        let (left, right) = (union(points, left)?, union(points, right)?);
        classifiers::<2>(&own, &local, &[&left, &right], rng, options)
    }
}

/// Trains a classifier for each set of positives, all of them among the points `own`.
fn classifiers<const N: usize>(
    own: &[u32],
    local: &Local,
    positives: &[&[u32]],
    rng: impl Fn() -> Rng,
    options: &TreeOptions,
) -> Result<Rows> {
    let problem = Problem {
        cost: options.cost,
        tolerance: options.tolerance,
        max_passes: options.max_passes,
    };
    let mut solver = Solver::<N>::new(local, problem)?;
    let mut result = Rows::default();
    for group in positives.chunks(N) {
        solver.begin(group.len());
        for (classifier, points) in group.iter().enumerate() {
            for point in *points {
                if let Ok(at) = own.binary_search(point) {
                    solver.make_positive(classifier, at);
                }
            }
        }
        solver.solve(&mut rng());
        result.push(&solver, local, group.len(), options.threshold)?;
    }
    Ok(result)
}

/// The points that have one of the labels, ascending.
fn union(points: &Points<'_>, labels: &[u32]) -> Result<Vec<u32>> {
    let mut found = Bitmap::new(points.n_points())?;
    for &point in labels.iter().flat_map(|&label| points.of(label)) {
        found.insert(point as i32);
    }
    let mut all = with_room(found.len())?;
    all.extend(found.ascending().map(|point| point as u32));
    Ok(all)
}

impl Rows {
    /// Appends the first `n` classifiers of a solver, with weights by ascending feature.
    fn push<const N: usize>(
        &mut self,
        solver: &Solver<'_, N>,
        local: &Local,
        n: usize,
        threshold: f32,
    ) -> Result<()> {
        let kept = |weight: f32| weight.abs() >= threshold && weight.abs() > 0.0;
        let mut counts = [0; N];
        for weights in &solver.weights {
            for (count, &weight) in counts.iter_mut().zip(weights) {
                *count += u32::from(kept(weight));
            }
        }
        let start = self.indices.len();
        let total = counts[..n].iter().map(|&count| count as usize).sum::<usize>();
        reserve(&mut self.indices, total)?;
        reserve(&mut self.data, total)?;
        self.indices.resize(start + total, 0);
        self.data.resize(start + total, 0.0);
        reserve(&mut self.lengths, n)?;
        reserve(&mut self.bias, n)?;
        let mut at = [start; N];
        for i in 0..n {
            self.lengths.push(counts[i] as usize);
            self.bias.push(solver.bias[i]);
            if i + 1 < n {
                at[i + 1] = at[i] + counts[i] as usize;
            }
        }
        for (&feature, weights) in local.features().iter().zip(&solver.weights) {
            // Most features are kept by none, which is seen without a look at each by itself.
            if !weights.iter().fold(false, |found, &weight| found | kept(weight)) {
                continue;
            }
            for i in 0..n {
                if kept(weights[i]) {
                    self.indices[at[i]] = feature;
                    self.data[at[i]] = weights[i];
                    at[i] += 1;
                }
            }
        }
        Ok(())
    }
}
