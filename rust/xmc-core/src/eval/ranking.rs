//! The two forms of a prediction: ranked ids, and scores to rank.

use super::Plan;
use super::options::Ties;
use crate::bitmap::{Bitmap, Filter};
use crate::csr::CsrView;
use crate::error::Fault;
use crate::ids::{Id, without_padding};
use crate::rank::{Excluded, Score, keep_best};

/// Rows up to this length are checked for duplicates with a filter, longer ones with a bitmap.
const LONG: usize = 1024;

/// Memory for ranking one row after another.
pub(super) struct RankScratch<Key> {
    labels: Vec<i32>,
    kept: Vec<i32>,
    keys: Vec<Key>,
    seen: Seen,
}

impl<Key> RankScratch<Key> {
    pub(super) fn new() -> Self {
        let seen = Seen { filter: Filter::new(), bitmap: None };
        Self { labels: Vec::new(), kept: Vec::new(), keys: Vec::new(), seen }
    }
}

/// Labels seen in a row; empty between rows.
struct Seen {
    filter: Filter,
    bitmap: Option<Bitmap>,
}

impl Seen {
    /// Finds the first label that stands twice. After a fault the memory is spoilt.
    fn check_distinct(&mut self, labels: &[i32], n_labels: usize) -> Result<(), Fault> {
        if labels.len() <= LONG {
            for (i, &label) in labels.iter().enumerate() {
                if self.filter.insert(label) && labels[..i].contains(&label) {
                    return Err(Fault::DuplicateLabel { label });
                }
            }
            self.filter.clear(labels);
            return Ok(());
        }
        let bitmap = self.bitmap.get_or_insert_with(|| Bitmap::new(n_labels));
        if let Some(&label) = labels.iter().find(|&&label| !bitmap.insert(label)) {
            return Err(Fault::DuplicateLabel { label });
        }
        for &label in labels {
            bitmap.remove(label);
        }
        Ok(())
    }
}

/// A row in order, without excluded labels, cut to the largest k; and how many were excluded.
pub(super) type Ranked<'a> = (&'a [i32], usize);

/// Rows that can be ranked.
pub(super) trait Rankings: Sync {
    /// What rows are sorted by.
    type Key: Send;

    /// Name in messages.
    fn name(&self) -> &str;

    /// Ranks a row. The whole row is checked, not only its head.
    fn rank<'s>(
        &'s self,
        row: usize,
        plan: &Plan,
        excluded: &Excluded,
        scratch: &'s mut RankScratch<Self::Key>,
    ) -> Result<Ranked<'s>, Fault>;
}

/// Ranked ids, row-major.
pub(super) struct Ids<'a, I> {
    pub(super) ids: &'a [I],
    pub(super) width: usize,
}

impl<I: Id> Rankings for Ids<'_, I> {
    type Key = ();

    fn name(&self) -> &'static str {
        "ids"
    }

    #[inline]
    fn rank<'s>(
        &'s self,
        row: usize,
        plan: &Plan,
        excluded: &Excluded,
        scratch: &'s mut RankScratch<()>,
    ) -> Result<Ranked<'s>, Fault> {
        let ids = &self.ids[row * self.width..(row + 1) * self.width];
        let ids = without_padding(ids, plan.n_labels)?;
        let labels = I::labels(ids, &mut scratch.labels);
        scratch.seen.check_distinct(labels, plan.n_labels)?;
        if excluded.is_empty() {
            return Ok((&labels[..plan.max_k.min(labels.len())], 0));
        }
        scratch.kept.clear();
        scratch.kept.extend(labels.iter().filter(|&&label| !excluded.contains(label)));
        let n_excluded = labels.len() - scratch.kept.len();
        scratch.kept.truncate(plan.max_k);
        Ok((&scratch.kept, n_excluded))
    }
}

impl<S: Score> Rankings for CsrView<'_, S> {
    type Key = S::Key;

    fn name(&self) -> &str {
        CsrView::name(self)
    }

    fn rank<'s>(
        &'s self,
        row: usize,
        plan: &Plan,
        excluded: &Excluded,
        scratch: &'s mut RankScratch<S::Key>,
    ) -> Result<Ranked<'s>, Fault> {
        let (labels, scores) = self.row(row);
        if let Some(at) = scores.iter().position(|score| score.is_nan()) {
            return Err(Fault::NanScore { label: labels[at] });
        }
        if !labels.is_sorted_by(|a, b| a < b) {
            scratch.seen.check_distinct(labels, plan.n_labels)?;
        }
        // Keys put the smaller of two numbers first; turned round, the larger label is the smaller.
        let turn = match plan.options.ties {
            Ties::Smaller => 0,
            Ties::Larger => !0,
        };
        let keys = &mut scratch.keys;
        keys.clear();
        let entries = labels.iter().zip(scores).filter(|(label, _)| !excluded.contains(**label));
        keys.extend(entries.map(|(&label, &score)| score.key(label ^ turn)));
        let n_excluded = labels.len() - keys.len();
        keep_best(keys, plan.max_k);
        keys.sort_unstable();
        scratch.kept.clear();
        scratch.kept.extend(keys.iter().map(|&key| S::label(key) ^ turn));
        Ok((&scratch.kept, n_excluded))
    }
}
