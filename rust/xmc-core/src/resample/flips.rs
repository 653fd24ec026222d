//! Sums of terms with random signs.
//!
//! A byte of random bits gives the signs of eight units. The 256 signed sums of eight units are
//! tabled once and serve all resamples of a batch, each with one addition (the method of the four
//! Russians).

use std::ops::Range;

use super::matrix::{BLOCK, LANES, Lanes, Matrix};
use super::sum_runs;
use crate::error::{Error, Result};
use crate::rng::Rng;

const FLIPS: u64 = u64::from_be_bytes(*b"flips\0\0\0");
/// Units whose signs are one byte.
const GROUP: usize = 8;
/// Random words for the signs of a block.
const WORDS: usize = BLOCK / 64;

/// The sums of every column for each resample of a batch, row-major.
pub(super) fn sums(
    matrix: &Matrix,
    n_units: usize,
    seed: u64,
    batch: &Range<u64>,
    keep_going: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<f64>> {
    let (n_resamples, width) = ((batch.end - batch.start) as usize, matrix.width());
    sum_runs(n_units, n_resamples * width, |blocks, sums| {
        let mut signs = vec![0; WORDS * n_resamples];
        let mut table = [Lanes::default(); 256];
        let mut part = vec![Lanes::default(); n_resamples];
        for block in blocks {
            if !keep_going() {
                return Err(Error::Interrupted);
            }
            for (i, resample) in batch.clone().enumerate() {
                let mut rng = Rng::new(seed, &[FLIPS, resample, block as u64]);
                (0..WORDS).for_each(|word| signs[word * n_resamples + i] = rng.bits());
            }
            for (panel, terms) in matrix.block(block).enumerate() {
                part.fill(Lanes::default());
                for (group, terms) in terms.chunks_exact(GROUP).enumerate() {
                    fill(&mut table, terms);
                    let (word, shift) = (group / 8, 8 * (group % 8));
                    let signs = &signs[word * n_resamples..(word + 1) * n_resamples];
                    for (part, signs) in part.iter_mut().zip(signs) {
                        part.add(&table[(signs >> shift) as usize % 256]);
                    }
                }
                for (part, sums) in part.iter().zip(sums.chunks_exact_mut(width)) {
                    let sums = sums[panel * LANES..].iter_mut();
                    sums.zip(part.0).for_each(|(sum, part)| *sum += part);
                }
            }
        }
        Ok(())
    })
}

/// Sums of eight terms for every choice of signs; a set bit is a plus.
fn fill(table: &mut [Lanes; 256], terms: &[Lanes]) {
    let mut all_minus = Lanes::default();
    for term in terms {
        for lane in 0..LANES {
            all_minus.0[lane] -= term.0[lane];
        }
    }
    table[0] = all_minus;
    for signs in 1..table.len() {
        let mut sum = table[signs & (signs - 1)];
        let term = &terms[signs.trailing_zeros() as usize % GROUP];
        for lane in 0..LANES {
            sum.0[lane] += 2.0 * term.0[lane];
        }
        table[signs] = sum;
    }
}
