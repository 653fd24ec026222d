//! Linear classifiers by dual coordinate descent, several on the same points at once.
//!
//! Each minimises 1/2 |w|^2 + cost * sum over points of max(0, 1 - t w.x)^2, t = +-1, with a last
//! feature that is 1 everywhere: the method of Hsieh et al. (ICML 2008) with its shrinking, as in
//! liblinear. A row is read once for all classifiers of a group, and one instruction works on several of
//! them. What one of them learns does not depend on the others. Sums are `f32`: enough for the few
//! passes and costs that are used, not for a cost of a million and thousands of passes.

use super::local::Local;
use crate::error::Result;
use crate::memory::{filled, with_room};
use crate::rng::Rng;

/// Settings of the solver.
#[derive(Debug, Clone, Copy)]
pub(super) struct Problem {
    pub cost: f64,
    pub tolerance: f64,
    pub max_passes: usize,
}

/// In the place of a dual variable, which is never below 0: the point is set aside for this classifier.
const ASIDE: f32 = -1.0;

/// Trains groups of up to `N` classifiers on one set of points, one group after another.
pub(super) struct Solver<'a, const N: usize> {
    rows: &'a Local,
    /// 1 / (squared length of each point, bias included, + 1 / (2 cost)).
    inverse_curvature: Vec<f32>,
    ridge: f32,
    tolerance: f32,
    max_passes: usize,
    /// The dual variables of each point, or [`ASIDE`].
    alpha: Vec<[f32; N]>,
    /// 1 where the point is a positive, else -1.
    signs: Vec<[f32; N]>,
    order: Vec<u32>,
    /// Classifiers in the group.
    n: usize,
    /// The weights, by local feature.
    pub weights: Vec<[f32; N]>,
    pub bias: [f32; N],
}

/// Where the classifiers of a group stand.
struct Pass<const N: usize> {
    done: [bool; N],
    /// A point at 0 whose gradient is above this is set aside: the largest one of the pass before.
    ceiling: [f32; N],
    /// The largest and the smallest projected gradient that this pass has met.
    largest: [f32; N],
    smallest: [f32; N],
}

impl<'a, const N: usize> Solver<'a, N> {
    pub fn new(rows: &'a Local, problem: Problem) -> Result<Self> {
        let ridge = 0.5 / problem.cost;
        let mut inverse_curvature = with_room(rows.n_rows())?;
        for row in 0..rows.n_rows() {
            let values = rows.row(row).iter().map(|&(_, value)| f64::from(value));
            let curvature = values.map(|value| value * value).sum::<f64>() + 1.0 + ridge;
            inverse_curvature.push((1.0 / curvature) as f32);
        }
        let mut order = with_room(rows.n_rows())?;
        order.extend(0..rows.n_rows() as u32);
        Ok(Self {
            rows,
            inverse_curvature,
            ridge: ridge as f32,
            tolerance: problem.tolerance as f32,
            max_passes: problem.max_passes,
            alpha: filled(rows.n_rows(), [ASIDE; N])?,
            signs: filled(rows.n_rows(), [-1.0; N])?,
            order,
            n: 0,
            weights: filled(rows.n_features(), [0.0; N])?,
            bias: [0.0; N],
        })
    }

    /// Begins a group of `n` classifiers, none of which has a positive yet.
    pub fn begin(&mut self, n: usize) {
        let mut alpha = [ASIDE; N];
        alpha[..n].fill(0.0);
        self.alpha.fill(alpha);
        self.signs.fill([-1.0; N]);
        self.weights.fill([0.0; N]);
        self.bias = [0.0; N];
        self.n = n;
        for (slot, point) in self.order.iter_mut().zip(0..) {
            *slot = point;
        }
    }

    /// Makes a point a positive of one classifier of the group.
    pub fn make_positive(&mut self, classifier: usize, point: usize) {
        self.signs[point][classifier] = 1.0;
    }

    /// Leaves the classifiers of the group in `weights` and `bias`.
    #[expect(clippy::needless_bitwise_bool, reason = "a branch for each lane would not vectorise")]
    pub fn solve(&mut self, rng: &mut Rng) {
        let mut pass = Pass {
            done: std::array::from_fn(|i| i >= self.n),
            ceiling: [f32::INFINITY; N],
            largest: [f32::NEG_INFINITY; N],
            smallest: [f32::INFINITY; N],
        };
        for _ in 0..self.max_passes {
            pass.largest = [f32::NEG_INFINITY; N];
            pass.smallest = [f32::INFINITY; N];
            let n = self.order.len();
            for i in 0..n {
                // Points that all have set aside are drawn too: the order is the same for any group.
                self.order.swap(i, i + rng.below((n - i) as u32) as usize);
                let point = self.order[i] as usize;
                // Not `any`: to look at all of them takes a few instructions and no branch.
                if self.alpha[point].iter().fold(false, |found, &alpha| found | (alpha >= 0.0)) {
                    self.visit(point, &mut pass);
                }
            }
            for i in 0..N {
                self.finish_pass(i, &mut pass);
            }
            if pass.done == [true; N] {
                break;
            }
        }
    }

