//! The part of W that one point and some labels look at.

use std::cell::Cell;

use rayon::prelude::*;

use crate::csr::{CsrPattern, CsrView};
use crate::error::Result;
use crate::lexical::LazyRows;
use crate::memory::{SPARE, reserve, with_room, zeroed};

/// No slot.
const NONE: u32 = u32::MAX;
/// Points handed to a thread at a time.
const BLOCK: usize = 64;

/// Points, labels, and the pairs of features that W holds.
#[derive(Clone, Copy)]
pub(super) struct Given<'a> {
    pub x: CsrView<'a>,
    /// Checked before.
    pub z: LazyRows<'a>,
    /// Checked before; its values do not count.
    pub support: LazyRows<'a>,
}

/// An entry of W: its position, and the slot of its label feature.
type Hit = (u32, u32);
/// The same in half of the memory: its position in the row of its point feature, and the slot.
pub(super) type ShortHit = (u16, u16);

/// What a label feature adds to scores.
#[derive(Clone, Copy, Default)]
struct Slot {
    /// `u_d`: the sum of `x_c w_cd`.
    score: f64,
    /// `s_d`: the sum of `x_c^2`.
    square: f64,
    /// W has still to move by `x_c` times this.
    change: f64,
}

thread_local! {
    /// What `scores_of` left on this thread: the slots alone are megabytes.
    static LEFT: Cell<Option<Local>> = const { Cell::new(None) };
}

/// The part of W that one point and some labels look at: each label feature has a slot.
#[derive(Default)]
pub(super) struct Local {
    /// The slot of each label feature, or `NONE`.
    slots: Vec<u32>,
    columns: Vec<i32>,
    /// Label after label: slots and values; label i ends at `ends[i]`.
    cells: Vec<(u32, f32)>,
    ends: Vec<usize>,
    /// Feature after feature of the point: those of its i-th feature end at `hit_ends[i]`.
    hits: Vec<Hit>,
    hit_ends: Vec<u32>,
    values: Vec<f32>,
    sums: Vec<Slot>,
}

impl Local {
    pub fn new(n_features: usize) -> Result<Self> {
        let mut local = Self::default();
        local.widen(n_features)?;
        Ok(local)
    }

    /// Makes room for more features. The slots of `columns` are freed by `place`, the others are.
    fn widen(&mut self, n_features: usize) -> Result<()> {
        if let Some(more) = n_features.checked_sub(self.slots.len()) {
            reserve(&mut self.slots, more)?;
            self.slots.resize(n_features, NONE);
        }
        Ok(())
    }

    /// Gives the features of labels their slots.
    pub fn place(&mut self, given: &Given<'_>, labels: &[i32]) -> Result<()> {
        for column in self.columns.drain(..) {
            self.slots[column as usize] = NONE;
        }
        self.cells.clear();
        self.ends.clear();
        for &label in labels {
            let (columns, values) = given.z.get(label as usize)?;
            for (&column, &value) in columns.iter().zip(values) {
                let slot = &mut self.slots[column as usize];
                if *slot == NONE {
                    *slot = self.columns.len() as u32;
                    self.columns.push(column);
                }
                self.cells.push((*slot, value));
            }
            self.ends.push(self.cells.len());
        }
        Ok(())
    }

    /// Looks for the entries of W, by ascending point feature.
    pub fn find(&mut self, given: &Given<'_>, point: usize) -> Result<()> {
        self.hits.clear();
        self.hit_ends.clear();
        for &column in given.x.row(point).0 {
            let first = given.support.start(column as usize);
            for (at, &other) in given.support.get(column as usize)?.0.iter().enumerate() {
                let slot = self.slots[other as usize];
                if slot != NONE {
                    self.hits.push(((first + at) as u32, slot));
                }
            }
            self.hit_ends.push(self.hits.len() as u32);
        }
        Ok(())
    }

    /// Takes the entries of W as they were kept, and where those of each feature of the point end.
    pub fn take(&mut self, given: &Given<'_>, point: usize, hits: &[ShortHit], ends: &[u32]) {
        self.hits.clear();
        let mut from = 0;
        for (&column, &end) in given.x.row(point).0.iter().zip(ends) {
            let first = given.support.start(column as usize) as u32;
            let own = hits[from..end as usize].iter();
            self.hits.extend(own.map(|&(at, slot)| (first + u32::from(at), u32::from(slot))));
            from = end as usize;
        }
        self.hit_ends.clear();
        self.hit_ends.extend_from_slice(ends);
    }

    /// How many entries of W were found.
    pub fn n_hits(&self) -> usize {
        self.hits.len()
    }

    /// Appends the entries of W and where those of each feature of the point end; false, and nothing is appended,
    /// if a number of one is too large to be kept short.
    pub fn keep(
        &self,
        given: &Given<'_>,
        point: usize,
        hits: &mut Vec<ShortHit>,
        ends: &mut Vec<u32>,
    ) -> Result<bool> {
        let n_before = hits.len();
        reserve(hits, self.hits.len())?;
        let mut from = 0;
        for (&column, &end) in given.x.row(point).0.iter().zip(&self.hit_ends) {
            let first = given.support.start(column as usize) as u32;
            for &(at, slot) in &self.hits[from..end as usize] {
                let (Ok(at), Ok(slot)) = (u16::try_from(at - first), u16::try_from(slot)) else {
                    hits.truncate(n_before);
                    return Ok(false);
                };
                hits.push((at, slot));
            }
            from = end as usize;
        }
        reserve(ends, self.hit_ends.len())?;
        ends.extend_from_slice(&self.hit_ends);
        Ok(true)
    }

