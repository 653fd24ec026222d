//! Sums over rows, for each quantity and each k.

use super::fixed::{ONE, quotient, ratio, times};
use super::{Plan, PsNdcg};
use crate::error::{Error, Result};
use crate::metric::{Kind, Metric};

/// A quantity that is summed over rows.
///
/// The sum of nDCG has two parts. While k <= n, all rows share the normaliser of k, and plain DCG is
/// summed; beyond, the row's DCG is divided by its own normaliser, that of n.
#[derive(Debug, Clone, Copy)]
enum Lane {
    Hits,
    FirstHit,
    Reciprocal,
    Recall,
    Dcg,
    NdcgBeyond,
    Gain,
    IdealGain,
    PsDcg,
    PsNdcgBeyond,
    IdealPsDcg,
    IdealPsNdcgBeyond,
    PsRecall,
    IdealPsRecall,
}

/// Bits of a weight's share in a row's recall beyond those of the weight: rows with a million
/// positives lose nothing, and 2^50 rows do not overflow.
const SHARE_BITS: u32 = 24;

const N_LANES: usize = Lane::IdealPsRecall as usize + 1;

impl Lane {
    /// The lanes of a metric. Of those that are read in pairs, the second follows the first.
    const fn of(kind: Kind) -> &'static [Self] {
        match kind {
            Kind::P => &[Self::Hits],
            Kind::Success => &[Self::FirstHit],
            Kind::Mrr => &[Self::Reciprocal],
            Kind::R => &[Self::Recall],
            Kind::Ndcg => &[Self::Dcg, Self::NdcgBeyond],
            Kind::Psp => &[Self::Gain, Self::IdealGain],
            Kind::PsNdcg => {
                &[Self::PsDcg, Self::PsNdcgBeyond, Self::IdealPsDcg, Self::IdealPsNdcgBeyond]
            }
            Kind::Psr => &[Self::PsRecall, Self::IdealPsRecall],
            _ => &[],
        }
    }
}

/// Which lanes there are, and where.
#[derive(Debug)]
pub(super) struct Layout {
    max_k: usize,
    start: [Option<usize>; N_LANES],
    n_cells: usize,
    rows_before_overflow: usize,
}

impl Layout {
    /// Lanes of the metrics named, and of no other.
    pub(super) fn new(metrics: &[Metric], max_k: usize, rows_before_overflow: usize) -> Self {
        let mut needed = [false; N_LANES];
        for lane in metrics.iter().flat_map(|metric| Lane::of(metric.kind())) {
            needed[*lane as usize] = true;
        }
        let mut n_cells = 0;
        let start = needed.map(|needed| {
            let start = needed.then_some(n_cells);
            n_cells += usize::from(needed) * max_k;
            start
        });
        Self { max_k, start, n_cells, rows_before_overflow }
    }

    pub(super) const fn n_cells(&self) -> usize {
        self.n_cells
    }
}

/// A positive within the ranking.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hit {
    /// Counted from 0.
    pub(super) rank: u32,
    /// Position among the positives of the row.
    pub(super) index: u32,
    pub(super) weight: i64,
}

/// What there is to know of one row. A row has at least one positive.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) n_positives: usize,
    /// In the order of ranks.
    pub(super) hits: &'a [Hit],
    /// Weights of the `min(k, n)` heaviest positives, heaviest first; empty if not needed.
    pub(super) ideal: &'a [i64],
}

/// Sums at every k, as differences: a term is added where it begins to count, at its rank, and sums
/// up to k are the sums at k.
#[derive(Debug, Clone)]
pub(super) struct Sums {
    /// Terms of the last rows, before they could overflow.
    recent: Vec<i64>,
    pub(super) total: Vec<i128>,
    n_recent: usize,
}

impl Sums {
    pub(super) fn new(layout: &Layout) -> Self {
        Self { recent: vec![0; layout.n_cells], total: vec![0; layout.n_cells], n_recent: 0 }
    }

