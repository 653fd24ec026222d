//! Metrics that are summed at their own k only: average precision, sets of labels, probabilities.

use super::fixed::{ONE, ratio};
use super::sums::Hit;
use super::{EmptyRows, Plan};
use crate::error::{Error, Result};
use crate::memory::zeroed;
use crate::metric::{Kind, Metric};

/// Cells that probabilities are counted in; bins are made of whole cells, or of parts of them.
const CELLS: usize = 1000;
/// Bins of the calibration errors.
const BINS: usize = 10;
/// Numbers of a cell: labels, hits, sum of probabilities.
const NUMBERS: usize = 3;
/// Probabilities nearer to 0 or 1 count as this far from it where a logarithm is taken.
const NEAREST: f64 = 1e-6;

/// One place of a ranking.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// From 0.
    pub(super) rank: u32,
    pub(super) label: i32,
    pub(super) is_hit: bool,
    /// Its probability; NaN if no metric asks for it.
    pub(super) probability: f64,
}

/// Numerator and denominator that a row adds to a metric.
pub(super) fn terms(metric: Metric, places: &[Place], n: usize, n_labels: usize) -> [f64; 2] {
    let head = &places[..places.partition_point(|place| (place.rank as usize) < metric.k())];
    let n_hits = head.iter().filter(|place| place.is_hit).count();
    let hits = n_hits as f64;
    let (predicted, possible) = (head.len() as f64, n.min(metric.k()) as f64);
    let positives = n as f64;
    let over = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
    let sum = |term: &dyn Fn(&Place) -> f64| head.iter().map(term).sum::<f64>();
    match metric.kind() {
        Kind::Ap => {
            let mut found = 0.0;
            let precisions = head.iter().filter(|place| place.is_hit).map(|place| {
                found += 1.0;
                found / f64::from(place.rank + 1)
            });
            [over(precisions.sum(), possible), 1.0]
        }
        Kind::Rp => [over(hits, possible), 1.0],
        Kind::MicroP => [hits, predicted],
        Kind::MicroR => [hits, positives],
        Kind::MicroF => [2.0 * hits, predicted + positives],
        Kind::SampleP => [over(hits, predicted), 1.0],
        Kind::SampleR => [over(hits, positives), 1.0],
        Kind::SampleF => [over(2.0 * hits, predicted + positives), 1.0],
        Kind::Hamming => [over(predicted + positives - 2.0 * hits, n_labels as f64), 1.0],
        Kind::Exact => [f64::from(u8::from(n_hits == n && n_hits == head.len())), 1.0],
        Kind::Brier => [
            sum(&|place| (place.probability - f64::from(u8::from(place.is_hit))).powi(2)),
            predicted,
        ],
        Kind::Nll => {
            let loss = |place: &Place| {
                let p = place.probability.clamp(NEAREST, 1.0 - NEAREST);
                -(if place.is_hit { p } else { 1.0 - p }).ln()
            };
            [sum(&loss), predicted]
        }
        _ => [0.0, 0.0],
    }
}

/// Which metrics are summed here, and where.
#[derive(Debug, Default)]
pub(super) struct Cuts {
    metrics: Vec<Metric>,
    /// Cuts of the binned metrics, growing.
    ks: Vec<usize>,
    /// Places of each ranking that are looked at; 0 if nothing is summed here.
    pub(super) width: usize,
    pub(super) probabilities: bool,
}

impl Cuts {
    pub(super) fn new(metrics: &[Metric]) -> Self {
        let own = metrics.iter().copied().filter(|metric| metric.kind().is_at_its_k());
        let (binned, summed): (Vec<_>, Vec<_>) = own.partition(|metric| metric.kind().is_binned());
        let mut ks: Vec<usize> = binned.iter().map(|metric| metric.k()).collect();
        ks.sort_unstable();
        ks.dedup();
        let width = summed.iter().map(|metric| metric.k()).chain(ks.last().copied()).max();
        let probabilities = metrics.iter().any(|metric| metric.kind().needs_probabilities());
        Self { metrics: summed, ks, width: width.unwrap_or(0), probabilities }
    }

