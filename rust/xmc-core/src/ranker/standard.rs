//! Standardised features: less their mean, over their deviation, clipped.

use std::ops::Range;

use super::network::{LANES, TILE};
use crate::error::{Error, Fault, Result};
use crate::memory::{filled, zeroed};

/// How far a feature may lie from its mean, in deviations.
const CLIP: f32 = 5.0;

/// Mean and deviation of each feature.
#[derive(Debug, Clone)]
pub(super) struct Standard {
    pub mean: Vec<f32>,
    pub deviation: Vec<f32>,
}

impl Standard {
    /// Those of some pairs, given as spans of the rows of `features`. A feature that is the same
    /// everywhere has deviation 1.
    pub fn of(
        features: &[f32],
        n_features: usize,
        spans: impl Iterator<Item = Range<usize>> + Clone,
    ) -> Result<Self> {
        let row = |pair: usize| &features[pair * n_features..(pair + 1) * n_features];
        let mut sums = zeroed::<f64>(n_features)?;
        let mut squares = zeroed::<f64>(n_features)?;
        let mut range = filled(n_features, (f32::INFINITY, f32::NEG_INFINITY))?;
        let mut n = 0usize;
        for span in spans.clone() {
            n += span.len();
            for pair in span {
                let mut odd = false;
                for ((sum, range), &x) in sums.iter_mut().zip(&mut range).zip(row(pair)) {
                    *sum += f64::from(x);
                    *range = (range.0.min(x), range.1.max(x));
                    odd |= !x.is_finite();
                }
                if odd {
                    return Err(not_finite(pair, row(pair)));
                }
            }
        }
        let n = n.max(1) as f64;
        for sum in &mut sums {
            *sum /= n;
        }
        for pair in spans.flatten() {
            for ((square, &mean), &x) in squares.iter_mut().zip(&sums).zip(row(pair)) {
                let off = f64::from(x) - mean;
                *square += off * off;
            }
        }
        let mut standard = Self { mean: zeroed(n_features)?, deviation: zeroed(n_features)? };
        for (feature, &(smallest, largest)) in range.iter().enumerate() {
            let deviation = (squares[feature] / n).sqrt() as f32;
            // Compared by range: rounding may give the mean of equal values a deviation of its own.
            let constant = !(smallest < largest);
            let mean = sums[feature] as f32;
            standard.mean[feature] = if constant && smallest.is_finite() { smallest } else { mean };
            standard.deviation[feature] =
                if constant || !(deviation > 0.0) { 1.0 } else { deviation };
        }
        Ok(standard)
    }

    pub fn view(&self) -> StandardView<'_> {
        StandardView { mean: &self.mean, deviation: &self.deviation }
    }
}

/// A borrowed [`Standard`].
#[derive(Debug, Clone, Copy)]
pub(super) struct StandardView<'a> {
    pub mean: &'a [f32],
    pub deviation: &'a [f32],
}

impl StandardView<'_> {
    /// Standardises up to [`TILE`] pairs into a tile, which holds the pairs of a feature side by side.
    /// Missing pairs are 0. `features` has the rows of all pairs, and they are finite.
    pub fn fill(
        self,
        tile: &mut [[f32; TILE]],
        features: &[f32],
        pairs: impl Iterator<Item = usize>,
    ) {
        tile.fill([0.0; TILE]);
        let width = self.mean.len();
        for (pair, number) in pairs.enumerate().take(TILE) {
            let row = &features[number * width..(number + 1) * width];
            // Some features at a time, first beside each other: so one instruction divides several.
            let standards = self.mean.chunks(LANES).zip(self.deviation.chunks(LANES));
            let chunks = tile.chunks_mut(LANES).zip(row.chunks(LANES)).zip(standards);
            for ((cells, xs), (means, deviations)) in chunks {
                let values = match (xs.try_into(), means.try_into(), deviations.try_into()) {
                    (Ok(xs), Ok(means), Ok(deviations)) => scale_all(xs, means, deviations),
                    _ => scale_all(padded(xs, 0.0), padded(means, 0.0), padded(deviations, 1.0)),
                };
                for (cell, value) in cells.iter_mut().zip(values) {
                    cell[pair] = value;
                }
            }
        }
    }
}

#[inline]
fn scale_all(xs: [f32; LANES], means: [f32; LANES], deviations: [f32; LANES]) -> [f32; LANES] {
    std::array::from_fn(|i| ((xs[i] - means[i]) / deviations[i]).clamp(-CLIP, CLIP))
}

#[inline]
fn padded(values: &[f32], filling: f32) -> [f32; LANES] {
    std::array::from_fn(|i| values.get(i).copied().unwrap_or(filling))
}

/// An error if a feature of the pairs is not finite; it names the row.
pub(super) fn check_finite(features: &[f32], n_features: usize, pairs: Range<usize>) -> Result<()> {
    let rows = features[pairs.start * n_features..pairs.end * n_features].chunks_exact(n_features);
    for (pair, row) in pairs.zip(rows) {
        if !row.iter().fold(true, |finite, x| finite & x.is_finite()) {
            return Err(not_finite(pair, row));
        }
    }
    Ok(())
}

#[cold]
fn not_finite(pair: usize, row: &[f32]) -> Error {
    let feature = row.iter().position(|x| !x.is_finite()).unwrap_or_default() as i32;
    Error::at_row("features", pair, Fault::FeatureNotFinite { feature })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::float_cmp)]
mod tests {
    use std::iter::{empty, once};

    use super::*;

    #[test]
    fn features_are_standardised_and_clipped() {
        // Mean 0 and deviation 2; constant; huge; the smallest numbers there are.
        let tiny = f32::from_bits(1);
        let features = [
            2.0,
            0.1,
            f32::MAX,
            tiny,
            -2.0,
            0.1,
            f32::MIN,
            0.0,
            -2.0,
            0.1,
            0.0,
            0.0,
            2.0,
            0.1,
            0.0,
            0.0,
        ];
        let standard = Standard::of(&features, 4, once(0..4)).unwrap();
        assert_eq!(standard.mean[..3], [0.0, 0.1, 0.0]);
        assert_eq!((standard.deviation[0], standard.deviation[1]), (2.0, 1.0));
        assert!(standard.deviation.iter().all(|&d| d.is_finite() && d > 0.0));
        let mut tile = vec![[9.0; TILE]; 4];
        standard.view().fill(&mut tile, &features, 0..2);
        assert_eq!(tile[0], [1.0, -1.0, 0.0, 0.0]);
        assert_eq!(tile[1], [0.0; TILE]);
        standard.view().fill(&mut tile, &[100.0, 7.0, f32::MAX, 0.0], 0..1);
        assert_eq!((tile[0][0], tile[1][0]), (5.0, 5.0));
    }

    #[test]
    fn features_that_are_not_finite_are_named() {
        let error =
            Standard::of(&[0.0, 1.0, 2.0, f32::NAN], 2, once(0..2)).unwrap_err().to_string();
        assert_eq!(error, "features: row 1: value is not finite (feature 1)");
        assert!(Standard::of(&[], 2, empty()).unwrap().deviation.iter().all(|&d| d == 1.0));
    }
}
