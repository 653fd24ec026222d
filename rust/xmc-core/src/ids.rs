//! Elements of ranked ids.

use crate::error::Fault;

mod sealed {
    pub trait Sealed {}
    impl Sealed for i32 {}
    impl Sealed for i64 {}
}

/// An element of a ranking, `i32` or `i64`; -1 is padding.
pub trait Id: sealed::Sealed + Copy + Into<i64> + Send + Sync {
    /// -1.
    #[doc(hidden)]
    const PADDING: Self;
    /// The largest element as if they had no sign, so that a negative one is larger than any label.
    #[doc(hidden)]
    fn largest(row: &[Self]) -> u64;
    /// The row as labels, all of which are in range.
    #[doc(hidden)]
    fn labels<'a>(row: &'a [Self], scratch: &'a mut Vec<i32>) -> &'a [i32];
    /// The row as labels, if it can be read as it stands.
    #[doc(hidden)]
    fn plain(row: &[Self]) -> Option<&[i32]>;
}

impl Id for i32 {
    const PADDING: Self = -1;

    #[inline]
    fn largest(row: &[Self]) -> u64 {
        u64::from(row.iter().fold(0, |largest, &id| largest.max(id as u32)))
    }

    #[inline]
    fn labels<'a>(row: &'a [Self], _scratch: &'a mut Vec<i32>) -> &'a [i32] {
        row
    }

    #[inline]
    fn plain(row: &[Self]) -> Option<&[i32]> {
        Some(row)
    }
}

impl Id for i64 {
    const PADDING: Self = -1;

    #[inline]
    fn largest(row: &[Self]) -> u64 {
        row.iter().fold(0, |largest, &id| largest.max(id as u64))
    }

    #[inline]
    fn labels<'a>(row: &'a [Self], scratch: &'a mut Vec<i32>) -> &'a [i32] {
        scratch.clear();
        scratch.extend(row.iter().map(|&id| id as i32));
        scratch
    }

    #[inline]
    fn plain(_row: &[Self]) -> Option<&[i32]> {
        None
    }
}

/// A row up to its padding, where every label is in range.
#[inline]
pub(crate) fn without_padding<I: Id>(row: &[I], n_labels: usize) -> Result<&[I], Fault> {
    if I::largest(row) < n_labels as u64 {
        return Ok(row);
    }
    let end = row.iter().position(|&id| id.into() == -1).unwrap_or(row.len());
    if let Some(&id) = row[end..].iter().find(|&&id| id.into() != -1) {
        return Err(Fault::AfterPadding { label: id.into() });
    }
    let in_range = |id: i64| (0..n_labels as i64).contains(&id);
    match row[..end].iter().find(|&&id| !in_range(id.into())) {
        Some(&id) => Err(Fault::LabelOutOfRange { label: id.into().to_string(), n_labels }),
        None => Ok(&row[..end]),
    }
}
