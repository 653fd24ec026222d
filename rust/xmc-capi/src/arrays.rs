//! What comes from C and goes back: pointers become slices, counts and texts after every check that
//! is possible.

use std::ffi::{CStr, c_char};
use std::slice;

use xmc_core::{CsrPattern, CsrView};

use crate::status::{Failure, Outcome, xmc_status};

/// A sparse matrix in the caller's memory: the labels and values of row i are entries
/// `indptr[i]` to `indptr[i + 1] - 1` of `indices` and `data`.
///
/// A function that takes one borrows the arrays for the time of the call, checks them (row pointers
/// do not decrease and stay within the entries, every label is in `0..n_cols`) and never writes to
/// them. `indptr` may be a window of a larger one, so that taking some rows copies nothing.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct xmc_csr {
    /// Rows: points.
    pub n_rows: i64,
    /// Columns: labels. Below 2^31.
    pub n_cols: i64,
    /// Length of `indices` and `data`.
    pub n_entries: i64,
    /// Row pointers, `n_rows + 1` of them.
    pub indptr: *const i64,
    /// Labels from 0.
    pub indices: *const i32,
    /// Values. May be null where only the positions count, as in `exclude`.
    pub data: *const f32,
}

/// xmc_csr with values of type double: scores that must not be rounded, since rounding makes ties.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct xmc_csr_f64 {
    /// Rows: points.
    pub n_rows: i64,
    /// Columns: labels. Below 2^31.
    pub n_cols: i64,
    /// Length of `indices` and `data`.
    pub n_entries: i64,
    /// Row pointers, `n_rows + 1` of them.
    pub indptr: *const i64,
    /// Labels from 0.
    pub indices: *const i32,
    /// Values.
    pub data: *const f64,
}

/// A matrix of C whose values are `Self::Value`.
pub(crate) trait Matrix {
    type Value;
    fn positions(&self) -> (i64, i64, i64, *const i64, *const i32);
    fn values(&self) -> *const Self::Value;
}

impl Matrix for xmc_csr {
    type Value = f32;

    fn positions(&self) -> (i64, i64, i64, *const i64, *const i32) {
        (self.n_rows, self.n_cols, self.n_entries, self.indptr, self.indices)
    }

    fn values(&self) -> *const f32 {
        self.data
    }
}

impl Matrix for xmc_csr_f64 {
    type Value = f64;

    fn positions(&self) -> (i64, i64, i64, *const i64, *const i32) {
        (self.n_rows, self.n_cols, self.n_entries, self.indptr, self.indices)
    }

    fn values(&self) -> *const f64 {
        self.data
    }
}

/// The slices of a matrix, which are `Send`, as pointers are not.
pub(crate) struct Slices<'a, T> {
    name: &'static str,
    n_cols: usize,
    indptr: &'a [i64],
    indices: &'a [i32],
    data: &'a [T],
}

impl<'a, T> Slices<'a, T> {
    pub(crate) fn view(&self) -> xmc_core::Result<CsrView<'a, T>> {
        CsrView::new(self.name, self.n_cols, self.indptr, self.indices, self.data)
    }

    pub(crate) fn pattern(&self) -> xmc_core::Result<CsrPattern<'a>> {
        CsrPattern::new(self.name, self.n_cols, self.indptr, self.indices)
    }

    pub(crate) const fn n_rows(&self) -> usize {
        self.indptr.len() - 1
    }
}

/// The slices of a matrix that must be there, with its values.
///
/// # Safety
/// `matrix` is null or readable, its pointers are null or readable for the lengths it states, and
/// nobody writes to any of it during `'a`.
pub(crate) unsafe fn matrix<'a, M: Matrix>(
    name: &'static str,
    matrix: *const M,
) -> Outcome<Slices<'a, M::Value>>
where
    M::Value: 'a,
{
    // SAFETY: as the caller promises.
    let matrix = unsafe { reference(name, matrix) }?;
    // SAFETY: as the caller promises.
    let Slices { n_cols, indptr, indices, .. } = unsafe { positions(name, matrix) }?;
    // SAFETY: as the caller promises.
    let data = unsafe { slice(name, "data", matrix.values(), indices.len()) }?;
    Ok(Slices { name, n_cols, indptr, indices, data })
}

/// The positions of a matrix that may be null, which means that there are no pairs.
///
/// # Safety
/// As [`matrix`]; the values are not looked at.
pub(crate) unsafe fn pairs<'a>(
    name: &'static str,
    matrix: *const xmc_csr,
) -> Outcome<Option<Slices<'a, f32>>> {
    if matrix.is_null() {
        return Ok(None);
    }
    // SAFETY: as the caller promises.
    unsafe { positions(name, reference(name, matrix)?) }.map(Some)
}

/// # Safety
/// As [`matrix`].
unsafe fn positions<'a, M: Matrix>(
    name: &'static str,
    matrix: &M,
) -> Outcome<Slices<'a, M::Value>> {
    let (n_rows, n_cols, n_entries, indptr, indices) = matrix.positions();
    let side = |what: &str, side: i64| count(&format!("{name}: {what}"), side);
    let (n_rows, n_cols) = (side("n_rows", n_rows)?, side("n_cols", n_cols)?);
    let n_entries = side("n_entries", n_entries)?;
    // SAFETY: as the caller promises.
    let indptr = unsafe { slice(name, "indptr", indptr, n_rows.saturating_add(1)) }?;
    // SAFETY: as the caller promises.
    let indices = unsafe { slice(name, "indices", indices, n_entries) }?;
    Ok(Slices { name, n_cols, indptr, indices, data: &[] })
}