    /// How many numbers are kept; `None` on overflow.
    fn n_cells(&self) -> Option<usize> {
        self.ks.len().checked_mul(CELLS * NUMBERS)?.checked_add(2 * self.metrics.len())
    }
}

/// Sums of the metrics of a [`Cuts`].
#[derive(Debug, Clone, PartialEq)]
pub(super) struct CutSums {
    /// Numerator and denominator of each metric, then of each cut the cells: labels, hits and
    /// probabilities between the cut before and it. Terms are multiples of 1 / [`ONE`].
    pub(super) total: Vec<i128>,
}

/// A term in multiples of 1 / [`ONE`], so that sums are the same in any order.
fn fixed(term: f64) -> i128 {
    (term * ONE as f64).round() as i128
}

impl CutSums {
    /// Nothing summed yet.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub(super) fn new(cuts: &Cuts) -> Result<Self> {
        let n_cells = cuts.n_cells().ok_or(Error::OutOfMemory { bytes: usize::MAX })?;
        Ok(Self { total: zeroed(n_cells)? })
    }

    /// Adds a row. Of a group (`in_group`), rows without what a metric looks at are left out.
    pub(super) fn add_row(&mut self, plan: &Plan, places: &[Place], n: usize, in_group: bool) {
        let cuts = &plan.cuts;
        for (cells, &metric) in self.total.chunks_exact_mut(2).zip(&cuts.metrics) {
            let is_set = metric.kind().is_set();
            let seen = places.first().is_some_and(|place| (place.rank as usize) < metric.k());
            if in_group && n == 0 && !((is_set || metric.kind().needs_probabilities()) && seen) {
                continue;
            }
            for (cell, term) in cells.iter_mut().zip(terms(metric, places, n, plan.n_labels)) {
                *cell += fixed(term);
            }
        }
        let bins = &mut self.total[2 * cuts.metrics.len()..];
        let Some(&deepest) = cuts.ks.last() else { return };
        for place in places.iter().take_while(|place| (place.rank as usize) < deepest) {
            let cut = cuts.ks.partition_point(|&k| k <= place.rank as usize);
            let cell = ((place.probability * CELLS as f64) as usize).min(CELLS - 1);
            let at = (cut * CELLS + cell) * NUMBERS;
            bins[at] += 1;
            bins[at + 1] += i128::from(place.is_hit);
            bins[at + 2] += fixed(place.probability);
        }
    }

    /// Adds other sums.
    pub(super) fn add(&mut self, other: &Self) {
        self.total.iter_mut().zip(&other.total).for_each(|(total, other)| *total += other);
    }

    /// A metric over the rows added.
    pub(super) fn value(&self, plan: &Plan, metric: Metric) -> Result<f64> {
        let cuts = &plan.cuts;
        if metric.kind().is_binned() {
            let cut = cuts.ks.iter().position(|&k| k == metric.k());
            let cut = cut.ok_or(Error::NotSummed { metric })?;
            return self.binned(cuts, metric.kind(), cut).ok_or(Error::NoRows);
        }
        let at = cuts.metrics.iter().position(|&summed| summed == metric);
        let at = at.ok_or(Error::NotSummed { metric })?;
        match (self.total[2 * at], self.total[2 * at + 1]) {
            (_, 0) if matches!(metric.kind(), Kind::MicroP | Kind::MicroR | Kind::MicroF) => {
                Ok(0.0)
            }
            (_, 0) => Err(Error::NoRows),
            (above, below) => Ok(ratio(above, below)),
        }
    }

    /// Labels, hits and probabilities of each cell up to a cut.
    fn cells(&self, cuts: &Cuts, cut: usize) -> Vec<[f64; NUMBERS]> {
        let bins = &self.total[2 * cuts.metrics.len()..];
        let at = |cell: usize, number: usize| -> i128 {
            (0..=cut).map(|cut| bins[(cut * CELLS + cell) * NUMBERS + number]).sum()
        };
        let cell = |cell| [at(cell, 0) as f64, at(cell, 1) as f64, at(cell, 2) as f64 / ONE as f64];
        (0..CELLS).map(cell).collect()
    }

    /// A calibration error; `None` without a label.
    fn binned(&self, cuts: &Cuts, kind: Kind, cut: usize) -> Option<f64> {
        let cells = self.cells(cuts, cut);
        let all: f64 = cells.iter().map(|cell| cell[0]).sum();
        if all == 0.0 {
            return None;
        }
        let bins = if kind == Kind::Ace { equal_masses(&cells, all) } else { equal_widths(&cells) };
        let errors = bins.iter().map(|[_, hits, probabilities]| match kind {
            Kind::EceOver => (probabilities - hits).max(0.0),
            Kind::EceUnder => (hits - probabilities).max(0.0),
            _ => (probabilities - hits).abs(),
        });
        Some(errors.sum::<f64>() / all)
    }
}

