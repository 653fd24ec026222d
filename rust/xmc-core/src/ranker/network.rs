//! One network: scores of a tile of pairs, and the gradient of a query.
//!
//! Pairs come in tiles of [`TILE`] side by side and hidden units in chunks of [`LANES`], so that the
//! sums of 4 pairs and 8 units stay in registers. Units that fill the last chunk are 0 throughout:
//! they score 0 and have gradient 0.

use bytemuck::{cast_slice, cast_slice_mut};

use crate::error::Result;
use crate::memory::{filled, zeroed};

/// Pairs side by side.
pub(super) const TILE: usize = 4;
/// Hidden units side by side.
pub(super) const LANES: usize = 8;

/// A value of each hidden unit of a chunk, for each pair of a tile.
type Block = [[f32; LANES]; TILE];

/// How many parameters a network has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Shape {
    pub n_features: usize,
    pub hidden: usize,
}

impl Shape {
    pub fn n_chunks(self) -> usize {
        self.hidden.div_ceil(LANES)
    }

    /// Number of parameters: w, then W by chunk and feature, then b and v by chunk.
    pub fn len(self) -> usize {
        let width = self.n_chunks().saturating_mul(LANES);
        width.saturating_mul(self.n_features.saturating_add(2)).saturating_add(self.n_features)
    }

    /// Where the weight of hidden unit `unit` for `feature` is.
    pub fn weight(self, unit: usize, feature: usize) -> usize {
        let row = unit / LANES * self.n_features + feature;
        self.n_features + row * LANES + unit % LANES
    }

    /// Where the bias of hidden unit `unit` is.
    pub fn bias(self, unit: usize) -> usize {
        self.n_features * (1 + self.n_chunks() * LANES) + unit
    }

    /// Where the output weight of hidden unit `unit` is.
    pub fn output(self, unit: usize) -> usize {
        self.bias(unit) + self.n_chunks() * LANES
    }
}

/// The parameters of a network, or as many other numbers: their gradient.
#[derive(Debug, Clone)]
pub(super) struct Network {
    pub shape: Shape,
    pub params: Vec<f32>,
}

/// The parameters of a network by kind.
struct Parts<'a> {
    linear: &'a [f32],
    weights: &'a [[f32; LANES]],
    bias: &'a [[f32; LANES]],
    output: &'a [[f32; LANES]],
}

/// As [`Parts`], to be written.
struct PartsMut<'a> {
    linear: &'a mut [f32],
    weights: &'a mut [[f32; LANES]],
    bias: &'a mut [[f32; LANES]],
    output: &'a mut [[f32; LANES]],
}

impl Network {
    pub fn zero(shape: Shape) -> Result<Self> {
        Ok(Self { shape, params: zeroed(shape.len())? })
    }

    fn parts(&self) -> Parts<'_> {
        let (linear, rest) = self.params.split_at(self.shape.n_features);
        let chunks: &[[f32; LANES]] = cast_slice(rest);
        let (weights, rest) = chunks.split_at(self.shape.n_features * self.shape.n_chunks());
        let (bias, output) = rest.split_at(self.shape.n_chunks());
        Parts { linear, weights, bias, output }
    }

    fn parts_mut(&mut self) -> PartsMut<'_> {
        let (linear, rest) = self.params.split_at_mut(self.shape.n_features);
        let chunks: &mut [[f32; LANES]] = cast_slice_mut(rest);
        let (weights, rest) = chunks.split_at_mut(self.shape.n_features * self.shape.n_chunks());
        let (bias, output) = rest.split_at_mut(self.shape.n_chunks());
        PartsMut { linear, weights, bias, output }
    }

    /// The scores of the pairs of a tile: (`n_features`, [`TILE`]).
    pub fn scores(&self, tile: &[[f32; TILE]]) -> [f32; TILE] {
        let parts = self.parts();
        let mut scores = linear_scores(&parts, tile);
        for chunk in 0..self.shape.n_chunks() {
            for (score, z) in scores.iter_mut().zip(hidden(&parts, chunk, tile)) {
                *score += dot(&gelu(&z).0, &parts.output[chunk]);
            }
        }
        scores
    }
}

