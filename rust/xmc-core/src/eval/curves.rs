//! The quantities of one row at every k, from which every metric and every sum is read.

use super::PsNdcg;
use super::sums::{Lane, Sums};
use crate::metric::{Kind, Metric};

/// Rank discounts and their prefix sums.
#[derive(Debug, PartialEq)]
pub(super) struct Discounts {
    /// `1 / log2(r + 1)` of rank r, stored at `r - 1`.
    at: Vec<f64>,
    /// Sum of the first m discounts, stored at `m - 1`.
    ideal: Vec<f64>,
}

impl Discounts {
    pub(super) fn new(max_k: usize) -> Self {
        let at: Vec<f64> = (2..max_k + 2).map(|r| 1.0 / (r as f64).log2()).collect();
        let ideal = at.iter().scan(0.0, |sum, discount| {
            *sum += discount;
            Some(*sum)
        });
        let ideal = ideal.collect();
        Self { at, ideal }
    }
}

/// One row at every k; index `k - 1`. Memory is reused from row to row.
pub(super) struct Curves {
    n_positives: usize,
    /// Rank of the first hit, from 1; 0 if there is none.
    first_hit: usize,
    hits: Vec<f64>,
    dcg: Vec<f64>,
    gain: Vec<f64>,
    ps_dcg: Vec<f64>,
    ideal_gain: Vec<f64>,
    ideal_ps_dcg: Vec<f64>,
    /// Ideal DCG of min(k, n) hits.
    norm: Vec<f64>,
}

impl Curves {
    pub(super) fn new(max_k: usize) -> Self {
        let zeros = || vec![0.0; max_k];
        Self {
            n_positives: 0,
            first_hit: 0,
            hits: zeros(),
            dcg: zeros(),
            gain: zeros(),
            ps_dcg: zeros(),
            ideal_gain: zeros(),
            ideal_ps_dcg: zeros(),
            norm: zeros(),
        }
    }

    /// Sets the row: hits as (0-based rank, weight) in rank order, and the `min(k, n)` largest
    /// weights of the positives, largest first. Without weights both are 1 and empty.
    pub(super) fn set(
        &mut self,
        discounts: &Discounts,
        n_positives: usize,
        hits: &[(usize, f64)],
        ideal: &[f64],
    ) {
        self.n_positives = n_positives;
        self.first_hit = hits.first().map_or(0, |&(rank, _)| rank + 1);
        let max_k = self.hits.len();
        let (mut dcg, mut gain, mut ps_dcg) = (0.0, 0.0, 0.0);
        let before = self.first_hit.checked_sub(1).unwrap_or(max_k);
        self.fill_hits(0..before, 0, [0.0; 3]);
        for (i, &(rank, weight)) in hits.iter().enumerate() {
            dcg += discounts.at[rank];
            gain += weight;
            ps_dcg += weight * discounts.at[rank];
            let until = hits.get(i + 1).map_or(max_k, |&(next, _)| next);
            self.fill_hits(rank..until, i + 1, [dcg, gain, ps_dcg]);
        }

        let inside = n_positives.min(max_k);
        self.norm[..inside].copy_from_slice(&discounts.ideal[..inside]);
        if inside > 0 {
            self.norm[inside..].fill(discounts.ideal[inside - 1]);
        }
        let (mut gain, mut ps_dcg) = (0.0, 0.0);
        for (rank, &weight) in ideal.iter().enumerate() {
            gain += weight;
            ps_dcg += weight * discounts.at[rank];
            self.ideal_gain[rank] = gain;
            self.ideal_ps_dcg[rank] = ps_dcg;
        }
        self.ideal_gain[ideal.len()..].fill(gain);
        self.ideal_ps_dcg[ideal.len()..].fill(ps_dcg);
    }

    fn fill_hits(&mut self, ranks: std::ops::Range<usize>, n_hits: usize, sums: [f64; 3]) {
        let [dcg, gain, ps_dcg] = sums;
        self.hits[ranks.clone()].fill(n_hits as f64);
        self.dcg[ranks.clone()].fill(dcg);
        self.gain[ranks.clone()].fill(gain);
        self.ps_dcg[ranks].fill(ps_dcg);
    }

    /// Adds the row, which has a positive, to the sums.
    pub(super) fn add_to(&self, sums: &mut Sums, psndcg: PsNdcg, weighted: bool) {
        let share = 1.0 / self.n_positives as f64;
        if self.first_hit > 0 {
            add(sums.lane(Lane::Hits), &self.hits);
            add_divided(sums.lane(Lane::Ndcg), &self.dcg, &self.norm);
            add_scaled(sums.lane(Lane::Recall), &self.hits, share);
            let rank = 1.0 / self.first_hit as f64;
            for sum in &mut sums.lane(Lane::ReciprocalRank)[self.first_hit - 1..] {
                *sum += rank;
            }
        }
        if !weighted {
            return;
        }
        add(sums.lane(Lane::Gain), &self.gain);
        add(sums.lane(Lane::IdealGain), &self.ideal_gain);
        add_scaled(sums.lane(Lane::PsRecall), &self.gain, share);
        add_scaled(sums.lane(Lane::IdealPsRecall), &self.ideal_gain, share);
        match psndcg {
            PsNdcg::Xclib => {
                add_divided(sums.lane(Lane::PsDcg), &self.ps_dcg, &self.norm);
                add_divided(sums.lane(Lane::IdealPsDcg), &self.ideal_ps_dcg, &self.norm);
            }
            PsNdcg::Matlab => {
                add(sums.lane(Lane::PsDcg), &self.ps_dcg);
                add(sums.lane(Lane::IdealPsDcg), &self.ideal_ps_dcg);
            }
        }
    }

    /// Appends the terms of a metric: its value, or numerator and denominator of a PS metric.
    pub(super) fn push_terms(&self, metric: Metric, psndcg: PsNdcg, out: &mut Vec<f64>) {
        let (k, at) = (metric.k() as f64, metric.k() - 1);
        let n = self.n_positives as f64;
        match metric.kind() {
            Kind::P => out.push(self.hits[at] / k),
            Kind::Ndcg => out.push(self.dcg[at] / self.norm[at]),
            Kind::R => out.push(self.hits[at] / n),
            Kind::Mrr => {
                let hit = (1..=metric.k()).contains(&self.first_hit);
                out.push(if hit { 1.0 / self.first_hit as f64 } else { 0.0 });
            }
            Kind::Psp => out.extend([self.gain[at] / k, self.ideal_gain[at] / k]),
            Kind::Psr => out.extend([self.gain[at] / n, self.ideal_gain[at] / n]),
            Kind::PsNdcg => {
                let norm = if psndcg == PsNdcg::Xclib { self.norm[at] } else { 1.0 };
                out.extend([self.ps_dcg[at] / norm, self.ideal_ps_dcg[at] / norm]);
            }
        }
    }
}

fn add(sums: &mut [f64], terms: &[f64]) {
    for (sum, term) in sums.iter_mut().zip(terms) {
        *sum += term;
    }
}

fn add_scaled(sums: &mut [f64], terms: &[f64], scale: f64) {
    for (sum, term) in sums.iter_mut().zip(terms) {
        *sum += term * scale;
    }
}

fn add_divided(sums: &mut [f64], terms: &[f64], divisors: &[f64]) {
    for ((sum, term), divisor) in sums.iter_mut().zip(terms).zip(divisors) {
        *sum += term / divisor;
    }
}
