//! Building an index from rows that come in blocks.

use super::bounds::Bounds;
use super::check_rows;
use super::search::InvertedIndex;
use crate::csr::CsrView;
use crate::error::{Error, Result};
use crate::memory::zeroed;
use crate::postings::{Counts, Filling};

/// Indexes rows block by block, so that a caller can free each block when it has been added.
///
/// All blocks are counted first, and then added in the same order. The index is that of
/// [`InvertedIndex::new`] for all rows together. A page of the index takes memory when it is first
/// written, so blocks and index together take little more than the larger of both.
///
/// ```
/// use xmc_core::CsrView;
/// use xmc_core::lexical::IndexBuilder;
///
/// fn main() -> xmc_core::Result<()> {
///     let blocks = [
///         CsrView::of_features("one", 3, &[0, 2], &[0, 2], &[1.0, 0.5])?,
///         CsrView::of_features("two", 3, &[0, 1], &[2], &[2.0])?,
///     ];
///     let mut builder = IndexBuilder::new(3)?;
///     blocks.iter().try_for_each(|block| builder.count(*block))?;
///     blocks.iter().try_for_each(|block| builder.add(*block))?;
///     let index = builder.finish()?;
///     let query = CsrView::of_features("query", 3, &[0, 1], &[2], &[1.0])?;
///     assert_eq!(index.search(query, 2, None, None, None, None)?.ids, [1, 0]);
///     Ok(())
/// }
/// ```
pub struct IndexBuilder {
    n_rows: usize,
    n_features: usize,
    totals: Vec<u64>,
    filled: Option<(Filling, Bounds)>,
}

impl IndexBuilder {
    /// For rows with so many columns.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(n_features: usize) -> Result<Self> {
        Ok(Self { n_rows: 0, n_features, totals: zeroed(n_features)?, filled: None })
    }

    /// Counts a block, which will be added later.
    ///
    /// # Errors
    /// [`Error::Length`] for other columns; [`Error::Parameter`] for 2^31 rows or more, or if a block was
    /// added already; [`Error::Content`] for a row that is not ascending or a value that is not finite;
    /// [`Error::OutOfMemory`].
    pub fn count(&mut self, rows: CsrView<'_>) -> Result<()> {
        self.counted(rows).map(drop)
    }

    /// Counts a block, and returns what [`fill`](Self::fill) needs to know of it.
    pub(super) fn counted(&mut self, rows: CsrView<'_>) -> Result<Counts> {
        if self.filled.is_some() {
            return Err(out_of_order("one that was counted too late"));
        }
        super::check_columns(rows, self.n_features)?;
        let n_rows = self.n_rows + rows.n_rows();
        if n_rows > i32::MAX as usize {
            let (name, rule) = ("n_rows", "must be below 2^31");
            return Err(Error::Parameter { name, rule, value: n_rows.to_string() });
        }
        check_rows(rows)?;
        let counts = Counts::of(rows)?;
        counts.add_to(&mut self.totals);
        self.n_rows = n_rows;
        Ok(counts)
    }

    /// Adds a block that was counted, behind those before.
    ///
    /// # Errors
    /// As [`count`](Self::count); [`Error::Parameter`] for a block that was not counted.
    pub fn add(&mut self, rows: CsrView<'_>) -> Result<()> {
        super::check_columns(rows, self.n_features)?;
        check_rows(rows)?;
        let counts = Counts::of(rows)?;
        let room = self.filling()?.0.has_room(&counts)?;
        if !room || self.filling()?.0.n_rows() + rows.n_rows() > self.n_rows {
            return Err(out_of_order("one that was not counted"));
        }
        self.fill(rows, counts)
    }

    pub(super) fn fill(&mut self, rows: CsrView<'_>, counts: Counts) -> Result<()> {
        let (filling, bounds) = self.filling()?;
        filling.add(rows, counts)?;
        bounds.add(rows);
        Ok(())
    }

    fn filling(&mut self) -> Result<&mut (Filling, Bounds)> {
        match &mut self.filled {
            Some(filled) => Ok(filled),
            none => {
                let filling = Filling::new(&self.totals)?;
                let bounds = Bounds::new(self.n_rows, filling.totals())?;
                self.totals = Vec::new();
                Ok(none.insert((filling, bounds)))
            }
        }
    }

    /// The index.
    ///
    /// # Errors
    /// [`Error::Parameter`] if a block that was counted was not added; [`Error::OutOfMemory`].
    pub fn finish(mut self) -> Result<InvertedIndex> {
        let n_rows = self.n_rows;
        self.filling()?;
        let filled = self.filled.filter(|(all, _)| all.n_rows() == n_rows && all.is_full());
        let (filling, bounds) = filled.ok_or_else(|| out_of_order("one that was not added"))?;
        Ok(InvertedIndex { n_rows, postings: filling.done(), bounds })
    }
}

fn out_of_order(block: &str) -> Error {
    let (name, rule) = ("blocks", "must all be counted, and then added, each once");
    Error::Parameter { name, rule, value: block.to_owned() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_block_is_counted_and_then_added() {
        let rows = |indices, data| CsrView::of_features("rows", 3, &[0, 2], indices, data).unwrap();
        let (one, two) = (rows(&[0, 1], &[1.0, 1.0]), rows(&[1, 2], &[1.0, -1.0]));
        let rule = "blocks must all be counted, and then added, each once, not";
        let message = |result: Result<()>| result.unwrap_err().to_string();
        let mut builder = IndexBuilder::new(3).unwrap();
        builder.count(one).unwrap();
        assert_eq!(message(builder.add(two)), format!("{rule} one that was not counted"));
        builder.add(one).unwrap();
        assert_eq!(message(builder.add(one)), format!("{rule} one that was not counted"));
        assert_eq!(message(builder.count(two)), format!("{rule} one that was counted too late"));
        let empty = CsrView::of_features("rows", 3, &[0, 0], &[], &[]).unwrap();
        assert_eq!(message(builder.add(empty)), format!("{rule} one that was not counted"));
        assert_eq!(builder.finish().unwrap().n_postings(), 2);

        let mut builder = IndexBuilder::new(3).unwrap();
        builder.count(one).unwrap();
        assert_eq!(message(builder.finish().map(drop)), format!("{rule} one that was not added"));
        let mut builder = IndexBuilder::new(2).unwrap();
        assert_eq!(message(builder.count(one)), "rows: 3 features, expected 2");
    }
}
