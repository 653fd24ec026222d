//! The positives of a truth matrix as plain rows, and their transpose.

use std::sync::atomic::{AtomicU32, Ordering};

use rayon::prelude::*;

use crate::csr::{CsrPattern, CsrView};
use crate::error::{Error, Fault, Result};
use crate::memory::{with_room, zeroed};

/// Rows handed to a thread at a time.
const BLOCK_ROWS: usize = 4096;
/// Parts that a transposition is cut into at most, each with a counter for every column.
const MAX_PARTS: usize = 16;

/// Rows of ascending numbers without values. Pointers of 32 bits keep random walks in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rows {
    /// One more than rows.
    pub(crate) starts: Vec<u32>,
    pub(crate) items: Vec<u32>,
}

impl Rows {
    #[inline]
    pub(crate) fn row(&self, row: usize) -> &[u32] {
        &self.items[self.starts[row] as usize..self.starts[row + 1] as usize]
    }

    pub(crate) fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// The labels with a value above 0 of each point; a point with more than `max_row` gets none.
    ///
    /// # Errors
    /// [`Error::Content`] for a negative or NaN value or a label stored twice in a row;
    /// [`Error::Parameter`] for 2^32 positives or more.
    pub(crate) fn of_positives(y: CsrView<'_>, max_row: usize) -> Result<Self> {
        let count = |row: usize| {
            let (labels, values) = y.row(row);
            let bad = labels.iter().zip(values).find(|(_, value)| !(**value >= 0.0));
            if let Some((&label, &value)) = bad {
                return Err(Error::at_row(y.name(), row, Fault::BadTruth { label, value }));
            }
            let n = values.iter().filter(|value| **value > 0.0).count();
            Ok(if n > max_row { 0 } else { n })
        };
        let counts = in_row_order(y.n_rows(), count)?;
        let mut rows = Self::with_lengths(y.name(), &counts)?;
        rows.fill(|row, cells| {
            let (labels, values) = y.row(row);
            let positives = labels.iter().zip(values).filter(|(_, value)| **value > 0.0);
            for (cell, (&label, _)) in cells.iter_mut().zip(positives) {
                *cell = label as u32;
            }
            sorted(y.name(), row, cells)
        })?;
        Ok(rows)
    }

    /// The rows of a pattern, sorted; a repeated pair is kept as it is.
    pub(crate) fn of_pattern(pattern: CsrPattern<'_>) -> Result<Self> {
        let counts = in_row_order(pattern.n_rows(), |row| Ok(pattern.row(row).len()))?;
        let mut rows = Self::with_lengths(pattern.name(), &counts)?;
        rows.fill(|row, cells| {
            for (cell, &label) in cells.iter_mut().zip(pattern.row(row)) {
                *cell = label as u32;
            }
            cells.sort_unstable();
            Ok(())
        })?;
        Ok(rows)
    }

    /// The same rows without the items that `keep` refuses.
    pub(crate) fn filtered(&self, keep: impl Fn(u32) -> bool + Sync) -> Result<Self> {
        let kept = |row| Ok(self.row(row).iter().filter(|item| keep(**item)).count());
        let mut rows = Self::with_lengths("", &in_row_order(self.len(), kept)?)?;
        rows.fill(|row, cells| {
            let items = self.row(row).iter().filter(|item| keep(**item));
            cells.iter_mut().zip(items).for_each(|(cell, &item)| *cell = item);
            Ok(())
        })?;
        Ok(rows)
    }

    fn with_lengths(name: &str, lengths: &[usize]) -> Result<Self> {
        let mut starts = with_room(lengths.len() + 1)?;
        let mut end = 0usize;
        starts.push(0);
        for &length in lengths {
            end += length;
            starts.push(end as u32);
        }
        if u32::try_from(end).is_err() {
            return Err(Error::Length {
                name: name.to_owned(),
                what: "positives (2^32 or more are not supported)",
                expected: u32::MAX as usize,
                found: end,
            });
        }
        Ok(Self { starts, items: zeroed(end)? })
    }

    /// Hands every row its cells, in parallel.
    fn fill(&mut self, write: impl Fn(usize, &mut [u32]) -> Result<()> + Sync) -> Result<()> {
        let mut rest = self.items.as_mut_slice();
        let mut blocks = Vec::new();
        for (block, starts) in self.starts[..self.starts.len() - 1].chunks(BLOCK_ROWS).enumerate() {
            let first = block * BLOCK_ROWS;
            let end = self.starts[first + starts.len()] as usize;
            let (cells, tail) = rest.split_at_mut(end - starts[0] as usize);
            blocks.push((first, starts.len(), cells));
            rest = tail;
        }
        let starts = &self.starts;
        let done: Vec<Result<()>> = blocks
            .into_par_iter()
            .map(|(first, n_rows, mut cells)| {
                for row in first..first + n_rows {
                    let (head, tail) = cells.split_at_mut((starts[row + 1] - starts[row]) as usize);
                    write(row, head)?;
                    cells = tail;
                }
                Ok(())
            })
            .collect();
        done.into_iter().collect()
    }

