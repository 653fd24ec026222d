//! Some rows of a matrix, with features numbered anew so that dense arrays over them are short.

use crate::error::Result;
use crate::memory::{with_room, zeroed};

/// Rows whose features are numbered in the order in which they first occur.
pub(super) struct Local {
    indptr: Vec<usize>,
    cells: Vec<(u32, f32)>,
    /// The feature of each local number.
    features: Vec<i32>,
}

impl Local {
    /// Takes rows, whose lengths sum up to `n_cells`, of a matrix with `n_features` columns.
    pub fn new<R: Iterator<Item = (i32, f32)>>(
        n_features: usize,
        n_cells: usize,
        rows: impl ExactSizeIterator<Item = R>,
    ) -> Result<Self> {
        // The local number of a feature plus one; 0 where it has none yet.
        let mut numbers = zeroed::<u32>(n_features)?;
        let mut indptr = with_room(rows.len() + 1)?;
        let mut cells = with_room(n_cells)?;
        let mut features = with_room(n_features.min(n_cells))?;
        indptr.push(0);
        for row in rows {
            for (feature, value) in row {
                let number = &mut numbers[feature as usize];
                if *number == 0 {
                    features.push(feature);
                    *number = features.len() as u32;
                }
                cells.push((*number - 1, value));
            }
            indptr.push(cells.len());
        }
        features.shrink_to_fit();
        Ok(Self { indptr, cells, features })
    }

    pub fn n_rows(&self) -> usize {
        self.indptr.len() - 1
    }

    pub fn n_features(&self) -> usize {
        self.features.len()
    }

    pub fn features(&self) -> &[i32] {
        &self.features
    }

    pub fn row(&self, row: usize) -> &[(u32, f32)] {
        &self.cells[self.indptr[row]..self.indptr[row + 1]]
    }

    /// The product of a row with a dense vector.
    #[inline]
    pub fn dot(&self, row: usize, dense: &[f64]) -> f64 {
        self.row(row)
            .iter()
            .map(|&(feature, value)| f64::from(value) * dense[feature as usize])
            .sum()
    }

    /// Adds a multiple of a row to a dense vector.
    #[inline]
    pub fn add(&self, row: usize, times: f64, dense: &mut [f64]) {
        for &(feature, value) in self.row(row) {
            dense[feature as usize] += times * f64::from(value);
        }
    }
}
