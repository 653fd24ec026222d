//! Some rows of a matrix, with features numbered anew so that dense arrays over them are short.

use crate::bitmap::Bitmap;
use crate::error::Result;
use crate::memory::{with_room, zeroed};

/// Rows whose features are numbered anew, in ascending order.
pub(super) struct Local {
    indptr: Vec<usize>,
    cells: Vec<(u32, f32)>,
    /// The feature of each local number, ascending.
    features: Vec<i32>,
}

impl Local {
    /// Takes rows, whose lengths sum up to `n_cells`, of a matrix with `n_features` columns.
    pub fn new<R: Iterator<Item = (i32, f32)>>(
        n_features: usize,
        n_cells: usize,
        rows: impl ExactSizeIterator<Item = R>,
    ) -> Result<Self> {
        let mut present = Bitmap::new(n_features)?;
        let mut indptr = with_room(rows.len() + 1)?;
        let mut cells = with_room(n_cells)?;
        indptr.push(0);
        for row in rows {
            for (feature, value) in row {
                present.insert(feature);
                cells.push((feature as u32, value));
            }
            indptr.push(cells.len());
        }
        let mut features = with_room(present.len())?;
        features.extend(present.ascending().map(|feature| feature as i32));
        let mut numbers = zeroed::<u32>(n_features)?;
        for (&feature, number) in features.iter().zip(0..) {
            numbers[feature as usize] = number;
        }
        for (feature, _) in &mut cells {
            *feature = numbers[*feature as usize];
        }
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

    /// The product of a row with a dense vector. In four sums, so that an addition need not wait for the
    /// one before.
    #[inline]
    pub fn dot(&self, row: usize, dense: &[f64]) -> f64 {
        let product = |&(feature, value): &(u32, f32)| f64::from(value) * dense[feature as usize];
        let mut sums = [0.0; 4];
        let fours = self.row(row).chunks_exact(4);
        let last = fours.remainder();
        for four in fours {
            for (sum, cell) in sums.iter_mut().zip(four) {
                *sum += product(cell);
            }
        }
        for (sum, cell) in sums.iter_mut().zip(last) {
            *sum += product(cell);
        }
        (sums[0] + sums[1]) + (sums[2] + sums[3])
    }

    /// Adds a multiple of a row to a dense vector.
    #[inline]
    pub fn add(&self, row: usize, times: f64, dense: &mut [f64]) {
        for &(feature, value) in self.row(row) {
            dense[feature as usize] += times * f64::from(value);
        }
    }
}
