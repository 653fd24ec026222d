//! Sums are made of integers: multiples of 2^-48, or of a 2^-50th of the largest weight.
//!
//! Integers add up to the same sum in any order, which gives the same bits for any number of threads
//! and any cut of the stream. Equal numerators and denominators are equal integers, so a perfect
//! ranking scores exactly 1.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::error::{Error, Result};

/// Fractional bits of ranks' discounts, shares and reciprocals.
const BITS: u32 = 48;

/// The number 1.
pub(super) const ONE: i64 = 1 << BITS;

/// Bits of the largest weight.
const WEIGHT_BITS: i32 = 50;

/// The product of two non-negative numbers, one of them in units of [`ONE`].
#[inline]
pub(super) fn times(a: i64, b: i64) -> i64 {
    let product = u128::from(a as u64) * u128::from(b as u64);
    ((product + (1 << (BITS - 1))) >> BITS) as i64
}

/// `a / b` in units of [`ONE`], exactly [`ONE`] where they are equal, and growing with `a`.
#[inline]
pub(super) fn quotient(a: i64, b: i64) -> i64 {
    ((a as f64 / b as f64) * ONE as f64) as i64
}

/// The quotient of two sums, with no rounding of its whole part.
pub(super) fn ratio(a: i128, b: i128) -> f64 {
    (a / b) as f64 + (a % b) as f64 / b as f64
}

/// The largest weight over the smallest: one more bit here is a digit less there.
const MAX_SPAN: f64 = 1_048_576.0;

/// Discounts of the ranks and their sums.
#[derive(Debug, PartialEq)]
pub(super) struct Discounts {
    /// `1 / log2(r + 1)` of rank r, stored at `r - 1`.
    pub(super) at: Vec<i64>,
    /// Sum of the first m discounts, stored at `m - 1`.
    pub(super) ideal: Vec<i64>,
    /// The inverse of those sums.
    pub(super) inverse: Vec<i64>,
}

impl Discounts {
    pub(super) fn new(max_k: usize) -> Self {
        let discount = |r: usize| (ONE as f64 / (r as f64).log2()).round() as i64;
        let at: Vec<i64> = (2..max_k + 2).map(discount).collect();
        let ideal = at.iter().scan(0, |sum, discount| {
            *sum += discount;
            Some(*sum)
        });
        let ideal: Vec<i64> = ideal.collect();
        let inverse = ideal.iter().map(|&sum| quotient(ONE, sum)).collect();
        Self { at, ideal, inverse }
    }

    /// How many rows can be added before a cell of 64 bits could overflow: the largest term is a
    /// row's sum of discounted weights, moved at once.
    pub(super) fn rows_before_overflow(&self) -> usize {
        let largest = self.ideal.last().map_or(1, |sum| sum / ONE + 1) << WEIGHT_BITS;
        (i64::MAX / 2 / largest).clamp(1, 4096) as usize
    }
}

/// The class of each label. The table is read at random, so it is as narrow as it can be.
#[derive(Debug)]
enum Classes {
    Narrow(Vec<u16>),
    Wide(Vec<u32>),
}

/// Label weights in integers, by class: labels of equal weight share a class, and classes are
/// numbered by falling weight. There are few classes (as many as label frequencies), so that the
/// tables behind them stay in the cache, and sorting labels by weight is sorting small integers.
#[derive(Debug)]
pub(super) struct Weights {
    class: Classes,
    fixed: Vec<i64>,
    /// The value of 1 in `fixed`.
    pub(super) unit: f64,
}

impl Weights {
    /// Of finite, positive weights.
    ///
    /// # Errors
    /// [`Error::Parameter`] if the smallest would lose too many bits beside the largest.
    pub(super) fn new(weights: &[f64]) -> Result<Self> {
        // Classes in the order of first sight, then renumbered.
        let mut seen: HashMap<u64, u32, BuildHasherDefault<BitsHasher>> = HashMap::default();
        let mut values = Vec::new();
        let mut class = Vec::with_capacity(weights.len());
        for &weight in weights {
            class.push(*seen.entry(weight.to_bits()).or_insert_with(|| {
                values.push(weight);
                values.len() as u32 - 1
            }));
        }
        let mut order: Vec<u32> = (0..values.len() as u32).collect();
        order.sort_unstable_by(|&a, &b| values[b as usize].total_cmp(&values[a as usize]));
        let mut renumbered = vec![0; order.len()];
        for (new, &old) in (0..).zip(&order) {
            renumbered[old as usize] = new;
        }
        let class = class.iter().map(|&class| renumbered[class as usize]);
        let class = if order.len() <= usize::from(u16::MAX) + 1 {
            Classes::Narrow(class.map(|class| class as u16).collect())
        } else {
            Classes::Wide(class.collect())
        };
        let value = |old: Option<&u32>| old.map_or(1.0, |&old| values[old as usize]);
        let (largest, smallest) = (value(order.first()), value(order.last()));
        if largest / smallest > MAX_SPAN {
            let (name, rule) = ("inv_propensity", "must span a factor of 2^20 at most");
            return Err(Error::Parameter { name, rule, value: (largest / smallest).to_string() });
        }
        // The power of two above the largest weight; in two steps, as it may overflow by itself.
        let exponent = largest.log2().floor() as i32 + 1 - WEIGHT_BITS;
        let half = 2f64.powi(exponent / 2);
        let rest = 2f64.powi(exponent - exponent / 2);
        let fixed = order.iter().map(|old| (value(Some(old)) / half / rest).round() as i64);
        Ok(Self { class, fixed: fixed.collect(), unit: half * rest })
    }

    /// Number of classes.
    pub(super) fn len(&self) -> usize {
        self.fixed.len()
    }

    /// The weight of a class.
    #[inline]
    pub(super) fn of(&self, class: u32) -> i64 {
        self.fixed[class as usize]
    }

    /// Appends the classes of labels.
    #[inline]
    pub(super) fn gather(&self, labels: &[i32], out: &mut Vec<u32>) {
        let labels = labels.iter().map(|&label| label as usize);
        match &self.class {
            Classes::Narrow(class) => out.extend(labels.map(|label| u32::from(class[label]))),
            Classes::Wide(class) => out.extend(labels.map(|label| class[label])),
        }
    }
}

/// Hashes the bits of a float. A million labels have a few thousand weights, and looking each of
/// them up should cost no more than reading it.
#[derive(Default)]
struct BitsHasher(u64);

impl Hasher for BitsHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, bits: u64) {
        self.0 = (self.0 ^ bits ^ bits >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
}