/// The values of a query that its gradient needs, and the gradient.
#[derive(Debug)]
pub(super) struct Pass {
    /// Of each pair, filled up to whole tiles.
    pub scores: Vec<[f32; TILE]>,
    /// The derivative of the loss by each score; 0 for the pairs that fill the last tile.
    pub slopes: Vec<[f32; TILE]>,
    /// How much each tile counts; those that count 0 are passed over.
    pub factors: Vec<f32>,
    /// The standardised features of the pairs, (`n_features`, [`TILE`]) a tile; of those that count.
    pub tiles: Vec<[f32; TILE]>,
    /// Outputs of the hidden units by tile and chunk, and their derivatives.
    active: Vec<(Block, Block)>,
    pub gradient: Network,
}

impl Pass {
    pub fn new(shape: Shape) -> Result<Self> {
        let (scores, slopes, factors) = (Vec::new(), Vec::new(), Vec::new());
        let (tiles, active) = (Vec::new(), Vec::new());
        Ok(Self { scores, slopes, factors, tiles, active, gradient: Network::zero(shape)? })
    }

    /// Makes room for tiles, and lets all of them count.
    pub fn take_all(&mut self, n_tiles: usize) -> Result<()> {
        let shape = self.gradient.shape;
        if self.scores.len() < n_tiles {
            self.scores = filled(n_tiles, [0.0; TILE])?;
            self.slopes = filled(n_tiles, [0.0; TILE])?;
            self.factors = filled(n_tiles, 1.0)?;
            self.tiles = zeroed(n_tiles.saturating_mul(shape.n_features))?;
            let none = [[0.0; LANES]; TILE];
            self.active = filled(n_tiles.saturating_mul(shape.n_chunks()), (none, none))?;
        }
        self.factors[..n_tiles].fill(1.0);
        Ok(())
    }

    /// Scores the pairs of the first tiles, one after another, and keeps what the way back needs.
    pub fn forward(&mut self, network: &Network, n_tiles: usize) {
        let shape = network.shape;
        let n_chunks = shape.n_chunks();
        let parts = network.parts();
        for (t, tile) in self.tiles.chunks_exact(shape.n_features).take(n_tiles).enumerate() {
            if self.factors[t] == 0.0 {
                continue;
            }
            let mut scores = linear_scores(&parts, tile);
            for chunk in 0..n_chunks {
                let block = &mut self.active[t * n_chunks + chunk];
                for (pair, z) in hidden(&parts, chunk, tile).iter().enumerate() {
                    (block.0[pair], block.1[pair]) = gelu(z);
                    scores[pair] += dot(&block.0[pair], &parts.output[chunk]);
                }
            }
            self.scores[t] = scores;
        }
    }

    /// Leaves the gradient of the loss by every parameter in `gradient`, given `slopes`.
    pub fn backward(&mut self, network: &Network, n_tiles: usize) {
        let shape = network.shape;
        let n_chunks = shape.n_chunks();
        let output = network.parts().output;
        self.gradient.params.fill(0.0);
        let sums = self.gradient.parts_mut();
        for (t, tile) in self.tiles.chunks_exact(shape.n_features).take(n_tiles).enumerate() {
            if self.factors[t] == 0.0 {
                continue;
            }
            let slopes = self.slopes[t];
            for (sum, x) in sums.linear.iter_mut().zip(tile) {
                *sum +=
                    (x[0] * slopes[0] + x[1] * slopes[1]) + (x[2] * slopes[2] + x[3] * slopes[3]);
            }
            for (chunk, output) in output.iter().enumerate() {
                let (active, derivative) = &self.active[t * n_chunks + chunk];
                let mut back: Block = [[0.0; LANES]; TILE];
                for pair in 0..TILE {
                    for lane in 0..LANES {
                        sums.output[chunk][lane] += slopes[pair] * active[pair][lane];
                        back[pair][lane] = slopes[pair] * output[lane] * derivative[pair][lane];
                        sums.bias[chunk][lane] += back[pair][lane];
                    }
                }
                let rows = chunk * shape.n_features..(chunk + 1) * shape.n_features;
                for (sum, x) in sums.weights[rows].iter_mut().zip(tile) {
                    for lane in 0..LANES {
                        sum[lane] += (x[0] * back[0][lane] + x[1] * back[1][lane])
                            + (x[2] * back[2][lane] + x[3] * back[3][lane]);
                    }
                }
            }
        }
    }
}

