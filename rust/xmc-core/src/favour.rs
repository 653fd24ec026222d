//! The k labels of each row that are best together, for a metric that looks at all rows of a label.
//!
//! Macro precision, macro F and coverage are means over labels: what a label is worth in one row
//! depends on the other rows that are given it. [`favour`] climbs to rows that no change of a single
//! row makes better, by block coordinate ascent (Schultheis et al., *Generalized test utilities for
//! long-tail performance in extreme multi-label classification*, `NeurIPS` 2023): visit the rows in
//! random order, take a row's labels out, and choose the k that add most to what the others have.
//!
//! With the probability `p` of row i and label l, and `y` = 1 where l is among the k labels of i, the
//! utility of label l is
//!
//! ```text
//! linear[l] * hits + scale * together(l),    hits = sum of y p,    given = sum of y
//!
//! Nothing     0
//! Precision   hits / given                        0 / 0 is 0
//! F           2 hits / (given + offsets[l])
//! Coverage    1 - product of (1 - y p)
//! ```
//!
//! These are expectations of the metrics if hits are independent: exact for precision and coverage; for
//! F, with `offsets[l]` = 1 + the positives to expect beside a hit, what is random in the denominator
//! is replaced by its mean.
//!
//! Rows are visited one after another on one thread: a pass is little slower than reading the entries.
//! [`gains_given`] asks the same of rows that come one at a time, with fixed numbers in place of the
//! other rows; its rows do not depend on each other.

use rayon::prelude::*;

use crate::csr::CsrView;
use crate::error::{Error, Fault, Result};
use crate::memory::{filled, reserve, with_room, zeroed};
use crate::rng::Rng;
use crate::topk::duplicate;

/// Stream of the order of rows.
const ORDER: u64 = 0xfa_7012;
/// Rows between two looks at `keep_going`, and rows of a task.
const ROWS_A_LOOK: usize = 4096;
/// A pass that gains less than this part of the utility is the last one.
const TOLERANCE: f64 = 1e-7;
/// Probabilities are kept this far below 1, so that a label can be taken back.
const SURE: f64 = 1e-9;

/// What the rows of a label are worth together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Together {
    /// Nothing: each row counts by itself.
    Nothing,
    /// Its precision.
    Precision,
    /// Its F measure.
    F,
    /// The chance that it is right in some row.
    Coverage,
}

/// What labels are worth: the utility that [`favour`] climbs.
#[derive(Debug, Clone, Copy)]
pub struct Worth<'a> {
    /// The utility of a label's rows together.
    pub together: Together,
    /// Its weight, finite and at least 0.
    pub scale: f64,
    /// What an expected hit of each label is worth by itself, finite and at least 0.
    pub linear: &'a [f64],
    /// For [`Together::F`]: what stands in the denominator beside the rows that are given the label,
    /// above 0. Others do not read it.
    pub offsets: &'a [f64],
}

/// What [`favour`] found.
#[derive(Debug, Clone, PartialEq)]
pub struct Favoured {
    /// What each entry would add to its row, given the labels of all other rows, when its row was
    /// visited last. The k largest of a row, equal ones by label, are its labels.
    pub gains: Vec<f64>,
    /// The sum of the probabilities of the rows that are given each label; for
    /// [`Together::Coverage`] the sum of ln(1 - p).
    pub sums: Vec<f64>,
    /// The number of rows that are given each label.
    pub given: Vec<f64>,
    /// The utility of these labels, all labels together.
    pub utility: f64,
    /// Passes over the rows.
    pub passes: usize,
}