    /// Adds a row.
    pub(super) fn add_row(&mut self, plan: &Plan, row: &Row<'_>) {
        let (layout, discounts, hits) = (&plan.layout, &plan.discounts, row.hits);
        let (max_k, n) = (layout.max_k, row.n_positives);
        if self.n_recent == layout.rows_before_overflow {
            self.settle();
        }
        self.n_recent += 1;
        // Ranks up to n share the normaliser of k with all rows, later ones have that of n.
        let (inside, beyond) = hits.split_at(hits.partition_point(|hit| (hit.rank as usize) < n));
        let discount = |hit: &Hit| discounts.at[hit.rank as usize];
        let inverse = discounts.inverse[n.min(max_k) - 1];

        if let Some([cells]) = self.lanes(layout, Lane::Hits) {
            add_hits(cells, hits, |_| 1);
        }
        if let Some([cells]) = self.lanes(layout, Lane::FirstHit) {
            add_hits(cells, &hits[..hits.len().min(1)], |_| 1);
        }
        if let Some([cells]) = self.lanes(layout, Lane::Reciprocal) {
            add_hits(cells, &hits[..hits.len().min(1)], |hit| ONE / i64::from(hit.rank + 1));
        }
        if let Some([cells]) = self.lanes(layout, Lane::Recall) {
            let (mut found, mut recall) = (0, 0);
            add_hits(cells, hits, |_| {
                found += 1;
                let before = std::mem::replace(&mut recall, quotient(found, n as i64));
                recall - before
            });
        }
        if let Some([dcg, ndcg]) = self.lanes(layout, Lane::Dcg) {
            let sum = add_hits(dcg, inside, discount);
            if n < max_k && sum > 0 {
                dcg[n] -= sum;
                ndcg[n] += quotient(sum, discounts.ideal[n - 1]);
            }
            add_hits(ndcg, beyond, |hit| times(discount(hit), inverse));
        }
        if let Some([gain, ideal]) = self.lanes(layout, Lane::Gain) {
            add_hits(gain, hits, |hit| hit.weight);
            add_ideal(ideal, row.ideal, |_, weight| weight);
        }
        if let Some(start) = layout.start[Lane::PsRecall as usize] {
            // A share of a weight needs more bits than a weight, so it joins the total at once.
            let share = |weight: i64| (i128::from(weight) << SHARE_BITS) / n as i128;
            let (gain, ideal) = self.total[start..][..2 * max_k].split_at_mut(max_k);
            for hit in hits {
                gain[hit.rank as usize] += share(hit.weight);
            }
            for (cell, &weight) in ideal.iter_mut().zip(row.ideal) {
                *cell += share(weight);
            }
        }
        if let Some([dcg, ndcg, best, best_ndcg]) = self.lanes(layout, Lane::PsDcg) {
            let matlab = plan.options.psndcg == PsNdcg::Matlab;
            let (inside, beyond) = if matlab { (hits, &[][..]) } else { (inside, beyond) };
            let sum = add_hits(dcg, inside, |hit| times(hit.weight, discount(hit)));
            let ideal_sum =
                add_ideal(best, row.ideal, |rank, weight| times(weight, discounts.at[rank]));
            if n < max_k && !matlab {
                dcg[n] -= sum;
                ndcg[n] += times(sum, inverse);
                best[n] -= ideal_sum;
                best_ndcg[n] += times(ideal_sum, inverse);
            }
            add_hits(ndcg, beyond, |hit| times(times(hit.weight, discount(hit)), inverse));
        }
    }

    /// The lane and those that follow it, if they are needed.
    #[inline]
    fn lanes<const N: usize>(&mut self, layout: &Layout, lane: Lane) -> Option<[&mut [i64]; N]> {
        let cells = &mut self.recent[layout.start[lane as usize]?..][..N * layout.max_k];
        let mut lanes = cells.chunks_exact_mut(layout.max_k);
        Some(std::array::from_fn(|_| lanes.next().unwrap_or_default()))
    }

