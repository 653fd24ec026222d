//! Terms of the units, laid out so that a drawn unit is half a cache line.

use rayon::prelude::*;

/// Columns side by side in a panel.
pub(super) const LANES: usize = 4;
/// Units in a block: 10 random bits choose one, and a panel's block fits the nearest caches.
pub(super) const BLOCK: usize = 1 << BLOCK_BITS;
pub(super) const BLOCK_BITS: u32 = 10;

/// The terms of one unit in the columns of one panel.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(32))]
pub(super) struct Lanes(pub(super) [f64; LANES]);

impl Lanes {
    #[inline]
    pub(super) fn add(&mut self, other: &Self) {
        for lane in 0..LANES {
            self.0[lane] += other.0[lane];
        }
    }
}

/// Units x columns, in panels of four columns and whole blocks of units; the rest is 0.
#[derive(Debug)]
pub(super) struct Matrix {
    panels: Vec<Vec<Lanes>>,
}

impl Matrix {
    pub(super) fn new(n_units: usize, columns: &[Vec<f64>]) -> Self {
        let fill = |columns: &[Vec<f64>]| {
            let mut panel = vec![Lanes::default(); n_units.div_ceil(BLOCK) * BLOCK];
            panel[..n_units].par_iter_mut().enumerate().for_each(|(unit, lanes)| {
                for (lane, column) in lanes.0.iter_mut().zip(columns) {
                    *lane = column[unit];
                }
            });
            panel
        };
        Self { panels: columns.chunks(LANES).map(fill).collect() }
    }

    /// Number of columns, those that fill up the last panel included.
    pub(super) fn width(&self) -> usize {
        self.panels.len() * LANES
    }

    /// The terms of the units of a block, panel by panel.
    pub(super) fn block(&self, block: usize) -> impl Iterator<Item = &[Lanes]> {
        self.panels.iter().map(move |panel| &panel[block * BLOCK..(block + 1) * BLOCK])
    }
}