/// A count from C.
pub(crate) fn count(name: &str, number: i64) -> Outcome<usize> {
    let negative = || format!("{name} must not be negative, not {number}");
    usize::try_from(number).map_err(|_| Failure::parameter(negative()))
}

/// What a pointer that must not be null points to.
///
/// # Safety
/// `pointer` is null or readable, and nobody writes there during `'a`.
pub(crate) unsafe fn reference<'a, T>(name: &str, pointer: *const T) -> Outcome<&'a T> {
    check(name, pointer)?;
    // SAFETY: not null, aligned, and readable as the caller promises.
    Ok(unsafe { &*pointer })
}

/// `len` values; null is fine if there are none.
///
/// # Safety
/// `pointer` is null or readable for `len` values, and nobody writes there during `'a`.
pub(crate) unsafe fn slice<'a, T>(
    name: &str,
    field: &str,
    pointer: *const T,
    len: usize,
) -> Outcome<&'a [T]> {
    if len == 0 {
        return Ok(&[]);
    }
    let name = if field.is_empty() { name.to_owned() } else { format!("{name}: {field}") };
    check(&name, pointer)?;
    fits::<T>(&name, len)?;
    // SAFETY: not null, aligned, not larger than an object may be, readable as the caller promises.
    Ok(unsafe { slice::from_raw_parts(pointer, len) })
}

/// A checked place for results in the caller's memory, which need not hold anything yet: it is
/// written to, and never read.
pub(crate) struct Out<T> {
    pointer: *mut T,
    len: usize,
}

impl<T: Copy> Out<T> {
    /// Room for `len` values; null is fine if there are none.
    ///
    /// # Safety
    /// `pointer` is null or writable for `len` values as long as this object lives.
    pub(crate) unsafe fn new(name: &str, pointer: *mut T, len: usize) -> Outcome<Self> {
        if len > 0 {
            check(name, pointer)?;
            fits::<T>(name, len)?;
        }
        Ok(Self { pointer, len })
    }

    /// Fills the place with as many values as it was made for.
    pub(crate) fn write(self, values: &[T]) -> Outcome {
        if values.len() != self.len {
            let message = format!("{} results for {} places", values.len(), self.len);
            return Err(Failure::new(xmc_status::Internal, message));
        }
        if !values.is_empty() {
            // SAFETY: as many values as the place holds, by the test above; not null, aligned and
            // writable as `new` saw and was promised. `values` is memory of this library, so that
            // the two do not overlap.
            unsafe { self.pointer.copy_from_nonoverlapping(values.as_ptr(), values.len()) };
        }
        Ok(())
    }
}

fn check<T>(name: &str, pointer: *const T) -> Outcome {
    if pointer.is_null() {
        return Err(Failure::parameter(format!("{name} is null")));
    }
    if !pointer.is_aligned() {
        let message = format!("{name} is not aligned to {} bytes", align_of::<T>());
        return Err(Failure::parameter(message));
    }
    Ok(())
}

/// An array is never larger than `isize::MAX` bytes.
fn fits<T>(name: &str, len: usize) -> Outcome {
    let bytes = len.checked_mul(size_of::<T>());
    if bytes.is_none_or(|bytes| bytes > isize::MAX as usize) {
        return Err(Failure::parameter(format!("{name}: {len} values are more than memory holds")));
    }
    Ok(())
}

/// A text that must not be null and must be UTF-8.
///
/// # Safety
/// `pointer` is null or points to a nul-terminated text that nobody changes during `'a`.
pub(crate) unsafe fn text<'a>(name: &str, pointer: *const c_char) -> Outcome<&'a str> {
    check(name, pointer)?;
    // SAFETY: not null, and terminated as the caller promises.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().map_err(|_| {
        let shown = text.to_bytes().escape_ascii();
        Failure::parameter(format!("{name} is not UTF-8: '{shown}'"))
    })
}

/// Stores a new handle at `out`, or null if `make` fails.
///
/// # Safety
/// `out` is null or a place for a pointer that nobody else looks at meanwhile.
pub(crate) unsafe fn give<T>(
    name: &str,
    out: *mut *mut T,
    make: impl FnOnce() -> Outcome<T>,
) -> Outcome {
    check(name, out)?;
    // SAFETY: not null, aligned, and writable as the caller promises. `write` does not read what was
    // there, which need not be anything.
    unsafe { out.write(std::ptr::null_mut()) };
    let handle = Box::into_raw(Box::new(make()?));
    // SAFETY: as above.
    unsafe { out.write(handle) };
    Ok(())
}

/// Takes a handle back from C.
///
/// # Safety
/// `pointer` is null or came from [`give`] and has not been taken back.
pub(crate) unsafe fn handle<T>(pointer: *mut T) -> Option<Box<T>> {
    // SAFETY: made by `Box::into_raw` in `give`, and owned by nobody else as the caller promises.
    (!pointer.is_null()).then(|| unsafe { Box::from_raw(pointer) })
}
