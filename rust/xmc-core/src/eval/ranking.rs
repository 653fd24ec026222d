//! The two forms of a prediction: ranked ids, and scores to rank.

use crate::bitmap::Bitmap;
use crate::csr::CsrView;
use crate::error::Fault;
use crate::rank::{Excluded, Score, keep_best};

/// Memory for ranking one row after another.
pub(super) struct RankScratch<Key> {
    /// The ranking of the row, cut to the largest k.
    pub(super) ranking: Vec<i32>,
    /// Labels seen in the row; empty between rows.
    seen: Bitmap,
    keys: Vec<Key>,
}

impl<Key> RankScratch<Key> {
    pub(super) fn new(n_labels: usize) -> Self {
        Self { ranking: Vec::new(), seen: Bitmap::new(n_labels), keys: Vec::new() }
    }

    fn see(&mut self, label: i32) -> Result<(), Fault> {
        if self.seen.insert(label) { Ok(()) } else { Err(Fault::DuplicateLabel { label }) }
    }
}

/// Rows that can be ranked.
pub(super) trait Rankings: Sync {
    /// What rows are sorted by.
    type Key: Send;

    /// Name in messages.
    fn name(&self) -> &str;

    /// Leaves the ranking of a row, without excluded labels and cut to `k`, in the scratch memory
    /// and returns the number of excluded labels. The whole row is checked, not only its head.
    ///
    /// After a fault the scratch memory is spoilt.
    fn rank(
        &self,
        row: usize,
        k: usize,
        n_labels: usize,
        excluded: &Excluded,
        scratch: &mut RankScratch<Self::Key>,
    ) -> Result<usize, Fault>;
}

/// Ranked ids, row-major.
pub(super) struct Ids<'a, I> {
    pub(super) ids: &'a [I],
    pub(super) width: usize,
}

impl<I: Copy + Into<i64> + Sync> Rankings for Ids<'_, I> {
    type Key = ();

    fn name(&self) -> &'static str {
        "ids"
    }

    fn rank(
        &self,
        row: usize,
        k: usize,
        n_labels: usize,
        excluded: &Excluded,
        scratch: &mut RankScratch<()>,
    ) -> Result<usize, Fault> {
        let ids = &self.ids[row * self.width..(row + 1) * self.width];
        scratch.ranking.clear();
        let end = ids.iter().position(|&id| id.into() == -1).unwrap_or(ids.len());
        if let Some(&id) = ids[end..].iter().find(|&&id| id.into() != -1) {
            return Err(Fault::AfterPadding { label: id.into() });
        }
        let mut n_excluded = 0;
        for &id in &ids[..end] {
            let id: i64 = id.into();
            if id < 0 || id >= n_labels as i64 {
                return Err(Fault::LabelOutOfRange { label: id.to_string(), n_labels });
            }
            let label = id as i32;
            scratch.see(label)?;
            if excluded.contains(label) {
                n_excluded += 1;
            } else if scratch.ranking.len() < k {
                scratch.ranking.push(label);
            }
        }
        for &id in &ids[..end] {
            scratch.seen.remove(id.into() as i32);
        }
        Ok(n_excluded)
    }
}

impl<S: Score> Rankings for CsrView<'_, S> {
    type Key = S::Key;

    fn name(&self) -> &str {
        CsrView::name(self)
    }

    fn rank(
        &self,
        row: usize,
        k: usize,
        _n_labels: usize,
        excluded: &Excluded,
        scratch: &mut RankScratch<S::Key>,
    ) -> Result<usize, Fault> {
        let (labels, scores) = self.row(row);
        scratch.keys.clear();
        for (&label, &score) in labels.iter().zip(scores) {
            if score.is_nan() {
                return Err(Fault::NanScore { label });
            }
            scratch.see(label)?;
            if !excluded.contains(label) {
                scratch.keys.push(score.key(label));
            }
        }
        let n_excluded = labels.len() - scratch.keys.len();
        for &label in labels {
            scratch.seen.remove(label);
        }
        keep_best(&mut scratch.keys, k);
        scratch.keys.sort_unstable();
        scratch.ranking.clear();
        scratch.ranking.extend(scratch.keys.iter().map(|&key| S::label(key)));
        Ok(n_excluded)
    }
}
