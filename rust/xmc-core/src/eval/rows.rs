//! The values of metrics for single rows.

use super::cuts::{Place, terms};
use super::fixed::ONE;
use super::sums::Row;
use super::{Plan, PsNdcg};
use crate::metric::{Kind, Metric};

/// The terms of one metric, a number for each row of the stream.
#[derive(Debug, Clone, PartialEq)]
pub enum RowValues {
    /// The metric is the mean of these values; NaN where a row is skipped.
    Mean(Vec<f64>),
    /// The metric is the sum of the numerators over the sum of the denominators; NaN as above.
    Ratio {
        /// Weighted hits.
        numerators: Vec<f64>,
        /// The best that was possible.
        denominators: Vec<f64>,
    },
}

/// Numbers kept of a row for a metric: its value, numerator and denominator, or none.
pub(super) fn width(metric: Metric) -> usize {
    match metric.kind() {
        kind if !kind.has_row_values() => 0,
        kind if kind.is_ratio() => 2,
        _ => 1,
    }
}

/// Appends the terms of a metric for a row with a positive.
pub(super) fn push_terms(plan: &Plan, metric: Metric, row: &Row<'_>, out: &mut Vec<f64>) {
    let (k, n) = (metric.k(), row.n_positives);
    let n_hits = row.hits.partition_point(|hit| (hit.rank as usize) < k);
    let hits = &row.hits[..n_hits];
    let inside = k.min(n);
    let ideal = &row.ideal[..inside.min(row.ideal.len())];
    let norm = plan.discounts.ideal[inside - 1] as f64;
    let discount = |rank: usize| plan.discounts.at[rank] as f64 / ONE as f64;
    let gains = |divisor: f64| {
        let unit = plan.weights.as_ref().map_or(1.0, |weights| weights.unit) / divisor;
        let gain: i128 = hits.iter().map(|hit| i128::from(hit.weight)).sum();
        let best: i128 = ideal.iter().copied().map(i128::from).sum();
        [gain as f64 * unit, best as f64 * unit]
    };
    match metric.kind() {
        Kind::P => out.push(n_hits as f64 / k as f64),
        Kind::R => out.push(n_hits as f64 / n as f64),
        Kind::Success => out.push(if n_hits > 0 { 1.0 } else { 0.0 }),
        Kind::Mrr => out.push(hits.first().map_or(0.0, |hit| 1.0 / f64::from(hit.rank + 1))),
        Kind::Ndcg => {
            let dcg: i64 = hits.iter().map(|hit| plan.discounts.at[hit.rank as usize]).sum();
            out.push(dcg as f64 / norm);
        }
        Kind::Psp => out.extend(gains(k as f64)),
        Kind::Psr => out.extend(gains(n as f64)),
        Kind::PsNdcg => {
            let divisor =
                if plan.options.psndcg == PsNdcg::Xclib { norm / ONE as f64 } else { 1.0 };
            let unit = plan.weights.as_ref().map_or(1.0, |weights| weights.unit) / divisor;
            let dcg = hits.iter().map(|hit| hit.weight as f64 * discount(hit.rank as usize));
            let best = ideal.iter().enumerate().map(|(rank, &w)| w as f64 * discount(rank));
            out.extend([dcg.sum::<f64>() * unit, best.sum::<f64>() * unit]);
        }
        _ => {}
    }
}

/// Appends the terms of a metric that is summed at its own k.
pub(super) fn push_at_its_k(
    metric: Metric,
    places: &[Place],
    n_positives: usize,
    n_labels: usize,
    out: &mut Vec<f64>,
) {
    let terms = terms(metric, places, n_positives, n_labels);
    out.extend(&terms[..width(metric)]);
}
