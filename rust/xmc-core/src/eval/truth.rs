//! The truth of one row, and where a ranking meets it.

use super::sums::Hit;
use crate::bitmap::Filter;
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

/// Finds the positives in a ranking.
pub(super) struct Finder {
    filter: Filter,
    candidates: Vec<u32>,
}

impl Finder {
    pub(super) fn new(max_k: usize) -> Self {
        Self { filter: Filter::new(), candidates: vec![0; max_k + 1] }
    }

    /// Leaves the hits in `hits`, in the order of ranks, without weights.
    ///
    /// A filter picks the few candidates, without branches; search in the positives decides.
    pub(super) fn find(&mut self, ranking: &[i32], positives: &[i32], hits: &mut Vec<Hit>) {
        hits.clear();
        for &label in positives {
            self.filter.insert(label);
        }
        let mut n_candidates = 0;
        for (rank, &label) in ranking.iter().enumerate() {
            self.candidates[n_candidates] = rank as u32;
            n_candidates += usize::from(self.filter.may_contain(label));
        }
        self.filter.clear(positives);
        for &rank in &self.candidates[..n_candidates] {
            if let Ok(index) = positives.binary_search(&ranking[rank as usize]) {
                hits.push(Hit { rank, index: index as u32, weight: 0 });
            }
        }
    }
}
