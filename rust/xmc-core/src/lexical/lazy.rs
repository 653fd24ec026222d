//! Rows that are checked when they are read, and a query that is looked up by column.

use super::fault_of;
use crate::csr::CsrView;
use crate::error::{Error, Fault, Result};
use crate::memory::{touch, with_room};

/// Rows that are fetched together.
pub(super) const FETCHED: usize = 16;

/// The rows of a sparse matrix of which a call reads a few: each is checked when it is read.
///
/// A [`CsrView`] looks at every entry once, which takes milliseconds for millions of them. Whoever
/// asks the same matrix for a hundred rows, again and again, does better with this.
#[derive(Debug, Clone, Copy)]
pub struct LazyRows<'a> {
    name: &'a str,
    n_cols: usize,
    first: i64,
    indptr: &'a [i64],
    indices: &'a [i32],
    data: &'a [f32],
    trusted: bool,
}

impl<'a> LazyRows<'a> {
    /// Wraps the arrays of a matrix whose columns are features. Of the arrays only the lengths are
    /// looked at.
    ///
    /// # Errors
    /// [`Error::EmptyIndptr`]; [`Error::Parameter`] for 2^31 features or more; [`Error::Length`] if
    /// `indices` and `data` differ in length.
    pub fn new(
        name: &'a str,
        n_features: usize,
        indptr: &'a [i64],
        indices: &'a [i32],
        data: &'a [f32],
    ) -> Result<Self> {
        if n_features > i32::MAX as usize {
            let (name, rule) = ("n_features", "must be below 2^31");
            return Err(Error::Parameter { name, rule, value: n_features.to_string() });
        }
        if indptr.is_empty() {
            return Err(Error::EmptyIndptr { name: name.to_owned() });
        }
        if indices.len() != data.len() {
            let (what, expected, found) = ("values", indices.len(), data.len());
            return Err(Error::Length { name: name.to_owned(), what, expected, found });
        }
        Ok(Self { name, n_cols: n_features, first: 0, indptr, indices, data, trusted: false })
    }

    /// The same rows, of which the caller knows that they ascend and are finite: [`pair_scores`] then
    /// only looks at row pointers. Scores of rows that are not so mean nothing.
    ///
    /// [`pair_scores`]: super::pair_scores
    #[must_use]
    pub const fn trusted(self) -> Self {
        Self { trusted: true, ..self }
    }

    /// The columns and values of a row, which is checked unless it is to be trusted.
    pub(crate) fn read(&self, row: usize) -> Result<(&'a [i32], &'a [f32])> {
        if self.trusted { self.get(row) } else { self.checked(row) }
    }

    /// Number of rows.
    #[must_use]
    pub const fn n_rows(&self) -> usize {
        self.indptr.len() - 1
    }

    /// Number of columns.
    #[must_use]
    pub const fn n_cols(&self) -> usize {
        self.n_cols
    }

    /// Position of the first entry of a row, if its row pointers are right.
    #[inline]
    pub(crate) fn start(&self, row: usize) -> usize {
        let start = self.indptr.get(row).map_or(0, |at| at - self.first);
        usize::try_from(start).unwrap_or(0)
    }

    /// Checks the shape.
    pub(crate) fn check_shape(&self, n_rows: usize, n_cols: usize) -> Result<()> {
        let shape = [("rows", n_rows, self.n_rows()), ("features", n_cols, self.n_cols)];
        match shape.into_iter().find(|(_, expected, found)| expected != found) {
            None => Ok(()),
            Some((what, expected, found)) => {
                Err(Error::Length { name: self.name.to_owned(), what, expected, found })
            }
        }
    }

    /// The columns and values of a row, after they were checked.
    pub(super) fn checked(&self, row: usize) -> Result<(&'a [i32], &'a [f32])> {
        let fault = |fault| Error::at_row(self.name, row, fault);
        let (columns, values) = self.get(row)?;
        if let Some(found) = fault_of(columns, values) {
            return Err(fault(found));
        }
        // Ascending, so that the ends tell.
        let outside = |column: &&i32| **column as u32 as usize >= self.n_cols;
        if let Some(column) = columns.first().filter(outside).or(columns.last().filter(outside)) {
            let (label, n_labels) = (column.to_string(), self.n_cols);
            return Err(fault(Fault::LabelOutOfRange { label, n_labels }.of_feature()));
        }
        Ok((columns, values))
    }

