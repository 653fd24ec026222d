//! Merging the rankings of label shards.

use super::{ROWS_PER_TASK, TopK, bad_k};
use crate::error::{Error, Fault, Result};
use crate::rank::Score;
use rayon::prelude::*;

/// Comes after every label; no label has it, for a NaN score is refused.
const END: u64 = u64::MAX;

/// Ranked rows to merge: row-major, best first, padded with -1, as [`TopK`] holds them.
#[derive(Debug, Clone, Copy)]
pub struct Ranked<'a> {
    width: usize,
    ids: &'a [i32],
    scores: &'a [f32],
}

impl<'a> Ranked<'a> {
    /// Wraps `n_rows` rows of `width` labels and scores.
    ///
    /// # Errors
    /// [`Error::Length`] if an array is not `n_rows * width` long.
    pub fn new(n_rows: usize, width: usize, ids: &'a [i32], scores: &'a [f32]) -> Result<Self> {
        let expected = n_rows.saturating_mul(width);
        for (name, found) in [("ids", ids.len()), ("scores", scores.len())] {
            if found != expected {
                let (name, what) = (name.to_owned(), "values");
                return Err(Error::Length { name, what, expected, found });
            }
        }
        Ok(Self { width, ids, scores })
    }

    /// Labels a row.
    pub(crate) const fn width(&self) -> usize {
        self.width
    }

    /// Cells of all rows.
    pub(crate) const fn n_cells(&self) -> usize {
        self.ids.len()
    }

    /// The labels and scores of a row, padding included.
    pub(crate) fn cells(&self, row: usize) -> (&'a [i32], &'a [f32]) {
        let span = row * self.width..(row + 1) * self.width;
        (&self.ids[span.clone()], &self.scores[span])
    }

    fn row(&self, row: usize) -> Rest<'a> {
        let (ids, scores) = self.cells(row);
        Rest { ids, scores }
    }
}

/// Merges the rankings of disjoint sets of labels, row by row, into the k best of all of them.
///
/// Each row is read only as far as needed, and only that part is checked.
///
/// # Errors
/// [`Error::Parameter`] for `k = 0`; [`Error::Length`] for a shard without `n_rows` rows;
/// [`Error::Content`] if a NaN score, a label out of order or a label of two shards comes up.
pub fn merge_topk(n_rows: usize, shards: &[Ranked<'_>], k: usize) -> Result<TopK> {
    for shard in shards {
        Ranked::new(n_rows, shard.width, shard.ids, shard.scores)?;
    }
    let mut top = TopK::padded(n_rows, k)?;
    let cells_per_task = k.checked_mul(ROWS_PER_TASK).ok_or_else(|| bad_k(k))?;
    let longest = shards.iter().map(|shard| shard.width).sum::<usize>().min(k);
    let faults: Vec<Result<()>> = top
        .ids
        .par_chunks_mut(cells_per_task)
        .zip(top.scores.par_chunks_mut(cells_per_task))
        .enumerate()
        .map(|(task, (ids, scores))| {
            let mut merger = Merger::new(shards.len(), longest);
            for (i, (ids, scores)) in ids.chunks_mut(k).zip(scores.chunks_mut(k)).enumerate() {
                let row = task * ROWS_PER_TASK + i;
                merger
                    .merge(shards, row, ids, scores)
                    .map_err(|fault| Error::at_row("shards", row, fault))?;
            }
            Ok(())
        })
        .collect();
    faults.into_iter().collect::<Result<()>>()?;
    Ok(top)
}

/// The part of a shard's row that is not merged yet.
#[derive(Clone, Copy)]
struct Rest<'a> {
    ids: &'a [i32],
    scores: &'a [f32],
}

impl Rest<'_> {
    /// Takes the key of the next label, or [`END`].
    #[inline]
    fn next(&mut self) -> std::result::Result<u64, Fault> {
        let (Some((&id, ids)), Some((&score, scores))) =
            (self.ids.split_first(), self.scores.split_first())
        else {
            return Ok(END);
        };
        if id < 0 {
            return Ok(END);
        }
        if score.is_nan() {
            return Err(Fault::NanScore { label: id });
        }
        (self.ids, self.scores) = (ids, scores);
        Ok(score.key(id))
    }
}

/// Memory of one task: a tree of losers over the shards, and the labels that have won.
///
/// Each inner node holds the label that lost there and the shard it is from; the winner is kept
/// outside. The next label of the winner's shard plays its way up, one comparison a level.
struct Merger<'a> {
    rests: Vec<Rest<'a>>,
    losers: Vec<(u64, usize)>,
    seen: Seen,
}

impl<'a> Merger<'a> {
    fn new(n_shards: usize, longest: usize) -> Self {
        let n_leaves = n_shards.next_power_of_two();
        Self {
            rests: Vec::with_capacity(n_shards),
            losers: vec![(END, 0); n_leaves],
            seen: Seen::new(longest),
        }
    }

