//! Sparse rows by column.

use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use crate::csr::{Csr, CsrView};
use crate::error::Result;
use crate::memory::{collected, filled, with_room, zeroed};

/// Parts that a transposition is cut into at most, each with a counter for every column.
const MAX_PARTS: usize = 16;
/// Columns that are filled at a time: with more, each value meets a counter and a cell that the
/// processor must fetch from memory.
const COLUMNS: usize = 1 << 18;

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
        let counts = Counts::of(rows)?;
        let mut totals = zeroed(rows.n_cols())?;
        counts.add_to(&mut totals);
        let mut filling = Filling::new(&totals)?;
        filling.add(rows, counts)?;
        Ok(filling.done())
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

    /// The `n_rows` rows again, without zeros.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub(crate) fn rows(&self, n_rows: usize) -> Result<Csr> {
        let mut indptr: Vec<i64> = zeroed(n_rows + 1)?;
        for &cell in &self.cells {
            indptr[row_of(cell) as usize + 1] += 1;
        }
        for row in 0..n_rows {
            indptr[row + 1] += indptr[row];
        }
        let mut next = collected(indptr.iter().copied())?;
        let (mut indices, mut data) = (zeroed(self.len())?, zeroed(self.len())?);
        for column in 0..self.n_columns() as i32 {
            for &cell in self.column(column) {
                let at = &mut next[row_of(cell) as usize];
                indices[*at as usize] = column;
                data[*at as usize] = f32::from_bits(cell as u32);
                *at += 1;
            }
        }
        Ok(Csr { n_cols: self.n_columns(), indptr, indices, data })
    }
}

/// The values other than 0 of each column, counted for some parts of the rows.
pub(crate) struct Counts {
    first_rows: Vec<usize>,
    of_parts: Vec<Vec<u64>>,
    /// Whether the columns of every row ascend.
    ascending: bool,
}

impl Counts {
    pub(crate) fn of(rows: CsrView<'_>) -> Result<Self> {
        let n_parts = rayon::current_num_threads().clamp(1, MAX_PARTS);
        let rows_per_part = rows.n_rows().div_ceil(n_parts).max(1);
        let first_rows: Vec<usize> = (0..rows.n_rows()).step_by(rows_per_part).collect();
        let of_parts: Vec<Result<(Vec<u64>, bool)>> = first_rows
            .par_iter()
            .map(|&first| {
                let mut counts: Vec<u64> = zeroed(rows.n_cols())?;
                let mut ascending = true;
                for row in first..(first + rows_per_part).min(rows.n_rows()) {
                    let (columns, values) = rows.row(row);
                    for (&column, &value) in columns.iter().zip(values) {
                        counts[column as usize] += u64::from(value != 0.0);
                    }
                    ascending &= columns.is_sorted();
                }
                Ok((counts, ascending))
            })
            .collect();
        let of_parts = of_parts.into_iter().collect::<Result<Vec<_>>>()?;
        let ascending = of_parts.iter().all(|part| part.1);
        let of_parts = of_parts.into_iter().map(|part| part.0).collect();
        Ok(Self { first_rows, of_parts, ascending })
    }

    pub(crate) fn add_to(&self, totals: &mut [u64]) {
        for counts in &self.of_parts {
            totals.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
        }
    }
}

/// Postings that rows are still added to.
pub(crate) struct Filling {
    starts: Vec<u64>,
    /// Where the next posting of each column goes.
    next: Vec<u64>,
    /// Parts write between each other, each cell once: atomics say so, and cost nothing here.
    cells: Vec<AtomicU64>,
    n_rows: usize,
}

impl Filling {
    /// Room for as many values of each column. Memory that is not written yet costs nothing.
    pub(crate) fn new(totals: &[u64]) -> Result<Self> {
        let mut starts = with_room(totals.len() + 1)?;
        let mut end = 0;
        starts.push(0);
        for total in totals {
            end += total;
            starts.push(end);
        }
        let next = collected(starts[..totals.len()].iter().copied())?;
        Ok(Self { starts, next, cells: zeroed(end as usize)?, n_rows: 0 })
    }

    /// Whether there is room for as many more values of each column.
    pub(crate) fn has_room(&self, counts: &Counts) -> Result<bool> {
        let mut more = filled(self.next.len(), 0)?;
        counts.add_to(&mut more);
        let ends = self.next.iter().zip(&more).map(|(next, more)| next + more);
        Ok(ends.zip(&self.starts[1..]).all(|(end, &limit)| end <= limit))
    }

