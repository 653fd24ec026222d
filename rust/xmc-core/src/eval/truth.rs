//! The truth of one row, and where a ranking meets it.

use super::sums::Hit;
use crate::error::Fault;

/// The positives of a row, sorted.
pub(super) struct Positives<'a> {
    pub(super) labels: &'a [i32],
    /// Whether they are all labels of the row, as they stand.
    pub(super) plain: bool,
}

/// Checks the truth of a row and returns its positives. Nothing is copied from the usual row, which
/// is sorted and holds positives only.
pub(super) fn positives<'a>(
    labels: &'a [i32],
    values: &[f32],
    scratch: &'a mut Vec<i32>,
) -> Result<Positives<'a>, Fault> {
    // Counted, not searched: rows are short, and a loop without a way out is vectorised.
    let n_others = values.iter().filter(|&&value| !(value > 0.0)).count();
    let n_drops = labels.windows(2).filter(|pair| pair[0] >= pair[1]).count();
    if n_others + n_drops == 0 {
        return Ok(Positives { labels, plain: true });
    }
    if let Some(at) = values.iter().position(|&value| !(value >= 0.0)) {
        return Err(Fault::BadTruth { label: labels[at], value: values[at] });
    }
    // Stored zeros take part, so that a duplicate of one is found.
    scratch.clear();
    scratch.extend_from_slice(labels);
    scratch.sort_unstable();
    if let Some(pair) = scratch.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Fault::DuplicateLabel { label: pair[0] });
    }
    let entries = labels.iter().zip(values).filter(|(_, value)| **value > 0.0);
    scratch.clear();
    scratch.extend(entries.map(|(&label, _)| label));
    scratch.sort_unstable();
    Ok(Positives { labels: scratch, plain: false })
}

/// Stamps of the labels with the same low bits share a place: 16 KB stay in the first-level cache.
const PLACES: usize = 1 << 14;

#[inline]
fn place(label: i32) -> usize {
    label as u32 as usize % PLACES
}

/// Finds the positives in a ranking.
///
/// Positives are stamped with the number of their row, which picks the few candidates of a ranking
/// without branches and needs no clearing from row to row; search in the positives decides.
pub(super) struct Finder {
    stamps: Box<[u8; PLACES]>,
    /// Of the positives of this row; ranked labels have the next number. Earlier ones are smaller.
    stamp: u8,
    candidates: Vec<u32>,
}

impl Finder {
    pub(super) fn new(max_k: usize) -> Self {
        Self { stamps: Box::new([0; PLACES]), stamp: 0, candidates: vec![0; max_k + 1] }
    }

    /// Stamps the positives, and makes room for the candidates of a ranking.
    #[inline]
    fn start(&mut self, n_ranked: usize, positives: &[i32]) {
        if self.stamp >= u8::MAX - 2 {
            self.stamps.fill(0);
            self.stamp = 0;
        }
        self.stamp += 2;
        for &label in positives {
            self.stamps[place(label)] = self.stamp;
        }
        if self.candidates.len() <= n_ranked {
            self.candidates.resize(n_ranked + 1, 0);
        }
    }

    /// Leaves the hits in `hits`, in the order of `labels`, without weights. No label stands twice.
    pub(super) fn find(&mut self, labels: &[i32], positives: &[i32], hits: &mut Vec<Hit>) {
        self.start(labels.len(), positives);
        let mut n_candidates = 0;
        for (rank, &label) in (0..).zip(labels) {
            self.candidates[n_candidates] = rank;
            n_candidates += usize::from(self.stamps[place(label)] == self.stamp);
        }
        hits.clear();
        for &rank in &self.candidates[..n_candidates] {
            if let Ok(index) = positives.binary_search(&labels[rank as usize]) {
                hits.push(Hit { rank, index: index as u32, weight: 0 });
            }
        }
    }

    /// As `find` in the first `max_k` places; returns a label that stands twice anywhere in `labels`,
    /// the first one that does. Rows are shorter than 2^31.
    pub(super) fn find_checked(
        &mut self,
        labels: &[i32],
        max_k: usize,
        positives: &[i32],
        hits: &mut Vec<Hit>,
    ) -> Option<i32> {
        self.start(labels.len(), positives);
        let mut n_candidates = 0;
        for (rank, &label) in (0u32..).zip(labels) {
            let stamp = &mut self.stamps[place(label)];
            // With the rank, whether the place was stamped by a label before this one.
            self.candidates[n_candidates] = 2 * rank + u32::from(*stamp > self.stamp);
            n_candidates += usize::from(*stamp >= self.stamp);
            *stamp = self.stamp + 1;
        }
        hits.clear();
        for &candidate in &self.candidates[..n_candidates] {
            let rank = (candidate / 2) as usize;
            let label = labels[rank];
            if candidate % 2 == 1 && labels[..rank].contains(&label) {
                return Some(label);
            }
            if rank < max_k {
                if let Ok(index) = positives.binary_search(&label) {
                    hits.push(Hit { rank: rank as u32, index: index as u32, weight: 0 });
                }
            }
        }
        None
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn hits_are_those_of_a_loop_in_row_after_row() {
        let mut finder = Finder::new(3);
        let mut hits = Vec::new();
        let pairs = |hits: &[Hit]| -> Vec<_> { hits.iter().map(|h| (h.rank, h.index)).collect() };
        for row in 0..600i32 {
            // Labels that share places, within the row and with the rows before.
            let label = |i: i32| (row + i * i * 7) % 50 + i % 3 * PLACES as i32;
            let mut ranking: Vec<i32> = (0..9).map(label).collect();
            let mut positives: Vec<i32> = (5..9).map(label).chain([row % 70, 90]).collect();
            positives.sort_unstable();
            positives.dedup();
            let twice = (0..9).find(|&i| ranking[..i].contains(&ranking[i])).map(|i| ranking[i]);
            assert_eq!(finder.find_checked(&ranking, 7, &positives, &mut hits), twice, "{row}");
            if twice.is_some() {
                ranking = vec![label(2), label(5)];
                ranking.dedup();
                let found = finder.find_checked(&ranking, 7, &positives, &mut hits);
                assert_eq!(found, None);
            }
            let expected = (0..).zip(&ranking).filter_map(|(rank, label)| {
                Some((rank, positives.binary_search(label).ok()? as u32))
            });
            let expected: Vec<(u32, u32)> = expected.collect();
            let first: Vec<_> = expected.iter().copied().filter(|&(rank, _)| rank < 7).collect();
            assert_eq!(pairs(&hits), first);
            finder.find(&ranking, &positives, &mut hits);
            assert_eq!(pairs(&hits), expected);
        }
    }
}