/// Bins of equal width.
fn equal_widths(cells: &[[f64; NUMBERS]]) -> Vec<[f64; NUMBERS]> {
    let bin = |cells: &[[f64; NUMBERS]]| {
        std::array::from_fn(|number| cells.iter().map(|cell| cell[number]).sum())
    };
    cells.chunks(CELLS / BINS).map(bin).collect()
}

/// Bins of equal numbers of labels; a cell that lies in two of them is shared.
fn equal_masses(cells: &[[f64; NUMBERS]], all: f64) -> Vec<[f64; NUMBERS]> {
    let room = all / BINS as f64;
    let mut bins = vec![[0.0; NUMBERS]; BINS];
    let (mut at, mut free) = (0, room);
    for cell in cells.iter().filter(|cell| cell[0] > 0.0) {
        let mut left = cell[0];
        loop {
            let part = if at + 1 < BINS { left.min(free) } else { left };
            for (sum, number) in bins[at].iter_mut().zip(cell) {
                *sum += number * part / cell[0];
            }
            left -= part;
            free -= part;
            if left <= 0.0 {
                break;
            }
            (at, free) = (at + 1, room);
        }
    }
    bins
}

/// Memory for one row after another.
#[derive(Default)]
pub(super) struct CutRows {
    pub(super) places: Vec<Place>,
    of_group: Vec<(i32, Place)>,
    some: Vec<Place>,
    positives: Vec<i32>,
}

impl CutRows {
    /// Takes the places of a row that metrics look at.
    pub(super) fn load(&mut self, plan: &Plan, ranking: &[i32], scores: &[f64], hits: &[Hit]) {
        self.places.clear();
        let head = ranking.iter().zip(0..).take(plan.cuts.width);
        self.places.extend(head.map(|(&label, rank)| {
            let probability = scores.get(rank as usize).copied().unwrap_or(f64::NAN);
            Place { rank, label, is_hit: false, probability }
        }));
        for hit in hits {
            if let Some(place) = self.places.get_mut(hit.rank as usize) {
                place.is_hit = true;
            }
        }
    }

    /// Adds a row to all sums that it belongs to. `positives` are its labels.
    pub(super) fn add_row<'g>(
        &mut self,
        plan: &Plan,
        positives: &[i32],
        whole: &mut CutSums,
        groups: impl Iterator<Item = &'g mut CutSums>,
    ) {
        if positives.is_empty() && plan.options.empty_rows == EmptyRows::Skip {
            return;
        }
        whole.add_row(plan, &self.places, positives.len(), false);
        let mut groups = groups;
        for grouping in &plan.options.groupings {
            let group = |label: i32| grouping.of_label[label as usize];
            self.of_group.clear();
            self.of_group.extend(self.places.iter().map(|&place| (group(place.label), place)));
            self.of_group.sort_by_key(|&(group, place)| (group, place.rank));
            self.positives.clear();
            self.positives.extend(positives.iter().map(|&label| group(label)));
            for number in 0..grouping.n_groups as i32 {
                let Some(sums) = groups.next() else { return };
                let own = self.of_group.partition_point(|&(group, _)| group < number);
                let end = self.of_group.partition_point(|&(group, _)| group <= number);
                let n = self.positives.iter().filter(|&&group| group == number).count();
                if own == end && n == 0 {
                    continue;
                }
                self.some.clear();
                self.some.extend(self.of_group[own..end].iter().map(|&(_, place)| place));
                sums.add_row(plan, &self.some, n, true);
            }
        }
    }
}
