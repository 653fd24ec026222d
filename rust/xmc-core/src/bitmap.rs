//! Sets of labels, points or features.

use crate::error::Result;
use crate::memory::zeroed;

/// An exact set of labels, or of other numbers from 0: one bit each, cleared one by one.
#[derive(Default)]
pub(crate) struct Bitmap(Vec<u64>);

impl Bitmap {
    pub(crate) fn new(n_labels: usize) -> Result<Self> {
        Ok(Self(zeroed(n_labels.div_ceil(64))?))
    }

    /// Adds a label; false if it was already present.
    #[inline]
    pub(crate) fn insert(&mut self, label: i32) -> bool {
        let (word, bit) = (label as usize / 64, 1 << (label as usize % 64));
        let fresh = self.0[word] & bit == 0;
        self.0[word] |= bit;
        fresh
    }

    #[inline]
    pub(crate) fn contains(&self, label: i32) -> bool {
        self.0[label as usize / 64] >> (label as usize % 64) & 1 == 1
    }

    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// All members: no sorting is needed.
    pub(crate) fn ascending(&self) -> impl Iterator<Item = usize> + '_ {
        let left = |word: u64| (word != 0).then_some(word);
        self.0.iter().enumerate().flat_map(move |(at, &word)| {
            let rests = std::iter::successors(left(word), move |rest| left(rest & (rest - 1)));
            rests.map(move |rest| at * 64 + rest.trailing_zeros() as usize)
        })
    }

    #[inline]
    pub(crate) fn remove(&mut self, label: i32) {
        self.0[label as usize / 64] &= !(1 << (label as usize % 64));
    }
}

/// Words of a filter.
const WORDS: usize = 256;

/// A set with false positives: only the low bits of a label are kept, and
/// 2 KB stay in the first-level cache where a bit for each of a million labels does not.
pub(crate) struct Filter([u64; WORDS]);

impl Filter {
    pub(crate) const fn new() -> Self {
        Self([0; WORDS])
    }

    /// Adds a label; true if it, or another label with the same low bits, was already present.
    #[inline]
    pub(crate) fn insert(&mut self, label: i32) -> bool {
        let word = &mut self.0[label as usize / 64 % WORDS];
        let bit = 1 << (label as usize % 64);
        let met = *word & bit != 0;
        *word |= bit;
        met
    }

    /// Empties a filter that holds these labels and no others.
    #[inline]
    pub(crate) fn clear(&mut self, labels: &[i32]) {
        if labels.len() > WORDS / 4 {
            self.0.fill(0);
            return;
        }
        for &label in labels {
            self.0[label as usize / 64 % WORDS] = 0;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn members_come_once_and_ascending() {
        let mut set = Bitmap::new(130).unwrap();
        for label in [129, 0, 64, 63, 64, 5, 129, 127, 7] {
            set.insert(label);
        }
        set.remove(7);
        assert_eq!(set.ascending().collect::<Vec<_>>(), [0, 5, 63, 64, 127, 129]);
        assert_eq!(set.len(), 6);
        assert_eq!(Bitmap::default().ascending().count(), 0);
    }
}
