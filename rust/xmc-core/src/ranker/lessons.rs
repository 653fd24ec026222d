//! What one network learns from: the candidates of each query, and the loss over them.

use super::network::{Network, Pass, TILE};
use super::standard::Standard;
use super::{Candidates, parameter};
use crate::error::Result;
use crate::memory::reserve;
use crate::rng::Rng;

/// Part of the force of a query's negatives with which a tile is always kept.
const FAIR: f32 = 1.0 / 4.0;
/// The least chance with which a tile is kept: its scores may have changed meanwhile.
const RARELY: f32 = 1.0 / 16.0;

/// The queries that have something to teach.
pub(super) struct Lessons<'a> {
    features: &'a [f32],
    standard: &'a Standard,
    /// The pairs of all lessons, one lesson after another, its positives first.
    pairs: Vec<usize>,
    n_tiles: usize,
    pub queries: Vec<Lesson>,
    /// Of all positives of all lessons.
    weights: Option<Vec<f32>>,
}

/// One query. Its pairs begin with the positives.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lesson {
    n_pairs: usize,
    n_positives: usize,
    /// Its first pair, its first tile, and its first weight.
    pair: usize,
    pub tile: usize,
    weight: usize,
}

impl<'a> Lessons<'a> {
    /// Takes the queries with both a positive and a negative.
    pub fn new(candidates: &Candidates<'a>, standard: &'a Standard) -> Result<Self> {
        let Candidates { features, positive, weights, .. } = *candidates;
        let (mut pairs, mut queries) = (Vec::new(), Vec::new());
        let (mut n_tiles, mut n_weights) = (0, 0);
        let mut kept = weights.map(|_| Vec::new());
        for span in candidates.spans() {
            let of_kind = |kind| span.clone().filter(move |&pair| positive[pair] == kind);
            let (n_pairs, n_positives) = (span.len(), of_kind(true).count());
            if n_positives == 0 || n_positives == n_pairs {
                continue;
            }
            reserve(&mut queries, 1)?;
            let (pair, tile, weight) = (pairs.len(), n_tiles, n_weights);
            queries.push(Lesson { n_pairs, n_positives, pair, tile, weight });
            reserve(&mut pairs, n_pairs)?;
            pairs.extend(of_kind(true).chain(of_kind(false)));
            if let (Some(kept), Some(weights)) = (&mut kept, weights) {
                reserve(kept, n_positives)?;
                kept.extend(of_kind(true).map(|pair| weights[pair]));
            }
            n_tiles += n_pairs.div_ceil(TILE);
            n_weights += n_positives;
        }
        if queries.is_empty() {
            let rule =
                "must hold a query with both a positive and a negative, among those to learn from";
            return Err(parameter("positive", rule, "none"));
        }
        Ok(Self { features, standard, pairs, n_tiles, queries, weights: kept })
    }

    /// Number of tiles of all lessons.
    pub fn n_tiles(&self) -> usize {
        self.n_tiles
    }

    pub fn n_features(&self) -> usize {
        self.standard.mean.len()
    }

    /// Standardises the tiles of a query that count.
    ///
    /// Each time anew: those of all lessons would need as much memory again as the features, and after
    /// the first epoch most are passed over.
    fn lay_out(&self, lesson: Lesson, pass: &mut Pass) {
        let n_features = self.n_features();
        let pairs = self.pairs[lesson.pair..][..lesson.n_pairs].chunks(TILE);
        let tiles = pass.tiles.chunks_exact_mut(n_features);
        for ((pairs, tile), &factor) in pairs.zip(tiles).zip(&pass.factors) {
            if factor > 0.0 {
                self.standard.view().fill(tile, self.features, pairs.iter().copied());
            }
        }
    }

    /// Leaves the gradient of a query's loss in `pass`, whose tiles were chosen, and returns the loss.
    pub fn study(&self, lesson: Lesson, network: &Network, pass: &mut Pass) -> f64 {
        self.lay_out(lesson, pass);
        pass.forward(network, lesson.n_tiles());
        let weights = self.weights.as_ref();
        let weights = weights.map(|weights| &weights[lesson.weight..][..lesson.n_positives]);
        let scores = &pass.scores.as_flattened()[..lesson.n_pairs];
        let slopes = pass.slopes[..lesson.n_tiles()].as_flattened_mut();
        let loss = loss(scores, lesson.n_positives, weights, &pass.factors, slopes);
        pass.backward(network, lesson.n_tiles());
        loss
    }
}

