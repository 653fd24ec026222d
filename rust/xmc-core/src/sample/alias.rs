//! Draws of labels by weight, in constant time.

use crate::error::Result;
use crate::memory::reserve;
use crate::rng::Rng;

/// 2^32, what a threshold is out of.
pub(super) const FULL: f64 = (1u64 << 32) as f64;

/// Builds Walker's alias tables after Vose: place i keeps its own item with a probability, its
/// threshold of 2^32, and else stands for another one. Holds the memory for it.
#[derive(Default)]
pub(super) struct Builder {
    /// Threshold and other item of each place.
    pub(super) places: Vec<(u32, u32)>,
    shares: Vec<f64>,
    small: Vec<u32>,
    large: Vec<u32>,
}

impl Builder {
    /// Fills `places` for weights that are finite and >= 0; false if all are 0.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub(super) fn build(&mut self, weights: &[f64]) -> Result<bool> {
        let Self { places, shares, small, large } = self;
        let largest = weights.iter().copied().fold(0.0, f64::max);
        if largest == 0.0 {
            return Ok(false);
        }
        // Divided first, so that the sum of the largest weights does not overflow.
        let total: f64 = weights.iter().map(|weight| weight / largest).sum();
        let share = weights.len() as f64 / total;
        places.clear();
        reserve(places, weights.len())?;
        places.extend((0..weights.len() as u32).map(|i| (u32::MAX, i)));
        shares.clear();
        reserve(shares, weights.len())?;
        shares.extend(weights.iter().map(|weight| weight / largest * share));
        small.clear();
        large.clear();
        reserve(small, weights.len())?;
        reserve(large, weights.len())?;
        for (i, &share) in shares.iter().enumerate() {
            if share < 1.0 { &mut *small } else { &mut *large }.push(i as u32);
        }
        while let Some(&giver) = large.last() {
            let Some(taker) = small.pop() else { break };
            let left = shares[taker as usize];
            places[taker as usize] = ((left * FULL) as u32, giver);
            shares[giver as usize] -= 1.0 - left;
            if shares[giver as usize] < 1.0 {
                large.pop();
                small.push(giver);
            }
        }
        // Rounding may leave small places without a giver; what weighs 0 must still never be drawn.
        for &place in &*small {
            if weights[place as usize] == 0.0 {
                let heaviest = weights.iter().position(|&weight| weight >= largest);
                places[place as usize] = (0, heaviest.unwrap_or(0) as u32);
            }
        }
        Ok(true)
    }
}

/// An alias table over all labels.
#[derive(Debug, Clone)]
pub(super) struct Alias(Vec<(u32, u32)>);

impl Alias {
    /// A table for weights that are finite and >= 0; nothing if all are 0.
    ///
    /// # Errors
    /// As [`Builder::build`].
    pub(super) fn new(weights: &[f64]) -> Result<Option<Self>> {
        let mut builder = Builder::default();
        Ok(builder.build(weights)?.then_some(Self(builder.places)))
    }

    /// A random place, and bits to choose with.
    #[inline]
    pub(super) fn draw(&self, rng: &mut Rng) -> (usize, u32) {
        (rng.below(self.0.len() as u32) as usize, rng.bits() as u32)
    }

    /// The label at a place that random bits choose.
    #[inline]
    pub(super) fn read(&self, place: usize, bits: u32) -> u32 {
        let (threshold, other) = self.0[place];
        if bits < threshold { place as u32 } else { other }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn places_add_up_to_the_weights() {
        let weights = [0.0, 1.0, 3.0, 0.0, 1e-3, 2.5, 0.7];
        let table = Alias::new(&weights).unwrap().unwrap();
        let mut mass = [0f64; 7];
        for (place, &(threshold, other)) in table.0.iter().enumerate() {
            let own = f64::from(threshold) / (1u64 << 32) as f64;
            mass[place] += own;
            mass[other as usize] += 1.0 - own;
        }
        let total: f64 = weights.iter().sum();
        for (mass, weight) in mass.iter().zip(weights) {
            assert!((mass / 7.0 - weight / total).abs() < 1e-8, "{mass} {weight}");
        }
        let mut rng = Rng::new(1, &[]);
        for _ in 0..10_000 {
            let (place, bits) = table.draw(&mut rng);
            assert!(weights[table.read(place, bits) as usize] > 0.0);
        }
        assert!(Alias::new(&[0.0, 0.0]).unwrap().is_none());
        assert!(Alias::new(&[]).unwrap().is_none());
        assert!(Alias::new(&[1e308, 1e308]).unwrap().is_some());
    }
}
