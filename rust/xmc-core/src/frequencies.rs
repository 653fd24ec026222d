//! How many positives each label has, in one pass over a matrix.

use crate::error::{Error, Result};
use crate::memory::{collected, reserve, zeroed};
use crate::propensity::{Curve, check_weights};

/// Values of a byte.
const BYTE: usize = 1 << 8;

/// Entries that are checked, then counted, while they are in the cache.
const BLOCK: usize = 4096;

/// Positives of each label.
///
/// Counters are read and written at random, so they are as small as they can be: a byte each, and a
/// list of those that ran over, which is no longer than a 256th of the entries.
pub struct Frequencies {
    low: Vec<u8>,
    /// A label for each time that its byte ran over.
    carries: Vec<i32>,
}

/// How many values of a block there are of a kind; without a way out, so that it is vectorised.
fn count(values: &[f32], kind: impl Fn(f32) -> bool) -> usize {
    values.iter().map(|&value| i32::from(kind(value))).sum::<i32>() as usize
}

impl Frequencies {
    pub(crate) fn new(n_labels: usize) -> Result<Self> {
        Ok(Self { low: zeroed(n_labels)?, carries: Vec::new() })
    }

    /// Counts the arrays of a whole CSR matrix of labels if it is plain: rows are sorted without
    /// duplicates, no label is out of range, no value NaN or below 0. `None` if it is not: then it has
    /// to be looked at row by row, if only to say what is wrong.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn of_plain(
        n_labels: usize,
        indptr: &[i64],
        labels: &[i32],
        values: &[f32],
    ) -> Result<Option<Self>> {
        let covered = indptr.first() == Some(&0) && indptr.last() == Some(&(labels.len() as i64));
        if !covered || values.len() != labels.len() {
            return Ok(None);
        }
        let mut found = Self::new(n_labels)?;
        // Labels may fall, or stay, from one entry to the next only where a row starts.
        let mut starts = indptr.iter().map(|&start| start as usize).peekable();
        let mut last_start = 0;
        for (block, values) in values.chunks(BLOCK).enumerate() {
            let span = block * BLOCK..block * BLOCK + values.len();
            let (own, next) = (&labels[span.clone()], &labels[span.start + 1..]);
            let drops: i32 = own.iter().zip(next).map(|(a, b)| i32::from(a >= b)).sum();
            let (mut allowed, mut rising) = (0, true);
            while let Some(start) = starts.next_if(|&start| start <= span.end) {
                rising &= start >= last_start;
                // Empty rows share their start with the next.
                let counts = start != last_start && start < labels.len();
                allowed += i32::from(counts && labels[start - 1] >= labels[start]);
                last_start = start;
            }
            let plain = rising
                && drops == allowed
                && count(values, |value| value >= 0.0) == values.len()
                && found.add(own, values)?.is_none();
            if !plain {
                return Ok(None);
            }
        }
        Ok(starts.all(|start| start == labels.len()).then_some(found))
    }

    /// Counts the entries with a value above 0; returns the position of the first label out of range
    /// and counts no further.
    pub(crate) fn add(&mut self, labels: &[i32], values: &[f32]) -> Result<Option<usize>> {
        for (block, (labels, values)) in labels.chunks(BLOCK).zip(values.chunks(BLOCK)).enumerate()
        {
            let outside = if count(values, |value| value > 0.0) == values.len() {
                self.add_ones(labels.iter().map(|&label| (label, 1)))?
            } else {
                let ones = values.iter().map(|&value| u8::from(value > 0.0));
                self.add_ones(labels.iter().copied().zip(ones))?
            };
            if let Some(position) = outside {
                return Ok(Some(block * BLOCK + position));
            }
        }
        Ok(None)
    }

    #[inline]
    fn add_ones(&mut self, entries: impl Iterator<Item = (i32, u8)>) -> Result<Option<usize>> {
        for (position, (label, one)) in entries.enumerate() {
            // As u32, a negative label is out of range too.
            let Some(low) = self.low.get_mut(label as u32 as usize) else {
                return Ok(Some(position));
            };
            *low = low.wrapping_add(one);
            if *low < one {
                reserve(&mut self.carries, 1)?;
                self.carries.push(label);
            }
        }
        Ok(None)
    }

    /// The counts.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn counts(self) -> Result<Vec<i64>> {
        let mut counts = collected(self.low.iter().map(|&low| i64::from(low)))?;
        for label in self.carries {
            counts[label as usize] += BYTE as i64;
        }
        Ok(counts)
    }

    /// Writes what [`inv_propensity`](crate::inv_propensity) of the counts returns, without making them.
    ///
    /// # Errors
    /// As there, and [`Error::Length`] if there is not a weight for each label.
    pub fn inv_propensity(
        mut self,
        n_points: usize,
        a: f64,
        b: f64,
        weights: &mut [f64],
    ) -> Result<()> {
        if weights.len() != self.low.len() {
            let (name, expected, found) = ("weights".to_owned(), self.low.len(), weights.len());
            return Err(Error::Length { name, what: "labels", expected, found });
        }
        let curve = Curve::new(n_points, a, b)?;
        let rare: [f64; BYTE] = std::array::from_fn(|count| curve.at(count as i64));
        for (weight, &low) in weights.iter_mut().zip(&self.low) {
            *weight = rare[usize::from(low)];
        }
        self.carries.sort_unstable();
        for carries in self.carries.chunk_by(|a, b| a == b) {
            let label = carries[0] as usize;
            weights[label] = curve.at((usize::from(self.low[label]) + BYTE * carries.len()) as i64);
        }
        check_weights(weights)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{inv_propensity, label_counts};

    /// Rows of one label or two, more of them than a block and a byte hold.
    fn matrix() -> (Vec<i64>, Vec<i32>, Vec<f32>) {
        let (mut indptr, mut indices) = (vec![0], Vec::new());
        for row in 0..3 * BLOCK as i32 + 7 {
            if row % 5 > 0 {
                indices.push(row % 3);
                indices.extend((row % 2 == 0).then_some(3 + row % 700));
            }
            indptr.push(indices.len() as i64);
        }
        let data = (0..indices.len()).map(|at| if at % 11 == 4 { 0.0 } else { 1.0 }).collect();
        (indptr, indices, data)
    }

    #[test]
    fn counts_and_weights_are_those_of_a_loop() {
        let (indptr, indices, mut data) = matrix();
        for ones in [false, true] {
            if ones {
                data.fill(1.0);
            }
            let mut expected = vec![0; 800];
            for (&label, &value) in indices.iter().zip(&data) {
                expected[label as usize] += i64::from(value > 0.0);
            }
            assert!(expected.iter().any(|&count| count > 3 * BYTE as i64));
            assert_eq!(label_counts(800, &indices, &data).unwrap(), expected);
            let n_rows = indptr.len() - 1;
            let found = || Frequencies::of_plain(800, &indptr, &indices, &data).unwrap().unwrap();
            assert_eq!(found().counts().unwrap(), expected);
            let mut weights = vec![0.0; 800];
            found().inv_propensity(n_rows, 0.55, 1.5, &mut weights).unwrap();
            assert_eq!(weights, inv_propensity(&expected, n_rows, 0.55, 1.5).unwrap());
        }
    }

    #[test]
    fn errors() {
        let found = || Frequencies::of_plain(2, &[0, 1], &[1], &[1.0]).unwrap().unwrap();
        let message = |n_points, weights: &mut [f64]| {
            found().inv_propensity(n_points, 0.55, 0.0, weights).unwrap_err().to_string()
        };
        assert_eq!(message(3, &mut [0.0]), "weights: 1 labels, expected 2");
        assert_eq!(message(2, &mut [0.0; 2]), "n_points must be at least 3, not 2");
        let never_seen = "inv_propensity of label 0 must be finite and > 0, not inf";
        assert_eq!(message(3, &mut [0.0; 2]), never_seen);
    }

    #[test]
    fn what_is_not_plain_is_left_to_others() {
        let plain = |indptr: &[i64], indices: &[i32], data: &[f32]| {
            Frequencies::of_plain(800, indptr, indices, data).unwrap().is_some()
        };
        assert!(plain(&[0, 2, 2, 3], &[1, 4, 4], &[1.0, 0.0, f32::INFINITY]));
        assert!(plain(&[0, 0, 0], &[], &[]));
        assert!(!plain(&[0, 3], &[1, 4, 4], &[1.0; 3]));
        assert!(!plain(&[0, 0, 3], &[4, 1, 5], &[1.0; 3]));
        assert!(!plain(&[0, 2], &[1, 4], &[1.0, f32::NAN]));
        assert!(!plain(&[0, 2], &[1, 4], &[-1.0, 1.0]));
        assert!(!plain(&[0, 2], &[1, 800], &[1.0; 2]));
        assert!(!plain(&[0, 2], &[-1, 4], &[1.0; 2]));
        for indptr in [&[][..], &[0], &[1, 2], &[0, 1], &[0, 2, 1, 2], &[0, -1, 2], &[0, 3, 2]] {
            assert!(!plain(indptr, &[1, 4], &[1.0; 2]), "{indptr:?}");
        }
        // A label twice in a row, wherever the border of a block is.
        let (indptr, indices, data) = matrix();
        assert!(plain(&indptr, &indices, &data));
        for at in (1..indices.len()).filter(|&at| !indptr.contains(&(at as i64))).step_by(97) {
            let mut spoilt = indices.clone();
            spoilt[at] = spoilt[at - 1];
            assert!(!plain(&indptr, &spoilt, &data), "{at}");
        }
        let mut long: Vec<i32> = (0..2 * BLOCK as i32).collect();
        let one_row = |labels: &[i32]| {
            let (indptr, ones) = ([0, labels.len() as i64], vec![1.0; labels.len()]);
            Frequencies::of_plain(labels.len(), &indptr, labels, &ones).unwrap().is_some()
        };
        assert!(one_row(&long));
        long[BLOCK] = long[BLOCK - 1];
        assert!(!one_row(&long));
    }
}