    /// Rows and columns exchanged: for each of `n_columns` items, the rows that hold it, ascending.
    ///
    /// Rows are cut into parts; each part knows where its share of every column begins, so that the
    /// result is the same for any number of parts.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub(crate) fn transposed(&self, n_columns: usize) -> Result<Self> {
        let n_parts = rayon::current_num_threads().clamp(1, MAX_PARTS);
        let rows_per_part = self.len().div_ceil(n_parts).max(1);
        let first_rows: Vec<usize> = (0..self.len()).step_by(rows_per_part).collect();
        let part_rows = |first: usize| first..(first + rows_per_part).min(self.len());
        let cursors: Vec<Result<Vec<u32>>> = first_rows
            .par_iter()
            .map(|&first| {
                let mut counts: Vec<u32> = zeroed(n_columns)?;
                let rows = part_rows(first);
                let span = self.starts[rows.start] as usize..self.starts[rows.end] as usize;
                for &item in &self.items[span] {
                    counts[item as usize] += 1;
                }
                Ok(counts)
            })
            .collect();
        let mut cursors = cursors.into_iter().collect::<Result<Vec<_>>>()?;
        let mut starts = with_room(n_columns + 1)?;
        let mut end = 0;
        starts.push(0);
        for column in 0..n_columns {
            for cursor in &mut cursors {
                let count = cursor[column];
                cursor[column] = end;
                end += count;
            }
            starts.push(end);
        }
        // Parts write between each other, each cell once: atomics say so, and cost nothing here.
        let cells: Vec<AtomicU32> = (0..self.items.len()).map(|_| AtomicU32::new(0)).collect();
        first_rows.par_iter().zip(cursors).for_each(|(&first, mut cursor)| {
            for row in part_rows(first) {
                for &item in self.row(row) {
                    let at = &mut cursor[item as usize];
                    cells[*at as usize].store(row as u32, Ordering::Relaxed);
                    *at += 1;
                }
            }
        });
        Ok(Self { starts, items: cells.into_iter().map(AtomicU32::into_inner).collect() })
    }
}

/// Computes a value for each row in parallel; of several errors, returns that of the first row.
fn in_row_order(
    n_rows: usize,
    value: impl Fn(usize) -> Result<usize> + Sync,
) -> Result<Vec<usize>> {
    let blocks: Vec<Result<Vec<usize>>> = (0..n_rows.div_ceil(BLOCK_ROWS))
        .into_par_iter()
        .map(|block| {
            let first = block * BLOCK_ROWS;
            let rows = first..(first + BLOCK_ROWS).min(n_rows);
            let mut values = with_room(rows.len())?;
            for row in rows {
                values.push(value(row)?);
            }
            Ok(values)
        })
        .collect();
    let mut values = with_room(n_rows)?;
    for block in blocks {
        values.append(&mut block?);
    }
    Ok(values)
}

/// Sorts the labels of a row; a duplicate is a fault.
fn sorted(name: &str, row: usize, labels: &mut [u32]) -> Result<()> {
    if labels.is_sorted_by(|a, b| a < b) {
        return Ok(());
    }
    labels.sort_unstable();
    match labels.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => {
            Err(Error::at_row(name, row, Fault::DuplicateLabel { label: pair[0] as i32 }))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn positives(indptr: &[i64], labels: &[i32], values: &[f32], max: usize) -> Result<Rows> {
        Rows::of_positives(CsrView::new("y", 9, indptr, labels, values)?, max)
    }

    #[test]
    fn positives_are_sorted_and_capped() {
        let rows =
            positives(&[0, 3, 3, 7], &[4, 0, 2, 8, 1, 3, 5], &[1., 0., 2., 1., 1., 1., 1.], 3);
        assert_eq!(rows.unwrap(), Rows { starts: vec![0, 2, 2, 2], items: vec![2, 4] });
        let message =
            |labels, values| positives(&[0, 0, 2], labels, values, 9).unwrap_err().to_string();
        assert_eq!(message(&[3, 3], &[1.0, 1.0]), "y: row 1: duplicate label 3");
        let nan = "y: row 1: truth value of label 4 must be >= 0, not NaN";
        assert_eq!(message(&[3, 4], &[1.0, f32::NAN]), nan);
    }

    #[test]
    fn transposing_twice_gives_the_rows_back_for_any_number_of_threads() {
        let mut rng = Rng::new(0, &[]);
        let mut rows = Rows { starts: vec![0], items: vec![] };
        for _ in 0..3 * BLOCK_ROWS + 5 {
            rows.items.extend((0..50u32).filter(|_| rng.below(20) == 0));
            rows.starts.push(rows.items.len() as u32);
        }
        let columns = rows.transposed(51).unwrap();
        assert_eq!(columns.row(50), &[0u32; 0]);
        assert!((0..51).all(|column| columns.row(column).is_sorted_by(|a, b| a < b)));
        assert_eq!(columns.transposed(rows.len()).unwrap(), rows);
        for threads in [1, 2, 7] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(pool.install(|| rows.transposed(51).unwrap()), columns);
        }
        let even = rows.filtered(|item| item % 2 == 0).unwrap();
        assert!(even.items.iter().all(|item| item % 2 == 0));
        assert_eq!(even.len(), rows.len());
    }
}
