//! The two forms of a prediction: ranked ids, and scores to rank.

use super::Plan;
use super::options::Ties;
use super::sums::Hit;
use super::truth::Finder;
use crate::bitmap::{Bitmap, Filter};
use crate::csr::CsrView;
use crate::error::{Error, Fault, Result};
use crate::ids::{Id, without_padding};
use crate::rank::{Excluded, Score, keep_best};

/// Rows up to this length are checked for duplicates with a filter, longer ones with a bitmap.
const LONG: usize = 1024;

/// Hits of a row up to which their ranks are counted one by one.
const FEW_HITS: usize = 32;

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

    /// The hits of a row from which nothing is excluded, without making its ranking, which costs more.
    /// False if the row is one for `rank`, which is also who says what is wrong with it.
    fn find_hits(
        &self,
        row: usize,
        plan: &Plan,
        positives: &[i32],
        finder: &mut Finder,
        hits: &mut Vec<Hit>,
    ) -> bool;
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

    #[inline]
    fn find_hits(
        &self,
        row: usize,
        plan: &Plan,
        positives: &[i32],
        finder: &mut Finder,
        hits: &mut Vec<Hit>,
    ) -> bool {
        let ids = &self.ids[row * self.width..(row + 1) * self.width];
        let Ok(ids) = without_padding(ids, plan.n_labels) else { return false };
        let Some(labels) = I::plain(ids).filter(|labels| labels.len() <= LONG) else {
            return false;
        };
        finder.find_checked(labels, plan.max_k, positives, hits).is_none()
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

    /// The rank of a hit is the number of labels that come before it: to count them for a few hits is
    /// cheaper than to sort the row.
    fn find_hits(
        &self,
        row: usize,
        plan: &Plan,
        positives: &[i32],
        finder: &mut Finder,
        hits: &mut Vec<Hit>,
    ) -> bool {
        let (labels, scores) = self.row(row);
        let usual = labels.windows(2).filter(|pair| pair[0] >= pair[1]).count() == 0
            && scores.iter().filter(|score| score.is_nan()).count() == 0;
        if !usual {
            return false;
        }
        finder.find(labels, positives, hits);
        if hits.len() > FEW_HITS {
            return false;
        }
        for hit in hits.iter_mut() {
            let at = hit.rank as usize;
            let own = scores[at];
            // Counted in 32 bits, which are vectorised well.
            let (mut better, mut equal) = (0u32, 0u32);
            for &score in scores {
                better += u32::from(score > own);
                equal += u32::from(score == own);
            }
            hit.rank = better;
            if equal > 1 {
                let before = match plan.options.ties {
                    Ties::Smaller => &scores[..at],
                    Ties::Larger => &scores[at + 1..],
                };
                hit.rank += before.iter().filter(|&&score| score == own).count() as u32;
            }
        }
        hits.retain(|hit| (hit.rank as usize) < plan.max_k);
        hits.sort_unstable_by_key(|hit| hit.rank);
        true
    }
}