    /// Reads the weights.
    pub fn read<W: Copy + Into<f64>>(&mut self, given: &Given<'_>, point: usize, weights: &[W]) {
        self.values.clear();
        self.values.extend_from_slice(given.x.row(point).1);
        self.sums.clear();
        self.sums.resize(self.columns.len(), Slot::default());
        let mut first = 0;
        for (&value, &end) in self.values.iter().zip(&self.hit_ends) {
            let value = f64::from(value);
            for &(at, slot) in &self.hits[first..end as usize] {
                let sums = &mut self.sums[slot as usize];
                sums.score += value * weights[at as usize].into();
                sums.square += value * value;
            }
            first = end as usize;
        }
    }

    fn cells(&self, label: usize) -> std::ops::Range<usize> {
        let first = if label == 0 { 0 } else { self.ends[label - 1] };
        first..self.ends[label]
    }

    /// The score of a label, and the squared length of its products with the point.
    pub fn score(&self, label: usize) -> (f64, f64) {
        let (mut score, mut square) = (0.0, 0.0);
        for &(slot, value) in &self.cells[self.cells(label)] {
            let value = f64::from(value);
            let sums = &self.sums[slot as usize];
            score += sums.score * value;
            square += sums.square * value * value;
        }
        (score, square)
    }

    /// Moves W by `step` times the products of the point and a label.
    pub fn step(&mut self, label: usize, step: f64) {
        let span = self.cells(label);
        for &(slot, value) in &self.cells[span] {
            let change = step * f64::from(value);
            let sums = &mut self.sums[slot as usize];
            sums.score += change * sums.square;
            sums.change += change;
        }
    }

    /// Writes all steps to the weights.
    pub fn write(&self, weights: &mut [f64]) {
        let mut first = 0;
        for (&value, &end) in self.values.iter().zip(&self.hit_ends) {
            let value = f64::from(value);
            for &(at, slot) in &self.hits[first..end as usize] {
                weights[at as usize] += value * self.sums[slot as usize].change;
            }
            first = end as usize;
        }
    }
}

/// The scores `x' W z` of pairs, one for each stored entry of `pairs`. Their sums depend on the pair alone.
pub(super) fn scores_of<W: Copy + Into<f64> + Sync>(
    given: &Given<'_>,
    weights: &[W],
    pairs: CsrPattern<'_>,
) -> Result<Vec<f64>> {
    let n_points = pairs.n_rows();
    let blocks = (0..n_points).step_by(BLOCK).map(|first| first..(first + BLOCK).min(n_points));
    let lengths = blocks.clone().map(|block| block.map(|row| pairs.row(row).len()).sum::<usize>());
    let mut scores = zeroed(lengths.clone().sum())?;
    let mut tasks = with_room(n_points.div_ceil(BLOCK))?;
    let mut rest = &mut scores[..];
    for (block, length) in blocks.zip(lengths) {
        let (own, tail) = rest.split_at_mut(length);
        tasks.push((block, own));
        rest = tail;
    }
    let done: Vec<Result<()>> = tasks
        .into_par_iter()
        .map(|(block, scores)| {
            let mut local = LEFT.take().unwrap_or_default();
            local.widen(given.z.n_cols())?;
            let mut scores = scores.iter_mut();
            for point in block {
                local.place(given, pairs.row(point))?;
                local.find(given, point)?;
                local.read(given, point, weights);
                for (label, score) in (0..pairs.row(point).len()).zip(&mut scores) {
                    *score = local.score(label).0;
                }
            }
            if local.slots.len() <= SPARE {
                LEFT.set(Some(local));
            }
            Ok(())
        })
        .collect();
    done.into_iter().collect::<Result<()>>()?;
    Ok(scores)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn entries_that_are_kept_come_back_unless_their_numbers_are_too_large() {
        let long = 1 << 16;
        let columns: Vec<i32> = (0..=long).collect();
        let support = [&[0, 2, 5][..], &columns].concat();
        let ends = [0, 3, 3, support.len() as i64];
        let ones = vec![1.0f32; support.len()];
        let n = columns.len();
        let support = CsrView::of_features("support", n, &ends, &support, &ones).unwrap();
        let of_labels = [2, 5, long];
        let z = CsrView::of_features("z", n, &[0, 2, 3], &of_labels, &[1.0; 3]).unwrap();
        let x = CsrView::of_features("x", 3, &[0, 3], &[0, 1, 2], &[1.0; 3]).unwrap();
        let given = Given { x, z: z.into(), support: support.into() };
        let mut local = Local::new(n).unwrap();
        let (mut hits, mut hit_ends) = (vec![(9, 9)], vec![]);

        local.place(&given, &[0]).unwrap();
        local.find(&given, 0).unwrap();
        let found = (local.hits.clone(), local.hit_ends.clone());
        assert_eq!(found, (vec![(1, 0), (2, 1), (5, 0), (8, 1)], vec![2, 2, 4]));
        assert!(local.keep(&given, 0, &mut hits, &mut hit_ends).unwrap());
        assert_eq!(hits[1..], [(1, 0), (2, 1), (2, 0), (5, 1)]);
        local.find(&given, 0).unwrap();
        local.take(&given, 0, &hits[1..], &hit_ends);
        assert_eq!((local.hits.clone(), local.hit_ends.clone()), found);

        // The last column of the long row is too far behind.
        local.place(&given, &[1]).unwrap();
        local.find(&given, 0).unwrap();
        assert_eq!(local.n_hits(), 1);
        assert!(!local.keep(&given, 0, &mut hits, &mut hit_ends).unwrap());
        assert_eq!((hits.len(), hit_ends.len()), (5, 3));
    }
}
