//! Sparse matrices: borrowed views that are validated once, and owned results.

mod parts;

pub(crate) use parts::{Part, csr_from_parts};

use crate::error::{Error, Fault, Result};

/// The positions of a CSR matrix, without values: a set of (row, label) pairs.
///
/// Borrows `indptr` (`i64`, one more than rows) and `indices` (`i32`). `indptr` may be a window of a
/// larger one, that is start above 0 and end before the last entry: taking rows `a..b` of a matrix
/// copies nothing. The name stands in error messages.
///
/// Valid once built: row pointers do not decrease and stay within the entries, and every label of
/// the window is in `0..n_cols`. Labels may be unsorted and may repeat; functions that forbid it check
/// it themselves.
#[derive(Debug, Clone, Copy)]
pub struct CsrPattern<'a> {
    name: &'a str,
    n_cols: usize,
    indptr: &'a [i64],
    indices: &'a [i32],
}

impl<'a> CsrPattern<'a> {
    /// Checks and wraps the arrays of a matrix with `n_cols` columns.
    ///
    /// # Errors
    /// [`Error::EmptyIndptr`], [`Error::Parameter`] if `n_cols` is more than an `i32` can name,
    /// [`Error::Content`] for a bad row pointer or a label out of range.
    pub fn new(
        name: &'a str,
        n_cols: usize,
        indptr: &'a [i64],
        indices: &'a [i32],
    ) -> Result<Self> {
        if n_cols > i32::MAX as usize {
            let (name, rule) = ("n_labels", "must be below 2^31");
            return Err(Error::Parameter { name, rule, value: n_cols.to_string() });
        }
        let Some((&first, &last)) = indptr.first().zip(indptr.last()) else {
            return Err(Error::EmptyIndptr { name: name.to_owned() });
        };
        let fits = |pointer: i64| usize::try_from(pointer).is_ok_and(|p| p <= indices.len());
        let bad_row = indptr.windows(2).position(|pair| pair[0] > pair[1]);
        let bad_row = bad_row.or((!fits(first)).then_some(0));
        let bad_row = bad_row.or((!fits(last)).then_some(indptr.len().saturating_sub(2)));
        if let Some(row) = bad_row {
            return Err(Error::at_row(name, row, Fault::BadIndptr { n_entries: indices.len() }));
        }
        let pattern = Self { name, n_cols, indptr, indices };
        let window = &indices[first as usize..last as usize];
        // Branchless over the window, so that the common case runs at memory speed. Seen as u32, a
        // negative label is out of range as well.
        let largest = window.iter().map(|&label| label as u32).max();
        if largest.is_some_and(|label| label as usize >= n_cols) {
            return Err(pattern.first_out_of_range());
        }
        Ok(pattern)
    }

    #[cold]
    fn first_out_of_range(&self) -> Error {
        let n_labels = self.n_cols;
        for row in 0..self.n_rows() {
            for &label in self.row(row) {
                if label as u32 as usize >= n_labels {
                    let fault = Fault::LabelOutOfRange { label: label.to_string(), n_labels };
                    return Error::at_row(self.name, row, fault);
                }
            }
        }
        Error::EmptyIndptr { name: self.name.to_owned() }
    }

    /// Name of the matrix in messages.
    #[must_use]
    pub const fn name(&self) -> &'a str {
        self.name
    }

    /// Number of rows of the window.
    #[must_use]
    pub const fn n_rows(&self) -> usize {
        self.indptr.len() - 1
    }

    /// Number of columns.
    #[must_use]
    pub const fn n_cols(&self) -> usize {
        self.n_cols
    }

    /// The labels of row `row` of the window.
    ///
    /// # Panics
    /// If `row >= n_rows`.
    #[must_use]
    pub fn row(&self, row: usize) -> &'a [i32] {
        &self.indices[self.span(row)]
    }

    /// Where the entries of a row of the window stand.
    pub(crate) fn span(&self, row: usize) -> std::ops::Range<usize> {
        self.indptr[row] as usize..self.indptr[row + 1] as usize
    }

    /// Some rows of the window; nothing is copied.
    ///
    /// # Panics
    /// If the range ends after the last row.
    #[must_use]
    pub fn rows(&self, rows: std::ops::Range<usize>) -> Self {
        Self { indptr: &self.indptr[rows.start..=rows.end], ..*self }
    }

    /// Checks that the window has `n_rows` rows and the matrix `n_cols` columns.
    ///
    /// # Errors
    /// [`Error::Length`].
    pub fn check_shape(&self, n_rows: usize, n_cols: usize) -> Result<()> {
        let check = |what, expected, found| {
            if expected == found {
                return Ok(());
            }
            Err(Error::Length { name: self.name.to_owned(), what, expected, found })
        };
        check("rows", n_rows, self.n_rows())?;
        check("labels", n_cols, self.n_cols)
    }
}