impl Lesson {
    pub fn n_tiles(self) -> usize {
        self.n_pairs.div_ceil(TILE)
    }

    /// Chooses the tiles of a query that count, by their pairs' last scores.
    ///
    /// Of most queries a few negatives pull with nearly all of the force. A tile with a positive or
    /// with a fair part of the force is kept. Any other is kept by chance, in proportion to its force
    /// but not too rarely, and then counts for those like it that are not.
    pub fn choose(self, last: &[[f32; TILE]], factors: &mut [f32], rng: &mut Rng) {
        let last = last[self.tile..][..self.n_tiles()].as_flattened();
        let negatives = &last[self.n_positives..self.n_pairs];
        let largest = negatives.iter().fold(f32::MIN, |a, &b| a.max(b));
        factors.fill(0.0);
        let (mut total, mut strongest) = (0.0, 0.0f32);
        for (pair, score) in (self.n_positives..).zip(negatives) {
            factors[pair / TILE] += (score - largest).exp();
        }
        for &force in &*factors {
            total += force;
            strongest = strongest.max(force);
        }
        let always = self.n_positives.div_ceil(TILE);
        let fair = strongest.min(total * FAIR); // the strongest is kept: without any, no loss
        for (tile, factor) in factors.iter_mut().enumerate() {
            let chance = (*factor / fair).max(RARELY);
            *factor = if tile < always || chance >= 1.0 {
                1.0
            } else if rng.unit() < f64::from(chance) {
                1.0 / chance
            } else {
                0.0
            };
        }
    }
}

/// The loss of a query, and in `slopes` its derivative by each score, 0 behind the last pair.
///
/// The positives come first. A negative counts as often as the factor of its tile says.
fn loss(
    scores: &[f32],
    n_positives: usize,
    weights: Option<&[f32]>,
    factors: &[f32],
    slopes: &mut [f32],
) -> f64 {
    slopes.fill(0.0);
    let counts = |pair: usize| f64::from(factors[pair / TILE]);
    let negatives = || (n_positives..scores.len()).filter(|&pair| counts(pair) > 0.0);
    let largest = negatives().map(|pair| scores[pair]).fold(f32::NEG_INFINITY, f32::max);
    // The slope of a negative is its share of all of them; its exponential is kept there meanwhile.
    let mut sum = 0.0;
    for pair in negatives() {
        let power = (f64::from(scores[pair]) - f64::from(largest)).exp() * counts(pair);
        sum += power;
        slopes[pair] = power as f32;
    }
    let all = f64::from(largest) + sum.ln();
    let (mut loss, mut pull) = (0.0, 0.0);
    for (pair, slope) in slopes[..n_positives].iter_mut().enumerate() {
        let weight = weights.map_or(1.0, |weights| f64::from(weights[pair])) / n_positives as f64;
        let behind = all - f64::from(scores[pair]);
        // ln(1 + e^behind) and its derivative, without overflow.
        let power = (-behind.abs()).exp();
        loss += weight * (behind.max(0.0) + power.ln_1p());
        let share = weight * if behind > 0.0 { 1.0 } else { power } / (1.0 + power);
        *slope = -share as f32;
        pull += share;
    }
    let scale = pull / sum;
    for slope in &mut slopes[n_positives..] {
        *slope = (f64::from(*slope) * scale) as f32;
    }
    loss
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::float_cmp)]
mod tests {
    use std::iter::once;

    use super::super::network::Shape;
    use super::super::train::start;
    use super::*;