    /// What the classifiers give a point. In two sums, so that an addition need not wait for the one before.
    fn margins(&self, point: usize) -> [f32; N] {
        let mut sums = [self.bias, [0.0; N]];
        let pairs = self.rows.row(point).chunks_exact(2);
        let last = pairs.remainder();
        for pair in pairs {
            for (sum, &(feature, value)) in sums.iter_mut().zip(pair) {
                let weights = &self.weights[feature as usize];
                for i in 0..N {
                    sum[i] += value * weights[i];
                }
            }
        }
        for &(feature, value) in last {
            let weights = &self.weights[feature as usize];
            for i in 0..N {
                sums[1][i] += value * weights[i];
            }
        }
        std::array::from_fn(|i| sums[0][i] + sums[1][i])
    }

    #[expect(clippy::needless_bitwise_bool, reason = "a branch for each lane would not vectorise")]
    fn visit(&mut self, point: usize, pass: &mut Pass<N>) {
        let margins = self.margins(point);
        let (ridge, inverse) = (self.ridge, self.inverse_curvature[point]);
        let alphas = &mut self.alpha[point];
        let signs = &self.signs[point];
        let mut steps = [0.0; N];
        let mut moves = false;
        for i in 0..N {
            let alpha = alphas[i];
            let gradient = signs[i] * margins[i] - 1.0 + alpha * ridge;
            let at_zero = !(alpha > 0.0);
            let counts = (alpha >= 0.0) & !(at_zero & (gradient > pass.ceiling[i]));
            let projected = if at_zero & (gradient > 0.0) { 0.0 } else { gradient };
            let is_largest = counts & (projected > pass.largest[i]);
            pass.largest[i] = if is_largest { projected } else { pass.largest[i] };
            let is_smallest = counts & (projected < pass.smallest[i]);
            pass.smallest[i] = if is_smallest { projected } else { pass.smallest[i] };
            let new = alpha - gradient * inverse;
            let new = if new > 0.0 { new } else { 0.0 };
            steps[i] = if counts { (new - alpha) * signs[i] } else { 0.0 };
            alphas[i] = if counts { new } else { ASIDE };
            moves |= steps[i] != 0.0;
        }
        if !moves {
            return;
        }
        for &(feature, value) in self.rows.row(point) {
            let weights = &mut self.weights[feature as usize];
            weights.iter_mut().zip(&steps).for_each(|(weight, step)| *weight += value * step);
        }
        self.bias.iter_mut().zip(&steps).for_each(|(bias, step)| *bias += step);
    }