/// A borrowed CSR matrix: a [`CsrPattern`] and a value for each entry.
#[derive(Debug, Clone, Copy)]
pub struct CsrView<'a, T = f32> {
    pattern: CsrPattern<'a>,
    data: &'a [T],
}

impl<'a, T> CsrView<'a, T> {
    /// Checks and wraps the arrays of a matrix with `n_cols` columns.
    ///
    /// # Errors
    /// As [`CsrPattern::new`], and [`Error::Length`] if `indices` and `data` differ in length.
    pub fn new(
        name: &'a str,
        n_cols: usize,
        indptr: &'a [i64],
        indices: &'a [i32],
        data: &'a [T],
    ) -> Result<Self> {
        if indices.len() != data.len() {
            let (what, expected, found) = ("values", indices.len(), data.len());
            return Err(Error::Length { name: name.to_owned(), what, expected, found });
        }
        Ok(Self { pattern: CsrPattern::new(name, n_cols, indptr, indices)?, data })
    }

    /// As [`new`](Self::new), for a matrix whose columns are features; its messages say so.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of_features(
        name: &'a str,
        n_features: usize,
        indptr: &'a [i64],
        indices: &'a [i32],
        data: &'a [T],
    ) -> Result<Self> {
        Self::new(name, n_features, indptr, indices, data).map_err(|error| match error {
            Error::Content { place, fault } => Error::Content { place, fault: fault.of_feature() },
            Error::Parameter { name: "n_labels", rule, value } => {
                Error::Parameter { name: "n_features", rule, value }
            }
            error => error,
        })
    }

    /// The positions alone.
    #[must_use]
    pub const fn pattern(&self) -> CsrPattern<'a> {
        self.pattern
    }

    /// Name of the matrix in messages.
    #[must_use]
    pub const fn name(&self) -> &'a str {
        self.pattern.name
    }

    /// Number of rows of the window.
    #[must_use]
    pub const fn n_rows(&self) -> usize {
        self.pattern.n_rows()
    }

    /// Number of columns.
    #[must_use]
    pub const fn n_cols(&self) -> usize {
        self.pattern.n_cols
    }

    /// Some rows of the window; nothing is copied.
    ///
    /// # Panics
    /// If the range ends after the last row.
    #[must_use]
    pub fn rows(&self, rows: std::ops::Range<usize>) -> Self {
        Self { pattern: self.pattern.rows(rows), data: self.data }
    }

    /// First row pointer, row pointers, labels and values of the window.
    pub(crate) fn window(&self) -> (i64, &'a [i64], &'a [i32], &'a [T]) {
        let CsrPattern { indptr, indices, .. } = self.pattern;
        let (first, last) = (indptr[0], indptr[self.n_rows()]);
        let span = first as usize..last as usize;
        (first, indptr, &indices[span.clone()], &self.data[span])
    }

    /// The labels and values of row `row` of the window.
    ///
    /// # Panics
    /// If `row >= n_rows`.
    #[must_use]
    pub fn row(&self, row: usize) -> (&'a [i32], &'a [T]) {
        let span = self.pattern.span(row);
        (&self.pattern.indices[span.clone()], &self.data[span])
    }
}

/// An owned CSR matrix. From a file, its rows are sorted by label, without duplicates.
#[derive(Debug, Clone, PartialEq)]
pub struct Csr<T = f32> {
    /// Number of columns.
    pub n_cols: usize,
    /// Row pointers, one more than rows, from 0 to the number of entries.
    pub indptr: Vec<i64>,
    /// Labels, row after row.
    pub indices: Vec<i32>,
    /// Values, row after row.
    pub data: Vec<T>,
}

impl<T> Csr<T> {
    /// Number of rows.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.indptr.len().saturating_sub(1)
    }

    /// A view of all rows under the given name.
    ///
    /// # Errors
    /// As [`CsrView::new`], if the fields were changed by hand.
    pub fn view<'a>(&'a self, name: &'a str) -> Result<CsrView<'a, T>> {
        CsrView::new(name, self.n_cols, &self.indptr, &self.indices, &self.data)
    }
}