/// Chooses k labels for each row so that the utility of all rows together is large.
///
/// `probabilities` holds the candidates of each row, at most k of which are chosen; with fewer, all
/// are. At most `max_passes` passes over the rows; the first one starts from nothing. `keep_going` is
/// asked now and then.
///
/// # Errors
/// [`Error::Parameter`] for `k` or `max_passes` = 0, or a weight that is out of range;
/// [`Error::Length`] if `linear` or `offsets` is not one for each label; [`Error::Content`] for a value
/// outside 0..=1 or a label twice in a row; [`Error::Interrupted`].
pub fn favour(
    probabilities: CsrView<'_>,
    k: usize,
    worth: &Worth<'_>,
    seed: u64,
    max_passes: usize,
    keep_going: &(dyn Fn() -> bool + Sync),
) -> Result<Favoured> {
    for (name, value) in [("k", k), ("max_passes", max_passes)] {
        if value == 0 {
            return bad(name, "must be at least 1", 0.to_string());
        }
    }
    check(probabilities, worth)?;
    let n_rows = probabilities.n_rows();
    let first = probabilities.window().0 as usize;
    let n_labels = probabilities.n_cols();
    let (sums, given) = (filled(n_labels, 0.0)?, filled(n_labels, 0.0)?);
    let mut labels = Labels { worth: *worth, sums, given };
    let mut gains = zeroed::<f64>(probabilities.window().2.len())?;
    // Positions of the chosen entries within their row: the first `counts[row]` of k.
    let mut chosen = zeroed::<u32>(n_rows.checked_mul(k).ok_or_else(|| too_large(k))?)?;
    let mut counts = zeroed::<u32>(n_rows)?;
    let mut order = with_room::<u32>(n_rows)?;
    order.extend(0..n_rows as u32);
    let mut best = Vec::new();
    let (mut utility, mut passes) = (0.0, 0);
    loop {
        let mut rng = Rng::new(seed, &[ORDER, passes as u64]);
        for i in (1..n_rows).rev() {
            order.swap(i, rng.below(i as u32 + 1) as usize);
        }
        let (mut gained, mut changed) = (0.0, false);
        for (visited, &row) in order.iter().enumerate() {
            if visited % ROWS_A_LOOK == 0 && !keep_going() {
                return Err(Error::Interrupted);
            }
            let row = row as usize;
            let (ids, values) = probabilities.row(row);
            let slots = &mut chosen[row * k..(row + 1) * k];
            let had = counts[row] as usize;
            for &at in &slots[..had] {
                labels.take(ids[at as usize], values[at as usize]);
            }
            let start = probabilities.pattern().span(row).start - first;
            let own = &mut gains[start..start + ids.len()];
            for ((gain, &label), &p) in own.iter_mut().zip(ids).zip(values) {
                *gain = labels.gain(label, p);
            }
            let before: f64 = slots[..had].iter().map(|&at| own[at as usize]).sum();
            best.clear();
            reserve(&mut best, ids.len())?;
            best.extend(0..ids.len() as u32);
            keep_best(&mut best, k, own, ids);
            changed |= best.len() != had || best.iter().any(|at| !slots[..had].contains(at));
            gained += best.iter().map(|&at| own[at as usize]).sum::<f64>() - before;
            counts[row] = best.len() as u32;
            for (slot, &at) in slots.iter_mut().zip(&best) {
                *slot = at;
                labels.give(ids[at as usize], values[at as usize]);
            }
        }
        utility += gained;
        passes += 1;
        if !changed || passes == max_passes || (passes > 1 && gained <= TOLERANCE * utility) {
            let Labels { sums, given, .. } = labels;
            return Ok(Favoured { gains, sums, given, utility, passes });
        }
    }
}

/// Keeps the positions of the k largest gains; equal ones by label.
fn keep_best(best: &mut Vec<u32>, k: usize, gains: &[f64], ids: &[i32]) {
    if best.len() <= k {
        return;
    }
    best.select_nth_unstable_by(k - 1, |&a, &b| {
        let (a, b) = (a as usize, b as usize);
        gains[b].total_cmp(&gains[a]).then(ids[a].cmp(&ids[b]))
    });
    best.truncate(k);
}

/// What each entry would add to rows that were given labels before, entry by entry.
///
/// `sums` and `given` are as in [`Favoured`], one for each label, and may be any numbers that are finite
/// and, `given`, at least 0.
///
/// # Errors
/// As [`favour`].
pub fn gains_given(
    probabilities: CsrView<'_>,
    worth: &Worth<'_>,
    sums: &[f64],
    given: &[f64],
) -> Result<Vec<f64>> {
    check(probabilities, worth)?;
    let n_labels = probabilities.n_cols();
    check_labels("sums", sums, n_labels, f64::MIN)?;
    check_labels("given", given, n_labels, 0.0)?;
    let labels = Labels { worth: *worth, sums, given };
    let (_, _, ids, values) = probabilities.window();
    let mut gains = zeroed::<f64>(ids.len())?;
    gains
        .par_iter_mut()
        .with_min_len(ROWS_A_LOOK)
        .zip(ids.par_iter().zip(values))
        .for_each(|(gain, (&label, &p))| *gain = labels.gain(label, p));
    Ok(gains)
}

