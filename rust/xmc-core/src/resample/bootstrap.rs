//! Sums over units drawn with replacement.
//!
//! Drawing n of n units one by one would walk all over memory. Instead the number of draws that fall
//! into each block of units is drawn first (binomial splits down a tree: the joint law of the
//! numbers is the same), and then, block by block, the units within it. A block's terms stay in
//! cache for all resamples of a batch.

use std::ops::Range;

use rayon::prelude::*;

use super::matrix::{BLOCK, BLOCK_BITS, LANES, Lanes, Matrix};
use super::sum_runs;
use crate::error::{Error, Result};
use crate::rng::Rng;

const SPLITS: u64 = u64::from_be_bytes(*b"splits\0\0");
const DRAWS: u64 = u64::from_be_bytes(*b"draws\0\0\0");
/// Draws from 64 random bits.
const PER_WORD: usize = 64 / BLOCK_BITS as usize;
/// Draws made at a time.
const PIECE: usize = 128 * PER_WORD;

/// The sums of every column for each resample of a batch, row-major.
pub(super) fn sums(
    matrix: &Matrix,
    n_units: usize,
    seed: u64,
    batch: &Range<u64>,
    keep_going: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<f64>> {
    let (n_resamples, width) = ((batch.end - batch.start) as usize, matrix.width());
    if width == 0 {
        return Ok(Vec::new());
    }
    let n_blocks = n_units.div_ceil(BLOCK);
    let mut counts = vec![0; n_resamples * n_blocks];
    counts.par_chunks_exact_mut(n_blocks).enumerate().try_for_each(|(i, counts)| {
        if !keep_going() {
            return Err(Error::Interrupted);
        }
        let mut rng = Rng::new(seed, &[SPLITS, batch.start + i as u64]);
        split(&mut rng, n_units as u32, n_units, counts);
        Ok(())
    })?;
    sum_runs(n_units, n_resamples * width, |blocks, sums| {
        for block in blocks {
            if !keep_going() {
                return Err(Error::Interrupted);
            }
            let size = BLOCK.min(n_units - block * BLOCK);
            for (i, sums) in sums.chunks_exact_mut(width).enumerate() {
                let mut rng = Rng::new(seed, &[DRAWS, batch.start + i as u64, block as u64]);
                let mut left = counts[i * n_blocks + block] as usize;
                let mut drawn = [0; PIECE];
                while left > 0 {
                    let piece = &mut drawn[..left.min(PIECE)];
                    draw(&mut rng, size, piece);
                    for (terms, sums) in matrix.block(block).zip(sums.chunks_exact_mut(LANES)) {
                        let total = gather(terms, piece);
                        sums.iter_mut().zip(total.0).for_each(|(sum, part)| *sum += part);
                    }
                    left -= piece.len();
                }
            }
        }
        Ok(())
    })
}

/// Spreads `n_draws` evenly over `n_units` units and counts those in each block.
fn split(rng: &mut Rng, n_draws: u32, n_units: usize, counts: &mut [u32]) {
    let n_blocks = counts.len();
    if n_blocks <= 1 {
        counts.fill(n_draws);
        return;
    }
    // Halves wherever possible: a half takes one random bit a draw.
    let left = n_blocks.next_power_of_two() / 2;
    let n_left = left * BLOCK;
    let first = binomial(rng, n_draws, n_left as u64, n_units as u64);
    let (head, tail) = counts.split_at_mut(left);
    split(rng, first, n_left, head);
    split(rng, n_draws - first, n_units - n_left, tail);
}

/// How many of `n` uniform numbers lie below `part / whole`, exactly.
///
/// The numbers are made bit by bit, all at once, and compared with the binary digits of the
/// fraction. All that matters is how many of those still equal to it have a 1 next.
fn binomial(rng: &mut Rng, n: u32, part: u64, whole: u64) -> u32 {
    let (mut equal, mut below, mut rest) = (n, 0, part);
    while equal > 0 && rest > 0 {
        let ones = heads(rng, equal);
        rest *= 2;
        if rest >= whole {
            rest -= whole;
            below += equal - ones;
            equal = ones;
        } else {
            equal -= ones;
        }
    }
    below
}

/// Heads of `n` coins.
fn heads(rng: &mut Rng, n: u32) -> u32 {
    let mut heads: u32 = (0..n / 64).map(|_| rng.bits().count_ones()).sum();
    if n % 64 > 0 {
        heads += (rng.bits() >> (64 - n % 64)).count_ones();
    }
    heads
}

/// Fills `drawn` with even draws from `0..size`.
#[inline]
fn draw(rng: &mut Rng, size: usize, drawn: &mut [u16]) {
    if size < BLOCK {
        drawn.fill_with(|| rng.below(size as u32) as u16);
        return;
    }
    for some in drawn.chunks_mut(PER_WORD) {
        let mut bits = rng.bits();
        for unit in some {
            *unit = (bits % BLOCK as u64) as u16;
            bits >>= BLOCK_BITS;
        }
    }
}

/// The sum of the drawn units' terms: draws in turn go to one of two sums, whose additions overlap.
#[inline]
fn gather(terms: &[Lanes], drawn: &[u16]) -> Lanes {
    let Ok(terms) = <&[Lanes; BLOCK]>::try_from(terms) else { return Lanes::default() };
    let (mut even, mut odd) = (Lanes::default(), Lanes::default());
    let pairs = drawn.chunks_exact(2);
    if let [last] = pairs.remainder() {
        even.add(&terms[usize::from(*last) % BLOCK]);
    }
    for pair in pairs {
        even.add(&terms[usize::from(pair[0]) % BLOCK]);
        odd.add(&terms[usize::from(pair[1]) % BLOCK]);
    }
    even.add(&odd);
    even
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_add_up_and_have_the_binomial_moments() {
        let (n_units, n) = (5 * BLOCK + 17, 400);
        let shares: Vec<f64> = (0..6)
            .map(|block| BLOCK.min(n_units - block * BLOCK) as f64 / n_units as f64)
            .collect();
        let (mut total, mut squares) = ([0.0; 6], [0.0; 6]);
        for resample in 0..n {
            let mut counts = [0; 6];
            split(&mut Rng::new(3, &[resample]), n_units as u32, n_units, &mut counts);
            assert_eq!(counts.iter().sum::<u32>(), n_units as u32);
            for block in 0..6 {
                let deviation = f64::from(counts[block]) - n_units as f64 * shares[block];
                total[block] += deviation;
                squares[block] += deviation * deviation;
            }
        }
        for block in 0..6 {
            let variance = n_units as f64 * shares[block] * (1.0 - shares[block]);
            assert!((total[block] / n as f64).abs() < 5.0 * (variance / n as f64).sqrt());
            assert!((squares[block] / n as f64 / variance - 1.0).abs() < 0.4, "{block}");
        }
    }

    #[test]
    fn binomial_has_its_law() {
        // Two numbers below 1/3: 4/9, 4/9, 1/9 for none, one, both.
        let mut counts = [0u32; 3];
        let mut rng = Rng::new(0, &[]);
        for _ in 0..90_000 {
            counts[binomial(&mut rng, 2, 1, 3) as usize] += 1;
        }
        for (count, expected) in counts.into_iter().zip([40_000, 40_000, 10_000]) {
            assert!(count.abs_diff(expected) < 800, "{counts:?}");
        }
        assert_eq!(binomial(&mut rng, 9, 0, 3), 0);
    }
}