    /// Number of rows so far.
    pub(crate) const fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Whether every column has all of its values.
    pub(crate) fn is_full(&self) -> bool {
        self.next.iter().eq(&self.starts[1..])
    }

    /// The number of values that there will be of each column.
    pub(crate) fn totals(&self) -> impl ExactSizeIterator<Item = u64> + '_ {
        self.starts.windows(2).map(|pair| pair[1] - pair[0])
    }

    /// Adds rows, for which there is room, behind the others.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub(crate) fn add(&mut self, rows: CsrView<'_>, counts: Counts) -> Result<()> {
        // Each part knows where its share of every column begins: the result is the same for any
        // number of parts.
        let Counts { first_rows, mut of_parts, ascending } = counts;
        let mut read: Vec<u32> = zeroed(rows.n_rows())?;
        for cursor in &mut of_parts {
            for (at, next) in cursor.iter_mut().zip(&mut self.next) {
                let count = std::mem::replace(at, *next);
                *next += count;
            }
        }
        let (cells, before) = (&self.cells, self.n_rows);
        let rows_per_part = first_rows.get(1).map_or(rows.n_rows(), |&second| second).max(1);
        let parts = read.par_chunks_mut(rows_per_part).zip(&first_rows).zip(of_parts);
        parts.for_each(|((read, &first), mut cursor)| {
            // A row that does not ascend has its columns anywhere.
            let width = if ascending { COLUMNS } else { usize::MAX };
            for block in (0..rows.n_cols()).step_by(width) {
                let end = block.saturating_add(width);
                for (row, read) in (first..).zip(read.iter_mut()) {
                    let (columns, values) = rows.row(row);
                    let start = *read as usize;
                    for (&column, &value) in columns[start..].iter().zip(&values[start..]) {
                        let column = column as usize;
                        if column >= end {
                            break;
                        }
                        *read += 1;
                        if value != 0.0 {
                            let row = (before + row) as u64;
                            let posting = row << 32 | u64::from(value.to_bits());
                            cells[cursor[column] as usize].store(posting, Ordering::Relaxed);
                            cursor[column] += 1;
                        }
                    }
                }
            }
        });
        self.n_rows += rows.n_rows();
        Ok(())
    }

    pub(crate) fn done(self) -> Postings {
        let cells = self.cells.into_iter().map(AtomicU64::into_inner).collect();
        Postings { starts: self.starts, cells }
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Row and value of each column, the obvious way.
    fn by_column(rows: CsrView<'_>) -> Vec<Vec<(u32, f64)>> {
        let mut columns = vec![vec![]; rows.n_cols()];
        for row in 0..rows.n_rows() {
            let (ids, values) = rows.row(row);
            for (&column, &value) in ids.iter().zip(values) {
                if value != 0.0 {
                    columns[column as usize].push((row as u32, f64::from(value)));
                }
            }
        }
        columns
    }

    #[test]
    fn more_columns_than_are_filled_at_a_time() {
        let n_cols = 2 * COLUMNS + 7;
        // Columns far apart, stored zeros, an empty row; and the same with one row that descends.
        let ascending: Vec<Vec<i32>> = (0..23)
            .map(|row| {
                let step = n_cols / 5 + 3 * row;
                (0..row % 6)
                    .map(|at| (at * step + row) as i32)
                    .filter(|&c| c < n_cols as i32)
                    .collect()
            })
            .collect();
        let mut descending = ascending.clone();
        descending[11].reverse();
        for lists in [ascending, descending] {
            let mut indptr = vec![0];
            for list in &lists {
                indptr.push(indptr[indptr.len() - 1] + list.len() as i64);
            }
            let indices = lists.concat();
            let data: Vec<f32> = (0..indices.len()).map(|at| (at % 4) as f32 - 1.0).collect();
            let rows = CsrView::of_features("rows", n_cols, &indptr, &indices, &data).unwrap();
            let expected = by_column(rows);
            for threads in [1, 3] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let postings = pool.install(|| Postings::new(rows)).unwrap();
                for (column, expected) in expected.iter().enumerate() {
                    let found = postings.column(column as i32).iter().map(|&cell| unpacked(cell));
                    assert!(found.eq(expected.iter().copied()), "column {column}");
                }
            }
        }
    }
}
