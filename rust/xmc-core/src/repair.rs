//! Optional repair of files: what was mended, how often, and where first.

use std::fmt;

use crate::error::{Fault, Place};

/// How many faults are kept with their positions, in file order.
const PLACES: usize = 20;

/// What the columns of a matrix are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Columns {
    /// Labels with values.
    Labels,
    /// Features, and messages call them so.
    Features,
    /// Labels whose values are all 1: repeated, they are not summed.
    Listed,
}

impl Columns {
    pub(crate) fn named(self, fault: Fault) -> Fault {
        if self == Self::Features { fault.of_feature() } else { fault }
    }
}

/// What a loader repaired.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Repairs {
    /// Rows whose labels were not ascending. Every loader sorts them, so this is not a repair.
    pub rows_sorted: usize,
    /// Entries added to an earlier one of the same label (dropped, in a list without values).
    pub duplicates: usize,
    /// Entries dropped because their label is negative or beyond the header's number.
    pub out_of_range: usize,
    /// Entries dropped because their value is NaN or infinite, also as the sum of duplicates, or so
    /// small that `f32` rounds it to 0.
    pub not_finite: usize,
    /// The first 20 faults.
    pub first: Vec<(Place, Fault)>,
    /// The same while the file has no name yet: line, or row of a matrix.
    found: Vec<(usize, Fault)>,
}

impl Repairs {
    /// Entries that were changed or dropped.
    #[must_use]
    pub const fn n_entries(&self) -> usize {
        self.duplicates + self.out_of_range + self.not_finite
    }

    /// Whether this fault is mended by dropping the entry; if so it is counted.
    #[cold]
    pub(crate) fn drops(&mut self, fault: &Fault, at: usize, columns: Columns) -> bool {
        match fault {
            Fault::LabelOutOfRange { .. } => self.out_of_range += 1,
            Fault::NotFinite { .. } | Fault::TooSmall { .. } => self.not_finite += 1,
            Fault::BadLabel { label, .. } if is_negative(label) => self.out_of_range += 1,
            _ => return false,
        }
        self.note(at, || columns.named(fault.clone()));
        true
    }

    fn note(&mut self, at: usize, fault: impl FnOnce() -> Fault) {
        if self.found.len() < PLACES {
            self.found.push((at, fault()));
        }
    }

    /// Adds the repairs of what follows in the file.
    pub(crate) fn add(&mut self, later: Self) {
        self.rows_sorted += later.rows_sorted;
        self.duplicates += later.duplicates;
        self.out_of_range += later.out_of_range;
        self.not_finite += later.not_finite;
        self.found.extend(later.found);
        self.found.truncate(PLACES);
    }

    /// Turns the lines noted into places in `file`.
    pub(crate) fn name_lines(&mut self, file: &str) {
        let place = |line| Place::Line { file: file.to_owned(), line };
        self.first.extend(self.found.drain(..).map(|(line, fault)| (place(line), fault)));
    }

    /// Turns the rows noted into places in the matrix `name`.
    #[cfg(feature = "compression")]
    pub(crate) fn name_rows(&mut self, name: &str) {
        let place = |row| Place::Row { name: name.to_owned(), row };
        self.first.extend(self.found.drain(..).map(|(row, fault)| (place(row), fault)));
    }
}

fn is_negative(label: &str) -> bool {
    label.strip_prefix('-').is_some_and(|digits| {
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    })
}

impl fmt::Display for Repairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows_sorted, duplicates, out_of_range, not_finite, .. } = self;
        write!(
            f,
            "{duplicates} duplicates summed, {out_of_range} entries out of range and {not_finite} \
             not finite dropped, {rows_sorted} rows sorted"
        )
    }
}

/// Sorts a row and merges entries of the same label; returns how many are left, at the front.
///
/// Duplicates are summed in file order (in `f64`); of listed labels the first stays.
pub(crate) fn mend_row(
    ids: &mut [i32],
    values: &mut [f32],
    columns: Columns,
    at: usize,
    repairs: &mut Repairs,
    scratch: &mut Vec<(i32, f32)>,
) -> usize {
    repairs.rows_sorted += usize::from(!ids.is_sorted());
    scratch.clear();
    scratch.extend(ids.iter().copied().zip(values.iter().copied()));
    scratch.sort_by_key(|&(id, _)| id);
    let mut len = 0;
    for group in scratch.chunk_by(|a, b| a.0 == b.0) {
        let (id, mut value) = group[0];
        if group.len() > 1 {
            repairs.duplicates += group.len() - 1;
            repairs.note(at, || columns.named(Fault::DuplicateLabel { label: id }));
            if columns != Columns::Listed {
                value = group.iter().map(|entry| f64::from(entry.1)).sum::<f64>() as f32;
            }
            if !value.is_finite() {
                repairs.not_finite += 1;
                repairs.note(at, || columns.named(Fault::NotFinite { label: id }));
                continue;
            }
        }
        (ids[len], values[len]) = (id, value);
        len += 1;
    }
    len
}
