//! Training of one network.

use rayon::prelude::*;

use super::lessons::Lessons;
use super::network::{Network, Pass, Shape, TILE};
use super::{RankerOptions, parameter};
use crate::error::{Error, Result};
use crate::memory::{collected, with_room, zeroed};
use crate::rng::Rng;

/// Streams of random numbers: the starting weights, and the order of an epoch.
const START: u64 = 0;
const ORDER: u64 = 1;
const CHOICE: u64 = 2;

/// Trains one network.
pub(super) fn member(
    lessons: &Lessons<'_>,
    options: &RankerOptions,
    member: u64,
    keep_going: &(dyn Fn() -> bool + Sync),
) -> Result<Network> {
    let shape = Shape { n_features: lessons.n_features(), hidden: options.hidden };
    let mut network = start(shape, options.seed, member)?;
    let n = lessons.queries.len();
    let batch = options.batch.min(n);
    let n_steps = (n.div_ceil(batch) as f64) * options.epochs as f64;
    let mut adam = Adam::new(&network.params, options)?;
    let mut last = zeroed::<[f32; TILE]>(lessons.n_tiles())?;
    let mut order = collected(0..n)?;
    let mut passes = with_room(batch)?;
    for _ in 0..batch {
        passes.push(Pass::new(shape)?);
    }
    let mut gradient = zeroed::<f64>(shape.len())?;
    let mut step = 0.0;
    for epoch in 0..options.epochs {
        shuffle(&mut order, &mut Rng::new(options.seed, &[ORDER, member, epoch as u64]));
        for queries in order.chunks(batch) {
            if !keep_going() {
                return Err(Error::Interrupted);
            }
            let passes = &mut passes[..queries.len()];
            let network_now = &network;
            let last_now = &last;
            let studied = passes.par_iter_mut().zip(queries).map(|(pass, &query)| {
                let lesson = lessons.queries[query];
                pass.take_all(lesson.n_tiles())?;
                if options.sampled && epoch > 0 {
                    let seeds = [CHOICE, member, epoch as u64, query as u64];
                    let rng = &mut Rng::new(options.seed, &seeds);
                    lesson.choose(last_now, &mut pass.factors[..lesson.n_tiles()], rng);
                }
                lessons.study(lesson, network_now, pass);
                Ok(())
            });
            studied.collect::<Result<()>>()?;
            for (pass, &query) in passes.iter().zip(queries) {
                let lesson = lessons.queries[query];
                let own = last[lesson.tile..][..lesson.n_tiles()].iter_mut();
                for ((own, scores), factor) in own.zip(&pass.scores).zip(&pass.factors) {
                    if *factor > 0.0 {
                        *own = *scores;
                    }
                }
            }
            gradient.fill(0.0);
            for pass in passes.iter() {
                for (sum, &g) in gradient.iter_mut().zip(&pass.gradient.params) {
                    *sum += f64::from(g);
                }
            }
            for sum in &mut gradient {
                *sum /= queries.len() as f64;
            }
            adam.step(&gradient, 1.0 - step / n_steps);
            step += 1.0;
            for (param, &exact) in network.params.iter_mut().zip(&adam.params) {
                *param = exact as f32;
            }
        }
    }
    if network.params.iter().all(|param| param.is_finite()) {
        Ok(network)
    } else {
        let rule = "(or the weights of positives) must be smaller: the network overflows";
        Err(parameter("learning_rate", rule, options.learning_rate))
    }
}

/// The network before its first step.
pub(super) fn start(shape: Shape, seed: u64, member: u64) -> Result<Network> {
    let mut network = Network::zero(shape)?;
    let mut rng = Rng::new(seed, &[START, member]);
    let bound = 1.0 / (shape.n_features as f64).sqrt();
    let mut even = || ((2.0 * rng.unit() - 1.0) * bound) as f32;
    for unit in 0..shape.hidden {
        for feature in 0..shape.n_features {
            network.params[shape.weight(unit, feature)] = even();
        }
        network.params[shape.bias(unit)] = even();
    }
    Ok(network)
}

fn shuffle(order: &mut [usize], rng: &mut Rng) {
    for i in (1..order.len()).rev() {
        order.swap(i, rng.below(u32::try_from(i + 1).unwrap_or(u32::MAX)) as usize);
    }
}

/// `AdamW`, in `f64`.
struct Adam {
    params: Vec<f64>,
    first: Vec<f64>,
    second: Vec<f64>,
    n_steps: i32,
    learning_rate: f64,
    decay: f64,
    non_negative: bool,
}

impl Adam {
    const BETAS: (f64, f64) = (0.9, 0.999);
    const EPSILON: f64 = 1e-8;

    fn new(params: &[f32], options: &RankerOptions) -> Result<Self> {
        Ok(Self {
            params: collected(params.iter().map(|&param| f64::from(param)))?,
            first: zeroed(params.len())?,
            second: zeroed(params.len())?,
            n_steps: 0,
            learning_rate: options.learning_rate,
            decay: options.decay,
            non_negative: options.non_negative,
        })
    }

    /// Takes a step with the given share of the learning rate.
    fn step(&mut self, gradient: &[f64], share: f64) {
        let (beta1, beta2) = Self::BETAS;
        self.n_steps = self.n_steps.saturating_add(1);
        let rate = self.learning_rate * share;
        let (bias1, bias2) = (1.0 - beta1.powi(self.n_steps), 1.0 - beta2.powi(self.n_steps));
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((param, (first, second)), &g) in self.params.iter_mut().zip(moments).zip(gradient) {
            *first += (1.0 - beta1) * (g - *first);
            *second += (1.0 - beta2) * (g * g - *second);
            *param *= 1.0 - rate * self.decay;
            *param -= rate / bias1 * *first / ((*second / bias2).sqrt() + Self::EPSILON);
            if self.non_negative {
                *param = param.max(0.0);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_has_every_query_once() {
        let mut order: Vec<usize> = (0..50).collect();
        shuffle(&mut order, &mut Rng::new(0, &[1]));
        assert!(!order.is_sorted());
        order.sort_unstable();
        assert_eq!(order, (0..50).collect::<Vec<_>>());
    }
}