#[inline]
fn linear_scores(parts: &Parts<'_>, tile: &[[f32; TILE]]) -> [f32; TILE] {
    let mut scores = [0.0; TILE];
    for (x, w) in tile.iter().zip(parts.linear) {
        for (score, x) in scores.iter_mut().zip(x) {
            *score += x * w;
        }
    }
    scores
}

/// The inputs of a chunk's hidden units.
#[inline]
fn hidden(parts: &Parts<'_>, chunk: usize, tile: &[[f32; TILE]]) -> Block {
    let mut block = [parts.bias[chunk]; TILE];
    let rows = chunk * tile.len()..(chunk + 1) * tile.len();
    for (x, w) in tile.iter().zip(&parts.weights[rows]) {
        for (z, x) in block.iter_mut().zip(x) {
            for (z, w) in z.iter_mut().zip(w) {
                *z += x * w;
            }
        }
    }
    block
}

#[inline]
fn dot(a: &[f32; LANES], b: &[f32; LANES]) -> f32 {
    let mut products = [0.0; LANES];
    for lane in 0..LANES {
        products[lane] = a[lane] * b[lane];
    }
    let [evens, odds] =
        [0, 1].map(|i| (products[i] + products[i + 4]) + (products[i + 2] + products[i + 6]));
    evens + odds
}

/// GELU in the tanh form, z * sigmoid(2u) with u = sqrt(2/pi) (z + 0.044715 z^3), and its derivative.
#[inline]
fn gelu(z: &[f32; LANES]) -> ([f32; LANES], [f32; LANES]) {
    /// 2 sqrt(2/pi)
    const TWICE: f32 = 1.595_769;
    const CUBE: f32 = 0.044_715;
    let (mut values, mut derivatives) = ([0.0; LANES], [0.0; LANES]);
    for lane in 0..LANES {
        let z = z[lane];
        let square = z * z;
        let gate = 1.0 / (1.0 + exp(-TWICE * z * (1.0 + CUBE * square)));
        values[lane] = z * gate;
        let slope = TWICE * (1.0 + 3.0 * CUBE * square);
        derivatives[lane] = gate + z * gate * (1.0 - gate) * slope;
    }
    (values, derivatives)
}

/// e^x to about two units in the last place, for any finite x (beyond +-87 as for +-87).
///
/// Written out because a loop over it becomes vector code, which a call into the C library does not.
#[inline]
fn exp(x: f32) -> f32 {
    /// Adding it rounds to a whole number, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two pieces; the first has few bits, so that its product with k is exact.
    const LN2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    let x = x.clamp(-87.0, 87.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let k = shifted - ROUND;
    let r = (x - k * LN2[0]) - k * LN2[1];
    let tail = 1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0)));
    let power = 1.0 + (r + r * r * (0.5 + r * tail));
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    power * scale
}

#[cfg(test)]
#[allow(clippy::float_cmp)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_to_that_of_the_library() {
        for i in -8700..=8700 {
            let x = i as f32 / 100.0;
            let error = f64::from(exp(x)) / f64::from(x).exp() - 1.0;
            assert!(error.abs() < 4e-7, "{x} {error}");
        }
        assert_eq!((exp(0.0), exp(-1e30), exp(1e30)), (1.0, exp(-87.0), exp(87.0)));
    }

    #[test]
    fn gelu_has_the_stated_values_and_derivatives() {
        let exact = |z: f64| {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (z + 0.044_715 * z.powi(3));
            0.5 * z * (1.0 + u.tanh())
        };
        for i in -80..=80 {
            let z = f64::from(i) / 8.0;
            let (value, derivative) = gelu(&[z as f32; LANES]);
            let slope = (exact(z + 1e-5) - exact(z - 1e-5)) / 2e-5;
            assert!((f64::from(value[3]) - exact(z)).abs() < 1e-5 * (1.0 + z.abs()), "{z}");
            assert!((f64::from(derivative[3]) - slope).abs() < 1e-5, "{z}");
        }
        let (value, derivative) = gelu(&[0.0; LANES]);
        assert_eq!((value[0], derivative[0]), (0.0, 0.5));
        let (value, derivative) = gelu(&[1e18; LANES]);
        assert!(value[0] == 1e18 && derivative[0].is_finite());
    }
}
