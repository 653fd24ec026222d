//! Sums over rows, for each quantity and each k.

/// A quantity that is summed over rows.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lane {
    Hits,
    Ndcg,
    Recall,
    ReciprocalRank,
    Gain,
    IdealGain,
    PsDcg,
    IdealPsDcg,
    PsRecall,
    IdealPsRecall,
}

impl Lane {
    const COUNT: usize = Self::IdealPsRecall as usize + 1;
}

/// One sum for each lane and each k up to the largest.
#[derive(Debug, Clone)]
pub(super) struct Sums {
    max_k: usize,
    cells: Vec<f64>,
}

impl Sums {
    pub(super) fn new(max_k: usize) -> Self {
        Self { max_k, cells: vec![0.0; Lane::COUNT * max_k] }
    }

    /// The sum at cut `k`, counted from 1.
    pub(super) fn at(&self, lane: Lane, k: usize) -> f64 {
        self.cells[lane as usize * self.max_k + k - 1]
    }

    /// The sums of a lane at every k.
    #[inline]
    pub(super) fn lane(&mut self, lane: Lane) -> &mut [f64] {
        let start = lane as usize * self.max_k;
        &mut self.cells[start..start + self.max_k]
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (cell, other) in self.cells.iter_mut().zip(&other.cells) {
            *cell += other;
        }
    }
}
