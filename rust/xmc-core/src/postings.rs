//! Sparse rows by column.

use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use crate::csr::CsrView;
use crate::error::Result;
use crate::memory::{collected, with_room, zeroed};

/// Parts that a transposition is cut into at most, each with a counter for every column.
const MAX_PARTS: usize = 16;

/// The values of a sparse matrix other than 0, by column: 8 bytes each, and 8 for each column.
#[derive(Debug)]
pub(crate) struct Postings {
    /// Where the postings of each column start, and the end.
    starts: Vec<u64>,
    /// Row and value, rows ascending within a column.
    cells: Vec<u64>,
}

impl Postings {
    /// Takes the rows apart. Their number must be below 2^32.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub(crate) fn new(rows: CsrView<'_>) -> Result<Self> {
        let n_rows = rows.n_rows();
        let n_parts = rayon::current_num_threads().clamp(1, MAX_PARTS);
        let rows_per_part = n_rows.div_ceil(n_parts).max(1);
        let first_rows: Vec<usize> = (0..n_rows).step_by(rows_per_part).collect();
        let terms = |first: usize| {
            (first..(first + rows_per_part).min(n_rows)).flat_map(move |row| {
                let (columns, values) = rows.row(row);
                let terms = columns.iter().zip(values).filter(|(_, value)| **value != 0.0);
                terms.map(move |(&column, &value)| (row, column as usize, value))
            })
        };
        // Each part knows where its share of every column begins: the result is the same for any
        // number of parts.
        let cursors: Vec<Result<Vec<u64>>> = first_rows
            .par_iter()
            .map(|&first| {
                let mut counts: Vec<u64> = zeroed(rows.n_cols())?;
                terms(first).for_each(|(_, column, _)| counts[column] += 1);
                Ok(counts)
            })
            .collect();
        let mut cursors = cursors.into_iter().collect::<Result<Vec<_>>>()?;
        let mut starts = with_room(rows.n_cols() + 1)?;
        let mut end = 0;
        starts.push(0);
        for column in 0..rows.n_cols() {
            for cursor in &mut cursors {
                let count = cursor[column];
                cursor[column] = end;
                end += count;
            }
            starts.push(end);
        }
        // Parts write between each other, each cell once: atomics say so, and cost nothing here.
        let cells = collected((0..end as usize).map(|_| AtomicU64::new(0)))?;
        first_rows.par_iter().zip(cursors).for_each(|(&first, mut cursor)| {
            for (row, column, value) in terms(first) {
                let posting = (row as u64) << 32 | u64::from(value.to_bits());
                cells[cursor[column] as usize].store(posting, Ordering::Relaxed);
                cursor[column] += 1;
            }
        });
        let cells = cells.into_iter().map(AtomicU64::into_inner).collect();
        Ok(Self { starts, cells })
    }

    /// Number of columns.
    pub(crate) fn n_columns(&self) -> usize {
        self.starts.len() - 1
    }

    /// Number of values other than 0.
    pub(crate) fn len(&self) -> usize {
        self.cells.len()
    }

    /// The postings of a column, which `unpacked` takes apart.
    #[inline]
    pub(crate) fn column(&self, column: i32) -> &[u64] {
        let column = column as usize;
        &self.cells[self.starts[column] as usize..self.starts[column + 1] as usize]
    }
}

/// Row and value of a posting.
#[inline]
pub(crate) fn unpacked(posting: u64) -> (u32, f64) {
    (row_of(posting), f64::from(f32::from_bits(posting as u32)))
}

/// Row of a posting.
#[inline]
pub(crate) const fn row_of(posting: u64) -> u32 {
    (posting >> 32) as u32
}
