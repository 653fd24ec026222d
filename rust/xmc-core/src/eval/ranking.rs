//! The two forms of a prediction: ranked ids, and scores to rank.

use super::Plan;
use super::options::Ties;
use crate::bitmap::{Bitmap, Filter};
use crate::csr::CsrView;
use crate::error::{Error, Fault, Result};
use crate::ids::{Id, without_padding};
use crate::rank::{Excluded, Score, keep_best};

/// Rows up to this length are checked for duplicates with a filter, longer ones with a bitmap.
const LONG: usize = 1024;

/// Memory for ranking one row after another.
pub(super) struct RankScratch<Key> {
    labels: Vec<i32>,
    kept: Vec<i32>,
    keys: Vec<Key>,
    values: Vec<f64>,
    seen: Seen,
}

impl<Key> RankScratch<Key> {
    pub(super) fn new() -> Self {
        let seen = Seen { filter: Filter::new(), bitmap: None };
        Self { labels: Vec::new(), kept: Vec::new(), keys: Vec::new(), values: Vec::new(), seen }
    }
}

/// Labels seen in a row; empty between rows.
struct Seen {
    filter: Filter,
    bitmap: Option<Bitmap>,
}

impl Seen {
    /// The first label that stands twice. Where there is one, the memory is spoilt.
    fn repeated(&mut self, labels: &[i32], n_labels: usize) -> Result<Option<i32>> {
        if labels.len() <= LONG {
            for (i, &label) in labels.iter().enumerate() {
                if self.filter.insert(label) && labels[..i].contains(&label) {
                    return Ok(Some(label));
                }
            }
            self.filter.clear(labels);
            return Ok(None);
        }
        let bitmap = match &mut self.bitmap {
            Some(bitmap) => bitmap,
            none => none.insert(Bitmap::new(n_labels)?),
        };
        if let Some(&label) = labels.iter().find(|&&label| !bitmap.insert(label)) {
            return Ok(Some(label));
        }
        for &label in labels {
            bitmap.remove(label);
        }
        Ok(None)
    }
}

/// A row in order, without excluded labels, cut to the largest k; their scores, if a metric needs
/// probabilities; and how many were excluded.
pub(super) type Ranked<'a> = (&'a [i32], &'a [f64], usize);

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
    ) -> Result<Ranked<'s>>;
}

/// Ranked ids, row-major.
pub(super) struct Ids<'a, I> {
    pub(super) ids: &'a [I],
    pub(super) width: usize,
}

impl<I: Id> Rankings for Ids<'_, I> {
    type Key = ();

    fn name(&self) -> &'static str {
        "y_pred"
    }

    #[inline]
    fn rank<'s>(
        &'s self,
        row: usize,
        plan: &Plan,
        excluded: &Excluded,
        scratch: &'s mut RankScratch<()>,
    ) -> Result<Ranked<'s>> {
        let ids = &self.ids[row * self.width..(row + 1) * self.width];
        let fault = |fault| Error::at_row(Rankings::name(self), row, fault);
        let ids = without_padding(ids, plan.n_labels).map_err(fault)?;
        let labels = I::labels(ids, &mut scratch.labels);
        if let Some(label) = scratch.seen.repeated(labels, plan.n_labels)? {
            return Err(fault(Fault::DuplicateLabel { label }));
        }
        if excluded.is_empty() {
            return Ok((&labels[..plan.max_k.min(labels.len())], &[], 0));
        }
        scratch.kept.clear();
        scratch.kept.extend(labels.iter().filter(|&&label| !excluded.contains(label)));
        let n_excluded = labels.len() - scratch.kept.len();
        scratch.kept.truncate(plan.max_k);
        Ok((&scratch.kept, &[], n_excluded))
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
    ) -> Result<Ranked<'s>> {
        let (labels, scores) = self.row(row);
        let fault = |fault| Error::at_row(Rankings::name(self), row, fault);
        if let Some(at) = scores.iter().position(|score| score.is_nan()) {
            return Err(fault(Fault::NanScore { label: labels[at] }));
        }
        if plan.cuts.probabilities {
            let outside = |score: &S| !(0.0..=1.0).contains(&S::value(score.key(0)));
            if let Some(at) = scores.iter().position(outside) {
                let (label, value) = (labels[at], S::value(scores[at].key(0)));
                return Err(fault(Fault::NoProbability { label, value }));
            }
        }
        if !labels.is_sorted_by(|a, b| a < b) {
            if let Some(label) = scratch.seen.repeated(labels, plan.n_labels)? {
                return Err(fault(Fault::DuplicateLabel { label }));
            }
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
        scratch.values.clear();
        if plan.cuts.probabilities {
            scratch.values.extend(keys.iter().map(|&key| S::value(key)));
        }
        Ok((&scratch.kept, &scratch.values, n_excluded))
    }
}