    /// Sets the ceiling of the next pass, or finds that a classifier is done.
    fn finish_pass(&mut self, classifier: usize, pass: &mut Pass<N>) {
        if pass.done[classifier] {
            return;
        }
        let (largest, smallest) = (pass.largest[classifier], pass.smallest[classifier]);
        pass.ceiling[classifier] = f32::INFINITY;
        if largest - smallest > self.tolerance {
            if largest > 0.0 {
                pass.ceiling[classifier] = largest;
            }
            return;
        }
        let none_aside = self.alpha.iter().all(|alphas| alphas[classifier] >= 0.0);
        pass.done[classifier] = none_aside;
        for alphas in &mut self.alpha {
            // Converged on all points: visit none. Converged on some: look at all of them again.
            let alpha = &mut alphas[classifier];
            *alpha = if none_aside { ASIDE } else { alpha.max(0.0) };
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    type Rows = Vec<Vec<(i32, f32)>>;

    const TIGHT: Problem = Problem { cost: 2.0, tolerance: 1e-5, max_passes: 10_000 };

    fn drawn_rows(rng: &mut Rng) -> Rows {
        (0..60)
            .map(|_| (0..8).filter(|_| rng.below(2) == 0).collect::<Vec<_>>())
            .map(|row| row.into_iter().map(|f| (f, (f as f32 + 1.0) / 8.0)).collect())
            .collect()
    }

    fn local(rows: &Rows) -> Local {
        let n_cells = rows.iter().map(Vec::len).sum();
        Local::new(8, n_cells, rows.iter().map(|row| row.iter().copied())).unwrap()
    }

    /// Positives of each classifier: one point in two, three, four, ...; of the last one none.
    fn drawn_positives(n: usize, rng: &mut Rng) -> Vec<Vec<usize>> {
        let rare =
            |i: usize, rng: &mut Rng| (0..60).filter(|_| rng.below(i as u32 + 2) == 0).collect();
        (0..n).map(|i| if i + 1 < n { rare(i, rng) } else { Vec::new() }).collect()
    }

    fn solved<const N: usize>(
        rows: &Local,
        problem: Problem,
        positives: &[Vec<usize>],
    ) -> Vec<Vec<f32>> {
        group(&mut Solver::<N>::new(rows, problem).unwrap(), positives)
    }

    fn group<const N: usize>(
        solver: &mut Solver<'_, N>,
        positives: &[Vec<usize>],
    ) -> Vec<Vec<f32>> {
        solver.begin(positives.len());
        for (classifier, points) in positives.iter().enumerate() {
            for &point in points {
                solver.make_positive(classifier, point);
            }
        }
        solver.solve(&mut Rng::new(1, &[]));
        let of = |i: usize| solver.weights.iter().map(move |weights| weights[i]);
        (0..positives.len()).map(|i| of(i).chain([solver.bias[i]]).collect()).collect()
    }

    /// Margin of a row, with the bias last among the weights.
    fn margin(row: &[(i32, f32)], weights: &[f64]) -> f64 {
        let products = row.iter().map(|&(f, value)| f64::from(value) * weights[f as usize]);
        products.sum::<f64>() + weights[8]
    }

    /// The primal objective.
    fn objective(rows: &Rows, positives: &[usize], weights: &[f64], cost: f64) -> f64 {
        let norm = weights.iter().map(|w| w * w).sum::<f64>();
        let losses = rows.iter().enumerate().map(|(i, row)| {
            let sign = if positives.contains(&i) { 1.0 } else { -1.0 };
            let short = (1.0 - sign * margin(row, weights)).max(0.0);
            short * short
        });
        0.5 * norm + cost * losses.sum::<f64>()
    }

    /// Slow twin: plain gradient descent on the primal, from 0.
    fn twin(rows: &Rows, positives: &[usize], cost: f64) -> Vec<f64> {
        let mut weights = vec![0.0; 9];
        for _ in 0..20_000 {
            let mut gradient = weights.clone();
            for (i, row) in rows.iter().enumerate() {
                let sign = if positives.contains(&i) { 1.0 } else { -1.0 };
                let short = (1.0 - sign * margin(row, &weights)).max(0.0);
                let slope = -2.0 * cost * sign * short;
                for &(f, value) in row {
                    gradient[f as usize] += slope * f64::from(value);
                }
                gradient[8] += slope;
            }
            let rate = 1.0 / (1.0 + 2.0 * cost * 60.0 * 5.0);
            weights.iter_mut().zip(&gradient).for_each(|(w, g)| *w -= rate * g);
        }
        weights
    }

    #[test]
    fn solution_is_the_minimum_of_the_objective() {
        let mut rng = Rng::new(0, &[]);
        let rows = drawn_rows(&mut rng);
        let positives = drawn_positives(5, &mut rng);
        for cost in [0.3, 2.0] {
            let found = solved::<16>(&local(&rows), Problem { cost, ..TIGHT }, &positives);
            for (positives, found) in positives.iter().zip(found) {
                let found: Vec<f64> = found.into_iter().map(f64::from).collect();
                let twin = twin(&rows, positives, cost);
                let (value, best) = (
                    objective(&rows, positives, &found, cost),
                    objective(&rows, positives, &twin, cost),
                );
                assert!((value / best - 1.0).abs() < 1e-6, "{cost}: {value} {best}");
                assert!(found.iter().zip(&twin).all(|(a, b)| (a - b).abs() < 1e-3), "{cost}");
            }
        }
    }

    #[test]
    fn classifiers_of_a_group_do_not_depend_on_each_other() {
        let mut rng = Rng::new(3, &[]);
        let rows = local(&drawn_rows(&mut rng));
        let positives = drawn_positives(16, &mut rng);
        // Few passes: classifiers stop in the middle, with points set aside; a loose tolerance: some are done before.
        for problem in [Problem { max_passes: 5, ..TIGHT }, Problem { tolerance: 0.3, ..TIGHT }] {
            let mut solver = Solver::<16>::new(&rows, problem).unwrap();
            let together = group(&mut solver, &positives);
            // A smaller group afterwards, as the last one of a leaf is.
            assert_eq!(group(&mut solver, &positives[5..8]), together[5..8]);
            for (i, all) in together.iter().enumerate() {
                assert_eq!(
                    solved::<1>(&rows, problem, &positives[i..=i]),
                    std::slice::from_ref(all),
                    "{i}"
                );
                let pair = &positives[i.saturating_sub(1)..=i];
                assert_eq!(solved::<2>(&rows, problem, pair).last(), Some(all), "{i}");
            }
        }
    }
}
