//! Building a CSR matrix from blocks of rows that are computed in parallel.

use std::ops::Range;

use rayon::prelude::*;

use crate::csr::Csr;
use crate::error::{Error, Result};
use crate::memory::{reserve, with_room};

/// Blocks that each thread computes before their rows are put together.
const BLOCKS_A_THREAD: usize = 64;

/// The rows of one block.
#[derive(Default)]
pub(crate) struct Part {
    ends: Vec<usize>,
    ids: Vec<i32>,
    values: Vec<f32>,
}

impl Part {
    /// Adds a row with the given entries.
    pub(crate) fn push_row(
        &mut self,
        entries: impl ExactSizeIterator<Item = (i32, f32)>,
    ) -> Result<()> {
        reserve(&mut self.ids, entries.len())?;
        reserve(&mut self.values, entries.len())?;
        for (id, value) in entries {
            self.ids.push(id);
            self.values.push(value);
        }
        self.ends.push(self.ids.len());
        Ok(())
    }
}

/// Computes the rows of a matrix: `fill` pushes those of a block of rows to a part.
///
/// A thread reuses its scratch memory for many blocks, so `fill` must leave it as it found it.
/// `keep_going` is called before each block. Of several errors, the one of the first block is
/// returned, so that messages do not depend on the number of threads.
pub(crate) fn csr_from_parts<S: Send>(
    (n_rows, n_cols): (usize, usize),
    rows_per_block: usize,
    keep_going: &(dyn Fn() -> bool + Sync),
    scratch: impl Fn() -> Result<S> + Sync + Send,
    fill: impl Fn(&mut S, Range<usize>, &mut Part) -> Result<()> + Sync + Send,
) -> Result<Csr> {
    let n_blocks = n_rows.div_ceil(rows_per_block);
    let n_together = BLOCKS_A_THREAD * rayon::current_num_threads();
    let mut csr =
        Csr { n_cols, indptr: with_room(n_rows + 1)?, indices: Vec::new(), data: Vec::new() };
    csr.indptr.push(0);
    let mut parts: Vec<Result<Part>> = with_room(n_together.min(n_blocks))?;
    // Some blocks at a time, so that the parts of a large matrix never take as much memory as it does.
    for first in (0..n_blocks).step_by(n_together) {
        let blocks = first..(first + n_together).min(n_blocks);
        blocks
            .into_par_iter()
            .map_init(
                || None,
                |slot, block| {
                    if !keep_going() {
                        return Err(Error::Interrupted);
                    }
                    let first = block * rows_per_block;
                    let rows = first..(first + rows_per_block).min(n_rows);
                    let scratch = match slot {
                        Some(scratch) => scratch,
                        None => slot.insert(scratch()?),
                    };
                    let ends = with_room(rows.len())?;
                    let mut part = Part { ends, ..Part::default() };
                    fill(scratch, rows, &mut part)?;
                    Ok(part)
                },
            )
            .collect_into_vec(&mut parts);
        append(&mut csr, &mut parts)?;
    }
    // What is left over was never written, and goes back without a copy.
    csr.indices.shrink_to_fit();
    csr.data.shrink_to_fit();
    Ok(csr)
}

/// Appends the rows of parts, which are freed one by one.
fn append(csr: &mut Csr, parts: &mut Vec<Result<Part>>) -> Result<()> {
    let n_entries = parts.iter().flatten().map(|part| part.ids.len()).sum();
    reserve(&mut csr.indices, n_entries)?;
    reserve(&mut csr.data, n_entries)?;
    for part in parts.drain(..) {
        let part = part?;
        let base = csr.indices.len() as i64;
        csr.indptr.extend(part.ends.iter().map(|&end| base + end as i64));
        csr.indices.extend_from_slice(&part.ids);
        csr.data.extend_from_slice(&part.values);
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_are_computed_one_after_another_are_in_order() {
        let n_rows = 700;
        let build = |broken: usize| {
            csr_from_parts(
                (n_rows, n_rows),
                3,
                &|| true,
                || Ok(()),
                |(), block, part| {
                    for row in block {
                        if row >= broken {
                            let (name, rule) = ("row", "must be good");
                            return Err(Error::Parameter { name, rule, value: row.to_string() });
                        }
                        let n = row % 3;
                        part.push_row((0..n).map(|at| ((row + at) as i32, at as f32)))?;
                    }
                    Ok(())
                },
            )
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let csr = pool.install(|| build(n_rows)).unwrap();
        assert_eq!((csr.n_cols, csr.n_rows()), (n_rows, n_rows));
        let rows = csr.view("rows").unwrap();
        for row in 0..n_rows {
            let expected: Vec<i32> = (0..row % 3).map(|at| (row + at) as i32).collect();
            assert_eq!(rows.row(row).0, expected);
        }
        // The first of several errors, in whichever block it is.
        for broken in [1, 400, 699] {
            let message = pool.install(|| build(broken)).unwrap_err().to_string();
            assert_eq!(message, format!("row must be good, not {broken}"));
        }
    }
}
