//! Weighted sums of sparse rows, one sum at a time.

use std::cell::Cell;
use std::mem::take;

use crate::bitmap::Bitmap;
use crate::csr::Part;
use crate::error::Result;
use crate::memory::{SPARE, reserve, zeroed};

/// The fields of a sum.
type Fields = (Vec<f64>, Bitmap, Vec<i32>);

thread_local! {
    /// What the last sum of this thread left, to be used again.
    static LEFT: Cell<Option<Fields>> = const { Cell::new(None) };
}

/// A sum of sparse rows: 8 bytes for each of at least as many columns, and the columns that were reached.
pub(crate) struct Sums {
    totals: Vec<f64>,
    seen: Bitmap,
    columns: Vec<i32>,
}

impl Sums {
    pub(crate) fn new(n_cols: usize) -> Result<Self> {
        if let Some((totals, seen, columns)) = LEFT.take().filter(|left| left.0.len() >= n_cols) {
            let mut sums = Self { totals, seen, columns };
            sums.drain(|_, _| ()); // a call that failed leaves what it had
            return Ok(sums);
        }
        Ok(Self { totals: zeroed(n_cols)?, seen: Bitmap::new(n_cols)?, columns: Vec::new() })
    }

    /// Adds a row, whose columns are in range, times its weight.
    pub(crate) fn add(&mut self, columns: &[i32], values: &[f32], weight: f64) -> Result<()> {
        reserve(&mut self.columns, columns.len())?;
        for (&column, &value) in columns.iter().zip(values) {
            if self.seen.insert(column) {
                self.columns.push(column);
            }
            self.totals[column as usize] += weight * f64::from(value);
        }
        Ok(())
    }

    /// Hands over the sum, in the order in which columns were reached, and starts anew.
    pub(crate) fn drain(&mut self, mut hand: impl FnMut(i32, f64)) {
        for column in self.columns.drain(..) {
            self.seen.remove(column);
            hand(column, take(&mut self.totals[column as usize]));
        }
    }

    /// Writes the sum as the next row of a part, sorted and rounded once, and starts anew.
    pub(crate) fn push_to(&mut self, part: &mut Part) -> Result<()> {
        let Self { totals, seen, columns } = self;
        columns.sort_unstable();
        let sum = |&column: &i32| (column, take(&mut totals[column as usize]) as f32);
        part.push_row(columns.iter().map(sum))?;
        columns.drain(..).for_each(|column| seen.remove(column));
        Ok(())
    }
}

impl Drop for Sums {
    fn drop(&mut self) {
        if (1..=SPARE).contains(&self.totals.len()) {
            let Self { totals, seen, columns } = self;
            LEFT.set(Some((take(totals), take(seen), take(columns))));
        }
    }
}