/// Checks a whole matrix by the rules of the text loader.
///
/// `None` if it is fine as it is, or its indices and values with every row sorted by label.
///
/// # Errors
/// [`Error::Length`] if the view is not the whole matrix; [`Error::Content`] for a duplicate label or
/// a value that is not finite.
pub fn check_matrix(view: CsrView<'_>) -> Result<Option<(Vec<i32>, Vec<f32>)>> {
    let CsrView { pattern: CsrPattern { name, indptr, indices, .. }, data } = view;
    let used = indptr[view.n_rows()] as usize - indptr[0] as usize;
    if used != indices.len() {
        let (what, expected, found) = ("entries in rows", indices.len(), used);
        return Err(Error::Length { name: name.to_owned(), what, expected, found });
    }
    let mut sorted: Option<(Vec<i32>, Vec<f32>)> = None;
    let mut scratch = Vec::new();
    for row in 0..view.n_rows() {
        let (labels, values) = view.row(row);
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err(Error::at_row(name, row, Fault::NotFinite { label: labels[at] }));
        }
        if !labels.is_sorted_by(|a, b| a < b) {
            let (indices, data) = sorted.get_or_insert_with(|| (indices.to_vec(), data.to_vec()));
            let span = view.pattern.span(row);
            sort_row(&mut indices[span.clone()], &mut data[span], &mut scratch)
                .map_err(|fault| Error::at_row(name, row, fault))?;
        }
    }
    Ok(sorted)
}

/// Sorts one row by label, values alongside; a duplicate label is a fault.
pub(crate) fn sort_row<T: Copy>(
    labels: &mut [i32],
    values: &mut [T],
    scratch: &mut Vec<(i32, T)>,
) -> std::result::Result<(), Fault> {
    scratch.clear();
    scratch.extend(labels.iter().copied().zip(values.iter().copied()));
    scratch.sort_unstable_by_key(|&(label, _)| label);
    if let Some(pair) = scratch.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(Fault::DuplicateLabel { label: pair[0].0 });
    }
    for ((label, value), entry) in labels.iter_mut().zip(values).zip(scratch) {
        (*label, *value) = *entry;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_window_sees_its_rows() {
        let (indices, data) = ([0, 2, 1, 3], [1f32, 2.0, 3.0, 4.0]);
        let view = CsrView::new("m", 4, &[2, 3, 3], &indices, &data).unwrap();
        assert_eq!(view.n_rows(), 2);
        assert_eq!(view.row(0), (&[1][..], &[3f32][..]));
        assert_eq!(view.row(1), (&[][..], &[][..]));
        // Only the labels of the window are looked at.
        assert!(CsrView::new("m", 3, &[2, 3, 3], &indices, &data).is_ok());
    }

    #[test]
    fn bad_arrays_are_named() {
        let message = |n_cols, indptr: &[i64], indices: &[i32], data: &[f32]| {
            CsrView::new("m", n_cols, indptr, indices, data).unwrap_err().to_string()
        };
        let pointer =
            |row| format!("m: row {row}: indptr decreases or points outside the 2 stored entries");
        assert_eq!(message(3, &[], &[], &[]), "m: indptr is empty");
        assert_eq!(message(3, &[0, 2, 1], &[0, 1], &[1.0; 2]), pointer(1));
        assert_eq!(message(3, &[-1, 1], &[0, 1], &[1.0; 2]), pointer(0));
        assert_eq!(message(3, &[0, 1, 3], &[0, 1], &[1.0; 2]), pointer(1));
        assert_eq!(message(3, &[0, 1], &[0], &[]), "m: 0 values, expected 1");
        let range = |row, label| format!("m: row {row}: label {label} out of range (n_labels = 3)");
        assert_eq!(message(3, &[0, 1, 2], &[0, 3], &[1.0; 2]), range(1, 3));
        assert_eq!(message(3, &[0, 2], &[0, -1], &[1.0; 2]), range(0, -1));
        assert_eq!(message(1 << 31, &[0], &[], &[]), "n_labels must be below 2^31, not 2147483648");
    }

    #[test]
    fn matrices_from_outside() {
        let check = |indptr: &[i64], indices: &[i32], data: &[f32]| {
            check_matrix(CsrView::new("m", 9, indptr, indices, data)?)
        };
        assert_eq!(check(&[0, 2, 2], &[1, 4], &[1.0, 0.0]).unwrap(), None);
        let sorted = check(&[0, 1, 3], &[5, 4, 1], &[1.0, 2.0, 3.0]).unwrap();
        assert_eq!(sorted, Some((vec![5, 1, 4], vec![1.0, 3.0, 2.0])));
        let message = |indptr: &[i64], indices: &[i32], data: &[f32]| {
            check(indptr, indices, data).unwrap_err().to_string()
        };
        assert_eq!(message(&[0, 1, 3], &[5, 4, 4], &[1.0; 3]), "m: row 1: duplicate label 4");
        let nan = [1.0, f32::NAN];
        assert_eq!(message(&[0, 2], &[5, 6], &nan), "m: row 0: value is not finite (label 6)");
        assert_eq!(message(&[1, 2], &[5, 6], &nan), "m: 1 entries in rows, expected 2");
    }
}