    fn merge(
        &mut self,
        shards: &[Ranked<'a>],
        row: usize,
        ids: &mut [i32],
        scores: &mut [f32],
    ) -> std::result::Result<(), Fault> {
        self.seen.clear();
        self.rests.clear();
        self.rests.extend(shards.iter().map(|shard| shard.row(row)));
        let mut winner = self.first_round()?;
        for (id, score) in ids.iter_mut().zip(scores) {
            let (key, shard) = winner;
            if key == END {
                break;
            }
            *id = f32::label(key);
            *score = f32::score(key);
            if !self.seen.insert(*id as u32) {
                return Err(Fault::DuplicateLabel { label: *id });
            }
            let next = self.rests[shard].next()?;
            if next <= key {
                return Err(Fault::NotRanked { label: f32::label(next) });
            }
            winner = self.play((next, shard));
        }
        Ok(())
    }

    /// Fills the tree with the first label of every shard: the best of all.
    fn first_round(&mut self) -> std::result::Result<(u64, usize), Fault> {
        self.losers.fill((0, usize::MAX));
        let n_leaves = self.losers.len();
        let mut winner = (END, 0);
        for shard in 0..n_leaves {
            let key = self.rests.get_mut(shard).map_or(Ok(END), Rest::next)?;
            winner = (key, shard);
            // The first to come to a node waits there for the other side.
            let mut node = (n_leaves + shard) >> 1;
            while node > 0 {
                let other = self.losers[node];
                if other.1 == usize::MAX {
                    self.losers[node] = winner;
                    break;
                }
                if other.0 < winner.0 {
                    self.losers[node] = winner;
                    winner = other;
                }
                node >>= 1;
            }
        }
        Ok(winner)
    }

    #[inline]
    fn play(&mut self, player: (u64, usize)) -> (u64, usize) {
        let (mut key, mut shard) = player;
        let mut node = (self.losers.len() + shard) >> 1;
        while node > 0 {
            let place = &mut self.losers[node];
            let (other_key, other_shard) = *place;
            // Swapped by mask: the winner is unpredictable, so a branch would be mispredicted.
            let mask = u64::from(other_key < key).wrapping_neg();
            let (keys, shards) = ((key ^ other_key) & mask, (shard ^ other_shard) & mask as usize);
            *place = (other_key ^ keys, other_shard ^ shards);
            (key, shard) = (key ^ keys, shard ^ shards);
            node >>= 1;
        }
        (key, shard)
    }
}

/// A set of labels, large enough for those of a row.
struct Seen {
    slots: Vec<u32>,
    shift: u32,
}

impl Seen {
    fn new(longest: usize) -> Self {
        let n_slots = (4 * longest.min(1 << 28)).next_power_of_two().max(2);
        Self { slots: vec![u32::MAX; n_slots], shift: 32 - n_slots.trailing_zeros() }
    }

    fn clear(&mut self) {
        self.slots.fill(u32::MAX);
    }

    /// Adds a label; false if it was already present.
    #[inline]
    fn insert(&mut self, label: u32) -> bool {
        let mask = self.slots.len() - 1;
        let mut at = (label.wrapping_mul(0x9e37_79b1) >> self.shift) as usize & mask;
        while self.slots[at] != u32::MAX {
            if self.slots[at] == label {
                return false;
            }
            at = (at + 1) & mask;
        }
        self.slots[at] = label;
        true
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn merge(shards: &[(&[i32], &[f32])], k: usize) -> Result<TopK> {
        let shards: Result<Vec<Ranked<'_>>> =
            shards.iter().map(|(ids, scores)| Ranked::new(1, ids.len(), ids, scores)).collect();
        merge_topk(1, &shards?, k)
    }

    #[test]
    fn shards_of_any_number_and_width_are_merged() {
        let shards: [(&[i32], &[f32]); 4] = [
            (&[7, 1, -1], &[3.0, 1.0, 9.0]),
            (&[], &[]),
            (&[0], &[3.0]),
            (&[4, 2], &[1.0, f32::NEG_INFINITY]),
        ];
        assert_eq!(merge(&shards, 3).unwrap().ids, [0, 7, 1]);
        assert_eq!(merge(&shards, 6).unwrap().ids, [0, 7, 1, 4, 2, -1]);
        assert_eq!(merge(&shards, 3).unwrap().scores, [3.0, 3.0, 1.0]);
        assert_eq!(merge(&[], 2).unwrap().ids, [-1, -1]);
        assert_eq!(merge(&shards[..1], 2).unwrap().ids, [7, 1]);
    }

    #[test]
    fn what_is_read_is_checked() {
        let message =
            |a: (&[i32], &[f32]), b: (&[i32], &[f32])| merge(&[a, b], 3).unwrap_err().to_string();
        let good: (&[i32], &[f32]) = (&[5, 6], &[2.0, 1.0]);
        assert_eq!(message(good, (&[5], &[1.5])), "shards: row 0: duplicate label 5");
        assert_eq!(message(good, (&[8], &[f32::NAN])), "shards: row 0: score of label 8 is NaN");
        let order = "is not in order (best first, equal scores by label)";
        let rising = message(good, (&[8, 9], &[1.0, 2.0]));
        assert_eq!(rising, format!("shards: row 0: label 9 {order}"));
        let ties = message(good, (&[9, 8], &[3.0, 3.0]));
        assert_eq!(ties, format!("shards: row 0: label 8 {order}"));
        assert_eq!(merge(&[good], 0).unwrap_err().to_string(), "k must be at least 1, not 0");
        let short = Ranked::new(1, 2, good.0, good.1).unwrap();
        assert_eq!(
            merge_topk(2, &[short], 1).unwrap_err().to_string(),
            "ids: 2 values, expected 4"
        );
        assert!(Ranked::new(2, 2, &[0; 4], &[0.0; 3]).is_err());
    }
}
