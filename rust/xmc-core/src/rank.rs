//! The order of every ranking: larger score first, equal scores by smaller label.

use crate::csr::CsrPattern;
use crate::error::{Error, Result};
use crate::memory::{reserve, zeroed};

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// A score type, `f32` or `f64`. Ranking never rounds, for rounding creates ties.
pub trait Score: sealed::Sealed + Copy + PartialOrd + Send + Sync {
    /// An integer whose ascending order is the ranking.
    #[doc(hidden)]
    type Key: Ord + Copy + Send + Sync;
    /// Whether the score cannot be ranked.
    #[doc(hidden)]
    fn is_nan(self) -> bool;
    /// The key of a label with this score.
    #[doc(hidden)]
    fn key(self, label: i32) -> Self::Key;
    /// The label of a key.
    #[doc(hidden)]
    fn label(key: Self::Key) -> i32;
    /// The score of a key, for output.
    #[doc(hidden)]
    fn score(key: Self::Key) -> f32;
    /// The score of a key, with all its bits.
    #[doc(hidden)]
    fn value(key: Self::Key) -> f64;
}

impl Score for f32 {
    type Key = u64;

    #[inline]
    fn is_nan(self) -> bool {
        self.is_nan()
    }

    #[inline]
    fn key(self, label: i32) -> u64 {
        // Adding zero turns -0.0 into 0.0: they are equal and must tie.
        let bits = (self + 0.0).to_bits();
        let descending = if bits >> 31 == 0 { !bits ^ (1 << 31) } else { bits };
        u64::from(descending) << 32 | u64::from(label as u32)
    }

    #[inline]
    fn label(key: u64) -> i32 {
        key as u32 as i32
    }

    #[inline]
    fn score(key: u64) -> f32 {
        let descending = (key >> 32) as u32;
        let positive = descending >> 31 == 0;
        f32::from_bits(if positive { !descending ^ (1 << 31) } else { descending })
    }

    #[inline]
    fn value(key: u64) -> f64 {
        f64::from(Self::score(key))
    }
}

impl Score for f64 {
    type Key = u128;

    #[inline]
    fn is_nan(self) -> bool {
        self.is_nan()
    }

    #[inline]
    fn key(self, label: i32) -> u128 {
        let bits = (self + 0.0).to_bits();
        let descending = if bits >> 63 == 0 { !bits ^ (1 << 63) } else { bits };
        u128::from(descending) << 32 | u128::from(label as u32)
    }

    #[inline]
    fn label(key: u128) -> i32 {
        key as u32 as i32
    }

    #[inline]
    fn score(key: u128) -> f32 {
        Self::value(key) as f32
    }

    #[inline]
    fn value(key: u128) -> f64 {
        let descending = (key >> 32) as u64;
        let positive = descending >> 63 == 0;
        f64::from_bits(if positive { !descending ^ (1 << 63) } else { descending })
    }
}

/// Keeps the `k` smallest of `keys`, in no order.
#[inline]
pub(crate) fn keep_best<K: Ord>(keys: &mut Vec<K>, k: usize) {
    if k == 0 {
        keys.clear();
    } else if keys.len() > k {
        keys.select_nth_unstable(k - 1);
        keys.truncate(k);
    }
}

/// The rank of each score within its row, from 0: the largest score first, equal ones in the order in
/// which they stand, NaN last. Row i has the scores `indptr[i]..indptr[i + 1]`.
///
/// # Errors
/// [`Error::Length`] if the rows do not cover the scores one after the other; [`Error::OutOfMemory`].
pub fn ranks_in_rows(indptr: &[i64], scores: &[f32]) -> Result<Vec<i32>> {
    let wrong = |found| {
        let (name, what, expected) = ("indptr".to_owned(), "scores in rows", scores.len());
        Err(Error::Length { name, what, expected, found })
    };
    let (mut ranks, mut keys, mut start) = (zeroed(scores.len())?, Vec::new(), 0);
    for pair in indptr.windows(2) {
        let end = usize::try_from(pair[1]).unwrap_or(0);
        let row = if pair[0] == start as i64 { scores.get(start..end) } else { None };
        let Some(row) = row else { return wrong(start) };
        keys.clear();
        reserve(&mut keys, row.len())?;
        keys.extend(row.iter().zip(0..).map(|(score, at)| {
            let last = u64::from(u32::MAX) << 32 | u64::from(at as u32);
            if score.is_nan() { last } else { score.key(at) }
        }));
        keys.sort_unstable();
        for (rank, &key) in (0..).zip(keys.iter()) {
            ranks[start + f32::label(key) as usize] = rank;
        }
        start = end;
    }
    if start == scores.len() { Ok(ranks) } else { wrong(start) }
}

/// The labels excluded from one row at a time.
#[derive(Default)]
pub(crate) struct Excluded(Vec<i32>);

impl Excluded {
    /// Takes the labels of a row, or none.
    pub(crate) fn load(&mut self, pattern: Option<CsrPattern<'_>>, row: usize) {
        self.0.clear();
        if let Some(pattern) = pattern {
            self.0.extend_from_slice(pattern.row(row));
            self.0.sort_unstable();
            self.0.dedup();
        }
    }

    #[inline]
    pub(crate) fn contains(&self, label: i32) -> bool {
        !self.0.is_empty() && self.0.binary_search(&label).is_ok()
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = i32> + '_ {
        self.0.iter().copied()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ranks_of_scores() {
        let scores = [0.5, f32::NAN, 2.0, 0.5, 0.0, -0.0, f32::NEG_INFINITY];
        let ranks = ranks_in_rows(&[0, 4, 4, 7], &scores).unwrap();
        assert_eq!(ranks, [1, 3, 0, 2, 0, 1, 2]);
        assert!(ranks_in_rows(&[0], &[]).unwrap().is_empty());
        for bad in [&[0, 3][..], &[0, 8], &[1, 7], &[0, 5, 4, 7], &[-1, 7], &[0, -1]] {
            assert!(ranks_in_rows(bad, &scores).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn keys_follow_scores_then_labels() {
        let scores =
            [f32::INFINITY, 2.0, 1.0, f32::MIN_POSITIVE, 0.0, -0.5, f32::MIN, f32::NEG_INFINITY];
        for pair in scores.windows(2) {
            assert!(pair[0].key(9) < pair[1].key(0));
            assert!(f64::from(pair[0]).key(9) < f64::from(pair[1]).key(0));
        }
        for score in scores {
            assert!(score.key(3) < score.key(4));
            assert_eq!(f32::score(score.key(7)).to_bits(), score.to_bits());
            assert_eq!(f64::score(f64::from(score).key(7)).to_bits(), score.to_bits());
            assert_eq!((f32::label(score.key(7)), f64::label(f64::from(score).key(7))), (7, 7));
        }
        assert_eq!((-0.0f32).key(1), 0.0f32.key(1));
        assert_eq!((-0.0f64).key(1), 0.0f64.key(1));
    }
}
