//! Random numbers as a function of where they are used: a generator for each (seed, stream).
//!
//! Drawing for row 17 of epoch 3 uses a generator made for exactly that, so that draws depend on
//! neither the number of threads nor the order of work. The streams are part of the crate's
//! results: changing them changes samples, resamples and walks for a given seed.

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng as _, SeedableRng};

/// A generator of its own for each stream.
#[derive(Debug, Clone)]
pub(crate) struct Rng(Xoshiro256PlusPlus);

impl Rng {
    /// The generator of `stream` (a purpose, an epoch, a row, ...) under `seed`.
    #[inline]
    pub(crate) fn new(seed: u64, stream: &[u64]) -> Self {
        let key = stream.iter().fold(mix(seed), |key, &part| mix(key ^ mix(part)));
        Self(Xoshiro256PlusPlus::seed_from_u64(key))
    }

    /// 64 random bits.
    #[inline]
    pub(crate) fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// An even draw from `0..n`; 0 if `n` is 0. Lemire's method, without bias.
    #[inline]
    pub(crate) fn below(&mut self, n: u32) -> u32 {
        let mut product = u64::from(self.bits() as u32) * u64::from(n);
        if (product as u32) < n {
            let reject = n.wrapping_neg() % n;
            while (product as u32) < reject {
                product = u64::from(self.bits() as u32) * u64::from(n);
            }
        }
        (product >> 32) as u32
    }

    /// An even draw from [0, 1), of 53 bits.
    #[inline]
    pub(crate) fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

/// The finalizer of `SplitMix64`: a bijection in which every bit depends on every other.
#[inline]
pub(crate) fn mix(mut bits: u64) -> u64 {
    bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_and_repeat() {
        let first = |seed, stream: &[u64]| Rng::new(seed, stream).bits();
        assert_eq!(first(1, &[2, 3]), first(1, &[2, 3]));
        let others = [first(2, &[2, 3]), first(1, &[3, 2]), first(1, &[2]), first(1, &[2, 3, 0])];
        assert!(others.iter().all(|&bits| bits != first(1, &[2, 3])));
    }

    #[test]
    fn draws_are_even_and_in_range() {
        let mut rng = Rng::new(0, &[]);
        let mut counts = [0u32; 7];
        for _ in 0..70_000 {
            counts[rng.below(7) as usize] += 1;
            assert!((0.0..1.0).contains(&rng.unit()));
        }
        // Five standard deviations of a count are 463.
        assert!(counts.iter().all(|count| count.abs_diff(10_000) < 463), "{counts:?}");
        assert_eq!((rng.below(1), rng.below(0)), (0, 0));
    }
}
