//! One linear classifier by dual coordinate descent.
//!
//! Minimises 1/2 |w|^2 + cost * sum over points of max(0, 1 - t w.x)^2, t = +-1, with a last feature
//! that is 1 everywhere: the method of Hsieh et al. (ICML 2008) with its shrinking, as in liblinear.

use super::local::Local;
use crate::error::Result;
use crate::memory::{filled, with_room, zeroed};
use crate::rng::Rng;

/// Settings of the solver.
#[derive(Debug, Clone, Copy)]
pub(super) struct Problem {
    pub cost: f64,
    pub tolerance: f64,
    pub max_passes: usize,
}

/// Trains classifiers on one set of points, one after another.
pub(super) struct Solver<'a> {
    rows: &'a Local,
    /// Squared length of each point, bias included, plus 1/(2 cost).
    curvature: Vec<f64>,
    ridge: f64,
    alpha: Vec<f64>,
    active: Vec<u32>,
    /// The weights, by local feature.
    pub weights: Vec<f64>,
    pub bias: f64,
    problem: Problem,
}

impl<'a> Solver<'a> {
    pub fn new(rows: &'a Local, problem: Problem) -> Result<Self> {
        let ridge = 0.5 / problem.cost;
        let mut curvature = with_room(rows.n_rows())?;
        for row in 0..rows.n_rows() {
            let values = rows.row(row).iter().map(|&(_, value)| f64::from(value));
            curvature.push(values.map(|value| value * value).sum::<f64>() + 1.0 + ridge);
        }
        Ok(Self {
            rows,
            curvature,
            ridge,
            alpha: zeroed(rows.n_rows())?,
            active: filled(rows.n_rows(), 0)?,
            weights: zeroed(rows.n_features())?,
            bias: 0.0,
            problem,
        })
    }

    /// Leaves the classifier of the positives against all other points in `weights` and `bias`.
    pub fn solve(&mut self, positive: &[bool], rng: &mut Rng) {
        self.alpha.fill(0.0);
        self.weights.fill(0.0);
        self.bias = 0.0;
        for (slot, point) in self.active.iter_mut().zip(0..) {
            *slot = point;
        }
        let n = self.active.len();
        let mut n_active = n;
        // Projected gradients of the last pass: a point at 0 whose gradient is above all is set aside.
        let mut ceiling = f64::INFINITY;
        for _ in 0..self.problem.max_passes {
            let (mut largest, mut smallest) = (f64::NEG_INFINITY, f64::INFINITY);
            let mut at = 0;
            for i in 0..n_active {
                let other = i + rng.below((n_active - i) as u32) as usize;
                self.active.swap(i, other);
            }
            while at < n_active {
                let point = self.active[at] as usize;
                let sign = if positive[point] { 1.0 } else { -1.0 };
                let margin = self.rows.dot(point, &self.weights) + self.bias;
                let alpha = self.alpha[point];
                let gradient = sign * margin - 1.0 + alpha * self.ridge;
                let at_zero = !(alpha > 0.0);
                if at_zero && gradient > ceiling {
                    n_active -= 1;
                    self.active.swap(at, n_active);
                    continue;
                }
                at += 1;
                let projected = if at_zero { gradient.min(0.0) } else { gradient };
                largest = largest.max(projected);
                smallest = smallest.min(projected);
                if projected.abs() > 1e-12 {
                    let new = (alpha - gradient / self.curvature[point]).max(0.0);
                    self.alpha[point] = new;
                    let step = (new - alpha) * sign;
                    self.rows.add(point, step, &mut self.weights);
                    self.bias += step;
                }
            }
            if largest - smallest <= self.problem.tolerance {
                if n_active == n {
                    break;
                }
                // Converged on the active points: look at all of them again.
                n_active = n;
                ceiling = f64::INFINITY;
                continue;
            }
            ceiling = if largest > 0.0 { largest } else { f64::INFINITY };
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The primal objective.
    fn objective(rows: &Local, positive: &[bool], weights: &[f64], bias: f64, cost: f64) -> f64 {
        let norm = weights.iter().map(|w| w * w).sum::<f64>() + bias * bias;
        let losses = positive.iter().enumerate().map(|(row, &positive)| {
            let margin = rows.dot(row, weights) + bias;
            let short = (1.0 - if positive { margin } else { -margin }).max(0.0);
            short * short
        });
        0.5 * norm + cost * losses.sum::<f64>()
    }

    #[test]
    fn solution_is_the_minimum_of_the_objective() {
        let mut rng = Rng::new(0, &[]);
        let rows: Vec<Vec<(i32, f32)>> = (0..60)
            .map(|_| (0..8).filter(|_| rng.below(2) == 0).collect::<Vec<_>>())
            .map(|row| row.into_iter().map(|f| (f, (f as f32 + 1.0) / 8.0)).collect())
            .collect();
        let n_cells = rows.iter().map(Vec::len).sum();
        let rows = Local::new(8, n_cells, rows.iter().map(|row| row.iter().copied())).unwrap();
        let positive: Vec<bool> = (0..60).map(|_| rng.below(3) == 0).collect();
        for cost in [0.3, 2.0] {
            let problem = Problem { cost, tolerance: 1e-9, max_passes: 10_000 };
            let mut solver = Solver::new(&rows, problem).unwrap();
            solver.solve(&positive, &mut Rng::new(1, &[]));
            let (weights, bias) = (solver.weights.clone(), solver.bias);
            // Slow twin: plain gradient descent on the primal, from 0.
            let (mut twin, mut twin_bias) = (vec![0.0; rows.n_features()], 0.0);
            for _ in 0..20_000 {
                let mut gradient = twin.clone();
                let mut slope = twin_bias;
                for (row, &positive) in positive.iter().enumerate() {
                    let sign = if positive { 1.0 } else { -1.0 };
                    let short = (1.0 - sign * (rows.dot(row, &twin) + twin_bias)).max(0.0);
                    rows.add(row, -2.0 * cost * sign * short, &mut gradient);
                    slope -= 2.0 * cost * sign * short;
                }
                let rate = 1.0 / (1.0 + 2.0 * cost * 60.0 * 5.0);
                twin.iter_mut().zip(&gradient).for_each(|(w, g)| *w -= rate * g);
                twin_bias -= rate * slope;
            }
            let found = objective(&rows, &positive, &weights, bias, cost);
            let best = objective(&rows, &positive, &twin, twin_bias, cost);
            assert!((found / best - 1.0).abs() < 1e-7, "{cost}: {found} {best}");
            assert!(weights.iter().zip(&twin).all(|(a, b)| (a - b).abs() < 1e-4), "{cost}");
        }
    }
}