    /// Moves the recent terms to the total.
    pub(super) fn settle(&mut self) {
        for (total, recent) in self.total.iter_mut().zip(&mut self.recent) {
            *total += i128::from(std::mem::take(recent));
        }
        self.n_recent = 0;
    }

    /// Adds other sums; both are settled.
    pub(super) fn add(&mut self, other: &Self) {
        for (total, other) in self.total.iter_mut().zip(&other.total) {
            *total += other;
        }
    }

    fn at(&self, plan: &Plan, lane: Lane, k: usize) -> i128 {
        let start = plan.layout.start[lane as usize];
        start.map_or(0, |start| self.total[start..start + k].iter().sum())
    }

    /// Hits in the first k places of all rows.
    pub(super) fn hits(&self, plan: &Plan, k: usize) -> i128 {
        self.at(plan, Lane::Hits, k)
    }

    /// A metric over the rows added, of which `n_rows` count.
    pub(super) fn value(&self, plan: &Plan, metric: Metric, n_rows: usize) -> Result<f64> {
        let k = metric.k();
        let one = i128::from(ONE);
        let sum = |lane| self.at(plan, lane, k);
        let mean = |sum: f64| {
            if n_rows > 0 { Ok(sum / n_rows as f64) } else { Err(Error::NoRows) }
        };
        let over = |hits: f64, ideal: f64| {
            if ideal > 0.0 { Ok(hits / ideal) } else { Err(Error::ZeroDenominator { metric }) }
        };
        match metric.kind() {
            Kind::P => mean(ratio(sum(Lane::Hits), k as i128)),
            Kind::Success => mean(sum(Lane::FirstHit) as f64),
            Kind::Mrr => mean(ratio(sum(Lane::Reciprocal), one)),
            Kind::R => mean(ratio(sum(Lane::Recall), one)),
            Kind::Ndcg => {
                let norm = i128::from(plan.discounts.ideal[k - 1]);
                mean(ratio(sum(Lane::Dcg), norm) + ratio(sum(Lane::NdcgBeyond), one))
            }
            Kind::Psp => over(sum(Lane::Gain) as f64, sum(Lane::IdealGain) as f64),
            Kind::Psr => over(sum(Lane::PsRecall) as f64, sum(Lane::IdealPsRecall) as f64),
            Kind::PsNdcg => {
                let norm = match plan.options.psndcg {
                    PsNdcg::Xclib => plan.discounts.ideal[k - 1] as f64 / ONE as f64,
                    PsNdcg::Matlab => 1.0,
                };
                let both = |inside, beyond| sum(inside) as f64 / norm + sum(beyond) as f64;
                let ideal = both(Lane::IdealPsDcg, Lane::IdealPsNdcgBeyond);
                over(both(Lane::PsDcg, Lane::PsNdcgBeyond), ideal)
            }
            _ => Err(Error::NotSummed { metric }),
        }
    }
}

/// Adds the term of each hit at its rank; returns their sum, which is of use where it has discounts:
/// plain weights of very many hits would overflow.
#[inline]
fn add_hits(cells: &mut [i64], hits: &[Hit], mut term: impl FnMut(&Hit) -> i64) -> i64 {
    let mut sum = 0i64;
    for hit in hits {
        let term = term(hit);
        cells[hit.rank as usize] += term;
        sum = sum.wrapping_add(term);
    }
    sum
}

/// Adds the term of each of the heaviest weights at its rank; returns their sum as above.
#[inline]
fn add_ideal(cells: &mut [i64], weights: &[i64], term: impl Fn(usize, i64) -> i64) -> i64 {
    let mut sum = 0i64;
    for (rank, (cell, &weight)) in cells.iter_mut().zip(weights).enumerate() {
        let term = term(rank, weight);
        *cell += term;
        sum = sum.wrapping_add(term);
    }
    sum
}