    /// The mean loss of all queries in `f64`, written down as the formulas are.
    fn plain_loss(candidates: &Candidates<'_>, shape: Shape, params: &[f64]) -> f64 {
        let standard =
            Standard::of(candidates.features, shape.n_features, candidates.spans()).unwrap();
        let score = |pair: usize| {
            let row = &candidates.features[pair * shape.n_features..(pair + 1) * shape.n_features];
            let x: Vec<f64> = (0..shape.n_features)
                .map(|f| (row[f] - standard.mean[f]) / standard.deviation[f])
                .map(|x| f64::from(x.clamp(-5.0, 5.0)))
                .collect();
            let linear: f64 = (0..shape.n_features).map(|f| params[f] * x[f]).sum();
            let hidden = (0..shape.hidden).map(|unit| {
                let inner = (0..shape.n_features).map(|f| params[shape.weight(unit, f)] * x[f]);
                let z = inner.sum::<f64>() + params[shape.bias(unit)];
                let u = (2.0 / std::f64::consts::PI).sqrt() * (z + 0.044_715 * z.powi(3));
                params[shape.output(unit)] * 0.5 * z * (1.0 + u.tanh())
            });
            linear + hidden.sum::<f64>()
        };
        let (mut total, mut n) = (0.0, 0.0);
        for span in candidates.indptr.windows(2) {
            let pairs = || span[0] as usize..span[1] as usize;
            let positives: Vec<_> = pairs().filter(|&p| candidates.positive[p]).collect();
            let negatives: Vec<_> = pairs().filter(|&p| !candidates.positive[p]).collect();
            if positives.is_empty() || negatives.is_empty() {
                continue;
            }
            let terms = positives.iter().map(|&p| {
                let others: f64 = negatives.iter().map(|&n| (score(n) - score(p)).exp()).sum();
                candidates.weights.map_or(1.0, |w| f64::from(w[p])) * others.ln_1p()
            });
            total += terms.sum::<f64>() / positives.len() as f64;
            n += 1.0;
        }
        total / n
    }

    #[test]
    fn gradient_agrees_with_finite_differences() {
        let mut rng = Rng::new(7, &[]);
        let shape = Shape { n_features: 5, hidden: 11 };
        let indptr = [0, 6, 6, 13, 14, 17, 21];
        let features: Vec<f32> = (0..21 * 5).map(|_| rng.unit() as f32 * 4.0 - 1.0).collect();
        // Query 3 has one candidate, query 4 no positive; query 0 has only positives but one.
        let positive: Vec<bool> =
            (0..21).map(|p| p != 3 && (p < 6 || p % 3 == 0 && p < 14 || p > 18)).collect();
        let weights: Vec<f32> = (0..21).map(|_| 0.5 + rng.unit() as f32).collect();
        let candidates = Candidates {
            features: &features,
            n_features: 5,
            indptr: &indptr,
            positive: &positive,
            weights: Some(&weights),
            queries: None,
        };
        let standard = Standard::of(&features, 5, once(0..21)).unwrap();
        let lessons = Lessons::new(&candidates, &standard).unwrap();
        assert_eq!(lessons.queries.len(), 3);

        let mut network = start(shape, 3, 0).unwrap();
        for f in 0..5 {
            network.params[f] = 0.3 * f as f32 - 0.5;
        }
        for unit in 0..shape.hidden {
            network.params[shape.output(unit)] = 0.2 * unit as f32 - 1.0;
        }
        let params: Vec<f64> = network.params.iter().map(|&param| f64::from(param)).collect();
        let mut gradient = vec![0.0; shape.len()];
        let mut total = 0.0;
        let mut pass = Pass::new(shape).unwrap();
        for &lesson in &lessons.queries {
            pass.take_all(lesson.n_tiles()).unwrap();
            total += lessons.study(lesson, &network, &mut pass) / 3.0;
            for (sum, &g) in gradient.iter_mut().zip(&pass.gradient.params) {
                *sum += f64::from(g) / 3.0;
            }
        }
        assert!((total - plain_loss(&candidates, shape, &params)).abs() < 1e-6);
        let used = (0..shape.hidden).flat_map(|unit| {
            let weights = (0..5).map(move |f| shape.weight(unit, f));
            weights.chain([shape.bias(unit), shape.output(unit)])
        });
        for at in (0..5).chain(used) {
            let shifted = |by: f64| {
                let mut params = params.clone();
                params[at] += by;
                plain_loss(&candidates, shape, &params)
            };
            let difference = (shifted(1e-5) - shifted(-1e-5)) / 2e-5;
            assert!((gradient[at] - difference).abs() < 2e-6, "{at} {} {difference}", gradient[at]);
        }
        // Units that only fill a chunk have gradient 0.
        for unit in shape.hidden..16 {
            assert_eq!((gradient[shape.output(unit)], gradient[shape.bias(unit)]), (0.0, 0.0));
        }
    }

