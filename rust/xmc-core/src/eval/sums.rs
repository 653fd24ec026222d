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
            Kind::Coverage | Kind::MacroP | Kind::MacroR | Kind::MacroF => &[],
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
    total: Vec<i128>,
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
        let at = |lane: Lane| layout.start[lane as usize];
        let cells = &mut self.recent[..];
        if let Some(start) = at(Lane::Hits) {
            let cells = &mut cells[start..][..max_k];
            hits.iter().for_each(|hit| cells[hit.rank as usize] += 1);
        }
        if let Some(first) = hits.first() {
            let rank = first.rank as usize;
            if let Some(start) = at(Lane::FirstHit) {
                cells[start + rank] += 1;
            }
            if let Some(start) = at(Lane::Reciprocal) {
                cells[start + rank] += ONE / (rank as i64 + 1);
            }
        }
        if let Some(start) = at(Lane::Recall) {
            let (cells, mut before) = (&mut cells[start..][..max_k], 0);
            for (hit, found) in hits.iter().zip(1..) {
                let recall = quotient(found, n as i64);
                cells[hit.rank as usize] += recall - before;
                before = recall;
            }
        }
        // Ranks up to n share the normaliser of k with all rows, later ones have that of n.
        let (inside, beyond) = hits.split_at(hits.partition_point(|hit| (hit.rank as usize) < n));
        if let Some(start) = at(Lane::Dcg) {
            let (dcg, ndcg) = cells[start..][..2 * max_k].split_at_mut(max_k);
            let mut sum = 0;
            for hit in inside {
                let term = discounts.at[hit.rank as usize];
                dcg[hit.rank as usize] += term;
                sum += term;
            }
            if n < max_k && sum > 0 {
                dcg[n] -= sum;
                ndcg[n] += quotient(sum, discounts.ideal[n - 1]);
            }
            for hit in beyond {
                let term = discounts.at[hit.rank as usize];
                ndcg[hit.rank as usize] += times(term, discounts.inverse[n - 1]);
            }
        }
        if let Some(start) = at(Lane::Gain) {
            let (gain, ideal) = cells[start..][..2 * max_k].split_at_mut(max_k);
            hits.iter().for_each(|hit| gain[hit.rank as usize] += hit.weight);
            ideal.iter_mut().zip(row.ideal).for_each(|(cell, weight)| *cell += weight);
        }
        if let Some(start) = at(Lane::PsRecall) {
            let (gain, ideal) = cells[start..][..2 * max_k].split_at_mut(max_k);
            let share = quotient(1, n as i64);
            hits.iter().for_each(|hit| gain[hit.rank as usize] += times(hit.weight, share));
            ideal.iter_mut().zip(row.ideal).for_each(|(cell, &w)| *cell += times(w, share));
        }
        if let Some(start) = at(Lane::PsDcg) {
            let (dcg, rest) = cells[start..][..4 * max_k].split_at_mut(max_k);
            let (ndcg, rest) = rest.split_at_mut(max_k);
            let (ideal_dcg, ideal_ndcg) = rest.split_at_mut(max_k);
            let term = |rank: usize, weight: i64| times(weight, discounts.at[rank]);
            let matlab = plan.options.psndcg == PsNdcg::Matlab;
            let (inside, beyond) = if matlab { (hits, &[][..]) } else { (inside, beyond) };
            let (mut sum, mut ideal_sum) = (0, 0);
            for hit in inside {
                let term = term(hit.rank as usize, hit.weight);
                dcg[hit.rank as usize] += term;
                sum += term;
            }
            let ideal = ideal_dcg.iter_mut().zip(row.ideal).zip(&discounts.at);
            for ((cell, &weight), &discount) in ideal {
                let term = times(weight, discount);
                *cell += term;
                ideal_sum += term;
            }
            if n < max_k && !matlab {
                let inverse = discounts.inverse[n - 1];
                dcg[n] -= sum;
                ndcg[n] += times(sum, inverse);
                ideal_dcg[n] -= ideal_sum;
                ideal_ndcg[n] += times(ideal_sum, inverse);
                for hit in beyond {
                    let term = term(hit.rank as usize, hit.weight);
                    ndcg[hit.rank as usize] += times(term, inverse);
                }
            }
        }
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
            Kind::Coverage | Kind::MacroP | Kind::MacroR | Kind::MacroF => {
                Err(Error::NotSummed { metric })
            }
        }
    }
}