/// The labels with the rows that they are given.
struct Labels<'a, S> {
    worth: Worth<'a>,
    /// Sum of the probabilities; for coverage sum of ln(1 - p).
    sums: S,
    given: S,
}

impl<S: AsRef<[f64]>> Labels<'_, S> {
    /// What one more row of a label would add.
    #[inline]
    fn gain(&self, label: i32, p: f32) -> f64 {
        let (at, p) = (label as usize, f64::from(p));
        let Worth { together, scale, linear, offsets } = self.worth;
        let (sum, given) = (self.sums.as_ref()[at], self.given.as_ref()[at]);
        let more = match together {
            Together::Nothing => 0.0,
            Together::Precision if given <= 0.0 => p,
            Together::Precision => (p - sum / given) / (given + 1.0),
            Together::F => {
                let below = given + offsets[at];
                2.0 * (p - sum / below) / (below + 1.0)
            }
            Together::Coverage => p.min(1.0 - SURE) * sum.exp(),
        };
        linear[at] * p + scale * more
    }
}

impl Labels<'_, Vec<f64>> {
    fn share(&self, p: f32) -> f64 {
        let p = f64::from(p);
        if self.worth.together == Together::Coverage { (-p.min(1.0 - SURE)).ln_1p() } else { p }
    }

    fn give(&mut self, label: i32, p: f32) {
        self.sums[label as usize] += self.share(p);
        self.given[label as usize] += 1.0;
    }

    fn take(&mut self, label: i32, p: f32) {
        let at = label as usize;
        self.given[at] -= 1.0;
        // Rounding must not be left behind where nothing is.
        self.sums[at] = if self.given[at] < 0.5 { 0.0 } else { self.sums[at] - self.share(p) };
    }
}

fn too_large(k: usize) -> Error {
    Error::Parameter { name: "k", rule: "is too large", value: k.to_string() }
}

fn bad<T>(name: &'static str, rule: &'static str, value: String) -> Result<T> {
    Err(Error::Parameter { name, rule, value })
}

fn check(probabilities: CsrView<'_>, worth: &Worth<'_>) -> Result<()> {
    if !(worth.scale.is_finite() && worth.scale >= 0.0) {
        return bad("scale", "must be finite and at least 0", worth.scale.to_string());
    }
    let n_labels = probabilities.n_cols();
    check_labels("linear", worth.linear, n_labels, 0.0)?;
    if worth.together == Together::F {
        check_labels("offsets", worth.offsets, n_labels, SURE)?;
    }
    let mut seen = Vec::new();
    for row in 0..probabilities.n_rows() {
        let (ids, values) = probabilities.row(row);
        let at_row = |fault| Err(Error::at_row(probabilities.name(), row, fault));
        if let Some(at) = values.iter().position(|p| !(0.0..=1.0).contains(p)) {
            return at_row(Fault::NoProbability { label: ids[at], value: f64::from(values[at]) });
        }
        if let Some(label) = duplicate(ids, &mut seen) {
            return at_row(Fault::DuplicateLabel { label });
        }
    }
    Ok(())
}

/// Checks that there is a number for each label, finite and not below `least`.
fn check_labels(name: &'static str, values: &[f64], n_labels: usize, least: f64) -> Result<()> {
    if values.len() != n_labels {
        let (what, expected, found) = ("labels", n_labels, values.len());
        return Err(Error::Length { name: name.to_owned(), what, expected, found });
    }
    let outside = |value: &f64| !(value.is_finite() && *value >= least);
    let Some(label) = values.iter().position(outside) else { return Ok(()) };
    let rule = match least {
        0.0 => "must be finite and at least 0",
        SURE => "must be finite and above 0",
        _ => "must be finite",
    };
    bad(name, rule, format!("{} (label {label})", values[label]))
}