    /// Brings a few rows, at most `FETCHED`, near: they lie far apart in memory.
    pub(super) fn fetch(&self, rows: &[i32]) -> Result<()> {
        for &row in rows {
            let (columns, values) = self.get(row as usize)?;
            touch(columns);
            touch(values);
        }
        Ok(())
    }

    /// The columns and values of a row as they are, if its row pointers are right.
    #[inline]
    pub(crate) fn get(&self, row: usize) -> Result<(&'a [i32], &'a [f32])> {
        let place = |at: usize| usize::try_from(self.indptr.get(at)?.checked_sub(self.first)?).ok();
        let entries = || {
            let span = place(row)?..place(row + 1)?;
            Some((self.indices.get(span.clone())?, self.data.get(span)?))
        };
        entries().ok_or_else(|| {
            let fault = Fault::BadIndptr { n_entries: self.indices.len() };
            Error::at_row(self.name, row, fault)
        })
    }
}

impl<'a> From<CsrView<'a>> for LazyRows<'a> {
    fn from(view: CsrView<'a>) -> Self {
        let (first, indptr, indices, data) = view.window();
        Self {
            name: view.name(),
            n_cols: view.n_cols(),
            first,
            indptr,
            indices,
            data,
            trusted: false,
        }
    }
}

/// No column.
const NONE: i32 = -1;
/// Slots for each term: most look-ups then end at the first slot.
const SLOTS_PER_TERM: usize = 4;
/// Size of the filter: it stays in the first-level cache.
const FILTER: usize = 8192;
/// Entries of a row that pass the filter together.
const CHUNK: usize = 256;

/// The terms of one query by column, in memory that depends on the query alone: where a vector with a
/// place for each of half a million columns would be read from far away.
pub(super) struct Terms {
    slots: Vec<(i32, f32)>,
    shift: u32,
    /// 1 for the low bits of each column of the query, else 0.
    filter: Box<[u8; FILTER]>,
}

impl Default for Terms {
    fn default() -> Self {
        Self { slots: Vec::new(), shift: 0, filter: Box::new([0; FILTER]) }
    }
}

impl Terms {
    /// Takes the terms of a query, whose columns ascend; values of 0 do not count.
    pub(super) fn load(&mut self, columns: &[i32], values: &[f32]) -> Result<()> {
        let n_slots = (columns.len() * SLOTS_PER_TERM).next_power_of_two().max(64);
        if n_slots > self.slots.capacity() {
            self.slots = with_room(n_slots)?;
        }
        self.slots.clear();
        self.slots.resize(n_slots, (NONE, 0.0));
        self.shift = u64::BITS - n_slots.ilog2();
        self.filter.fill(0);
        for (&column, &value) in columns.iter().zip(values).filter(|(_, value)| **value != 0.0) {
            let mut at = self.slot(column);
            while self.slots[at].0 != NONE {
                at = (at + 1) % n_slots;
            }
            self.slots[at] = (column, value);
            self.filter[column as usize % FILTER] = 1;
        }
        Ok(())
    }

    #[inline]
    fn slot(&self, column: i32) -> usize {
        // The top bits of a product with the golden ratio: neighbours land far apart.
        ((column as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> self.shift) as usize
    }

    /// The value of a column; 0 if the query does not have it.
    #[inline]
    fn get(&self, column: i32) -> f32 {
        let mut at = self.slot(column);
        loop {
            let (known, value) = self.slots[at];
            if known == column || known == NONE {
                return value;
            }
            at = (at + 1) % self.slots.len();
        }
    }

    /// The inner product with a sparse row, summed in `f64` by ascending column and rounded once.
    /// Columns that the query lacks would add 0 and are passed over.
    pub(super) fn product(&self, columns: &[i32], values: &[f32]) -> f32 {
        let mut passed = [0u8; CHUNK];
        // From 0.0, for an empty sum of floats is -0.0.
        let mut sum = 0.0;
        for (columns, values) in columns.chunks(CHUNK).zip(values.chunks(CHUNK)) {
            // Without a branch, which nobody could foretell.
            let mut n = 0;
            for (at, &column) in columns.iter().enumerate() {
                passed[n % CHUNK] = at as u8;
                n += usize::from(self.filter[column as u32 as usize % FILTER]);
            }
            for &at in &passed[..n] {
                let at = usize::from(at);
                sum += f64::from(self.get(columns[at])) * f64::from(values[at]);
            }
        }
        sum as f32
    }
}