    /// One query of 40 pairs, two of them positives.
    fn with_a_lesson(shape: Shape, test: impl FnOnce(&Lessons<'_>, &Network)) {
        let mut rng = Rng::new(2, &[]);
        let features: Vec<f32> = (0..40 * 3).map(|_| 4.0 * rng.unit() as f32).collect();
        let positive: Vec<bool> = (0..40).map(|pair| pair == 7 || pair == 30).collect();
        let candidates = Candidates {
            features: &features,
            n_features: 3,
            indptr: &[0, 40],
            positive: &positive,
            weights: None,
            queries: None,
        };
        let standard = Standard::of(&features, 3, once(0..40)).unwrap();
        let mut network = start(shape, 3, 0).unwrap();
        network.params[..3].copy_from_slice(&[1.5, -1.0, 2.0]);
        network.params[shape.output(0)] = 1.0;
        test(&Lessons::new(&candidates, &standard).unwrap(), &network);
    }

    #[test]
    fn tiles_that_count_by_chance_give_the_whole_gradient_on_average() {
        let shape = Shape { n_features: 3, hidden: 2 };
        with_a_lesson(shape, |lessons, network| {
            let lesson = lessons.queries[0];
            let mut pass = Pass::new(shape).unwrap();
            pass.take_all(lesson.n_tiles()).unwrap();
            lessons.study(lesson, network, &mut pass);
            let (whole, last) = (pass.gradient.params.clone(), pass.scores.clone());
            let (mut mean, mut n_tiles, n) = (vec![0.0; whole.len()], 0, 20_000);
            for draw in 0..n {
                let mut rng = Rng::new(5, &[draw]);
                lesson.choose(&last, &mut pass.factors, &mut rng);
                assert_eq!(pass.factors[0], 1.0); // both positives
                n_tiles += pass.factors.iter().filter(|factor| **factor > 0.0).count();
                lessons.study(lesson, network, &mut pass);
                for (mean, &g) in mean.iter_mut().zip(&pass.gradient.params) {
                    *mean += f64::from(g) / n as f64;
                }
            }
            assert!(n_tiles < 6 * n as usize, "{n_tiles}"); // of 10
            let largest = whole.iter().fold(0.0f32, |a, g| a.max(g.abs()));
            for (mean, whole) in mean.iter().zip(&whole) {
                // Shares of a sum that is estimated too are not quite without bias.
                assert!(
                    (mean - f64::from(*whole)).abs() < 0.05 * f64::from(largest),
                    "{mean} {whole}"
                );
            }
        });
    }

    #[test]
    fn a_tile_of_negatives_is_always_kept() {
        with_a_lesson(Shape { n_features: 3, hidden: 2 }, |lessons, _| {
            let lesson = lessons.queries[0];
            let mut factors = [0.0; 10];
            for scores in [0.0, f32::MAX, f32::MIN] {
                let mut last = [[0.0; TILE]; 10];
                last[6][1] = scores;
                for draw in 0..50 {
                    lesson.choose(&last, &mut factors, &mut Rng::new(1, &[draw]));
                    assert!(factors[1..].iter().any(|&factor| factor > 0.0));
                    assert!(factors.iter().all(|&factor| factor == 0.0 || factor >= 1.0));
                }
            }
        });
    }

    #[test]
    fn loss_stays_finite_for_huge_scores() {
        let mut slopes = [1.0; 4];
        for scores in [[3e38, -3e38, 0.0], [-3e38, 3e38, 3e38]] {
            let value = loss(&scores, 1, None, &[1.0], &mut slopes);
            assert!(value.is_finite() && slopes.iter().all(|slope| slope.is_finite()));
            assert_eq!(slopes[3], 0.0);
        }
        assert_eq!(slopes, [-1.0, 0.5, 0.5, 0.0]);
    }
}
