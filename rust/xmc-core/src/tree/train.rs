//! The classifiers of one node: of its two children, or of the labels of a leaf.

use super::TreeOptions;
use super::local::Local;
use super::model::Shape;
use super::points::Points;
use super::solve::{Problem, Solver};
use crate::error::Result;
use crate::memory::{filled, reserve, with_room};
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
    let problem = Problem {
        cost: options.cost,
        tolerance: options.tolerance,
        max_passes: options.max_passes,
    };
    let mut solver = Solver::new(&local, problem)?;
    let mut result = Rows::default();
    let mut positive = filled(own.len(), false)?;
    let mut classifier = 0;
    let mut train = |positives: &[u32]| {
        positive.fill(false);
        for point in positives {
            if let Ok(at) = own.binary_search(point) {
                positive[at] = true;
            }
        }
        solver
            .solve(&positive, &mut Rng::new(options.seed, &[TRAIN, tree, node as u64, classifier]));
        classifier += 1;
        result.push(&solver, &local, options.threshold)
    };
    if shape.is_leaf(node) {
        labels.iter().try_for_each(|&label| train(points.of(label)))?;
    } else {
        let (left, right) = labels.split_at(Shape::left(labels.len()));
        train(&union(points, left)?)?;
        train(&union(points, right)?)?;
    }
    Ok(result)
}

/// The points that have one of the labels, ascending.
fn union(points: &Points<'_>, labels: &[u32]) -> Result<Vec<u32>> {
    let mut all = with_room(labels.iter().map(|&label| points.of(label).len()).sum())?;
    for &label in labels {
        all.extend_from_slice(points.of(label));
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

impl Rows {
    /// Appends the classifier of a solver, with weights by ascending feature.
    fn push(&mut self, solver: &Solver<'_>, local: &Local, threshold: f32) -> Result<()> {
        let kept = |w: &f64| w.abs() >= f64::from(threshold) && (*w as f32).abs() > 0.0;
        let n = solver.weights.iter().filter(|w| kept(w)).count();
        let mut cells = with_room(n)?;
        let all = local.features().iter().zip(&solver.weights);
        cells.extend(all.filter(|(_, w)| kept(w)).map(|(&feature, &w)| (feature, w as f32)));
        cells.sort_unstable_by_key(|&(feature, _)| feature);
        reserve(&mut self.lengths, 1)?;
        self.lengths.push(n);
        reserve(&mut self.bias, 1)?;
        self.bias.push(solver.bias as f32);
        reserve(&mut self.indices, n)?;
        reserve(&mut self.data, n)?;
        self.indices.extend(cells.iter().map(|&(feature, _)| feature));
        self.data.extend(cells.iter().map(|&(_, weight)| weight));
        Ok(())
    }
}
