//! Standardised features: less their mean, over their deviation, clipped.

use super::network::TILE;
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
    /// Those of some pairs, row-major. A feature that is the same everywhere has deviation 1.
    pub fn of(features: &[f32], n_features: usize) -> Result<Self> {
        let mut sums = zeroed::<f64>(n_features)?;
        let mut squares = zeroed::<f64>(n_features)?;
        let mut range = filled(n_features, (f32::INFINITY, f32::NEG_INFINITY))?;
        for (pair, row) in features.chunks_exact(n_features).enumerate() {
            let mut odd = false;
            for ((sum, range), &x) in sums.iter_mut().zip(&mut range).zip(row) {
                *sum += f64::from(x);
                *range = (range.0.min(x), range.1.max(x));
                odd |= !x.is_finite();
            }
            if odd {
                return Err(not_finite(pair, row));
            }
        }
        let n = (features.len() / n_features).max(1) as f64;
        for sum in &mut sums {
            *sum /= n;
        }
        for row in features.chunks_exact(n_features) {
            for ((square, &mean), &x) in squares.iter_mut().zip(&sums).zip(row) {
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
    /// Missing pairs are 0. `features` has the rows of all pairs; errors name the row.
    pub fn fill(
        self,
        tile: &mut [[f32; TILE]],
        features: &[f32],
        pairs: impl Iterator<Item = usize>,
    ) -> Result<()> {
        tile.fill([0.0; TILE]);
        let width = self.mean.len();
        for (pair, number) in pairs.enumerate().take(TILE) {
            let row = &features[number * width..(number + 1) * width];
            let mut odd = false;
            let standards = self.mean.iter().zip(self.deviation);
            for ((cell, &x), (&mean, &deviation)) in tile.iter_mut().zip(row).zip(standards) {
                odd |= !x.is_finite();
                cell[pair] = ((x - mean) / deviation).clamp(-CLIP, CLIP);
            }
            if odd {
                return Err(not_finite(number, row));
            }
        }
        Ok(())
    }
}

#[cold]
fn not_finite(pair: usize, row: &[f32]) -> Error {
    let feature = row.iter().position(|x| !x.is_finite()).unwrap_or_default() as i32;
    Error::at_row("features", pair, Fault::FeatureNotFinite { feature })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::float_cmp)]
mod tests {
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
        let standard = Standard::of(&features, 4).unwrap();
        assert_eq!(standard.mean[..3], [0.0, 0.1, 0.0]);
        assert_eq!((standard.deviation[0], standard.deviation[1]), (2.0, 1.0));
        assert!(standard.deviation.iter().all(|&d| d.is_finite() && d > 0.0));
        let mut tile = vec![[9.0; TILE]; 4];
        standard.view().fill(&mut tile, &features, 0..2).unwrap();
        assert_eq!(tile[0], [1.0, -1.0, 0.0, 0.0]);
        assert_eq!(tile[1], [0.0; TILE]);
        standard.view().fill(&mut tile, &[100.0, 7.0, f32::MAX, 0.0], 0..1).unwrap();
        assert_eq!((tile[0][0], tile[1][0]), (5.0, 5.0));
    }

    #[test]
    fn features_that_are_not_finite_are_named() {
        let error = Standard::of(&[0.0, 1.0, 2.0, f32::NAN], 2).unwrap_err().to_string();
        assert_eq!(error, "features: row 1: value is not finite (feature 1)");
        assert!(Standard::of(&[], 2).unwrap().deviation.iter().all(|&d| d == 1.0));
    }
}
