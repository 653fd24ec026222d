//! Sparse matrices as scipy saves them: a zip archive of the arrays of a CSR matrix.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::csr::{Csr, CsrView, sort_row};
use crate::error::{ArchiveFault, Error, Fault, Result};
use crate::npy::{self, Array, Failed};
use crate::repair::{Columns, Repairs, mend_row};
use crate::zip::{self, Member};

/// Scores in the precision of the file.
#[derive(Debug, Clone, PartialEq)]
pub enum Scores {
    /// From `float32` and narrower, from integers of 16 bits and less.
    F32(Csr<f32>),
    /// From `float64` and wider integers.
    F64(Csr<f64>),
}

/// A type of values that archives hold.
pub trait Value: sealed::Value {}

impl Value for f32 {}
impl Value for f64 {}

mod sealed {
    pub trait Value: Copy + Send + Sync + Into<f64> {
        const DESCR: &'static str;
        fn append(self, bytes: &mut Vec<u8>);
    }

    impl Value for f32 {
        const DESCR: &'static str = "<f4";
        fn append(self, bytes: &mut Vec<u8>) {
            bytes.extend_from_slice(&self.to_le_bytes());
        }
    }

    impl Value for f64 {
        const DESCR: &'static str = "<f8";
        fn append(self, bytes: &mut Vec<u8>) {
            bytes.extend_from_slice(&self.to_le_bytes());
        }
    }
}

type KeepGoing<'a> = &'a (dyn Fn() -> bool + Sync);

/// Reads a label matrix, with the rules of the text loader.
pub(crate) fn read_labels(
    file: &str,
    bytes: &[u8],
    keep_going: KeepGoing<'_>,
    repair: bool,
) -> Result<(Csr, Repairs)> {
    let archive = Archive::open(file, bytes)?;
    let any_vanished = AtomicBool::new(false);
    let narrow = |x: f64| {
        if vanishes(x) {
            any_vanished.store(true, Ordering::Relaxed);
        }
        x as f32
    };
    let mut csr = archive.matrix(keep_going, |n| n as f32, narrow)?;
    let mut repairs = Repairs::default();
    if any_vanished.into_inner() {
        archive.mark_vanished(&mut csr, keep_going, repair)?;
    }
    if repair {
        mend(file, &mut csr, &mut repairs);
    } else {
        check(file, &mut csr, f32::is_finite, |label, _| Fault::NotFinite { label })?;
    }
    Ok((csr, repairs))
}

/// Reads scores; only NaN is refused.
pub(crate) fn read_scores(file: &str, bytes: &[u8], keep_going: KeepGoing<'_>) -> Result<Scores> {
    let archive = Archive::open(file, bytes)?;
    let nan = |label| Fault::NanScore { label };
    let dtype = archive.array("data")?.dtype;
    let widest = if dtype.kind == b'f' { 4 } else { 2 };
    if dtype.size > widest {
        let mut csr = archive.matrix(keep_going, |n| n as f64, |x| x)?;
        check(file, &mut csr, |score| !score.is_nan(), |label, _| nan(label))?;
        return Ok(Scores::F64(csr));
    }
    let mut csr = archive.matrix(keep_going, |n| n as f32, |x| x as f32)?;
    check(file, &mut csr, |score| !score.is_nan(), |label, _| nan(label))?;
    Ok(Scores::F32(csr))
}

struct Archive<'a> {
    file: &'a str,
    members: Vec<Member<'a>>,
    n_rows: usize,
    n_cols: usize,
}

impl<'a> Archive<'a> {
    /// Checks the format and reads the shape.
    fn open(file: &'a str, bytes: &'a [u8]) -> Result<Self> {
        let members = zip::members(bytes).map_err(|wrong| damaged(file, wrong))?;
        let mut archive = Self { file, members, n_rows: 0, n_cols: 0 };
        let format = match archive.array("format") {
            Ok(array) if matches!(array.dtype.kind, b'S' | b'U') => archive.read(array.text())?,
            Ok(_) => "?".to_owned(),
            Err(error) => return Err(error),
        };
        if format != "csr" {
            return Err(archive.wrong(ArchiveFault::Format { found: format }));
        }
        let shape = archive.array("shape")?;
        let shape = match shape.shape[..] {
            [2] if b"iu".contains(&shape.dtype.kind) => {
                archive.read(shape.numbers(&|| true, |side| side, |_| -1))?
            }
            _ => return Err(archive.wrong(ArchiveFault::Shape)),
        };
        let (Ok(n_rows), Ok(n_cols)) = (usize::try_from(shape[0]), usize::try_from(shape[1]))
        else {
            return Err(archive.wrong(ArchiveFault::Shape));
        };
        if n_cols > i32::MAX as usize {
            return Err(archive.wrong(ArchiveFault::TooManyLabels { n_labels: n_cols as u64 }));
        }
        (archive.n_rows, archive.n_cols) = (n_rows, n_cols);
        Ok(archive)
    }

    fn wrong(&self, fault: ArchiveFault) -> Error {
        Error::Archive { file: self.file.to_owned(), fault }
    }

    fn read<T>(&self, read: std::result::Result<T, Failed>) -> Result<T> {
        read.map_err(|failed| match failed {
            Failed::Wrong(wrong) => damaged(self.file, wrong),
            Failed::Error(error) => error,
        })
    }

    fn array(&self, name: &'static str) -> Result<Array<'a>> {
        let is_it = |member: &&Member<'_>| member.name.strip_suffix(".npy") == Some(name);
        let member = self.members.iter().find(is_it);
        let member = member.ok_or_else(|| self.wrong(ArchiveFault::Missing { array: name }))?;
        Array::open(member).map_err(|wrong| damaged(self.file, wrong))
    }

    /// An array of numbers of the given kinds.
    fn vector(&self, array: &'static str, kinds: &[u8]) -> Result<Array<'a>> {
        let vector = self.array(array)?;
        if !kinds.contains(&vector.dtype.kind) {
            return Err(self.wrong(ArchiveFault::Dtype { array, found: vector.descr }));
        }
        if vector.shape.len() != 1 {
            return Err(self.wrong(ArchiveFault::Dimensions { array }));
        }
        Ok(vector)
    }

    /// Reads the arrays at the same time and checks their lengths.
    fn matrix<T: Send>(
        &self,
        keep_going: KeepGoing<'_>,
        whole: impl Fn(i64) -> T + Send,
        real: impl Fn(f64) -> T + Send,
    ) -> Result<Csr<T>> {
        // An id that does not fit an i32 stays out of range.
        let id = |id: i64| id.clamp(-1, i64::from(i32::MAX)) as i32;
        let [indptr, indices] = [self.vector("indptr", b"i")?, self.vector("indices", b"i")?];
        let data = self.vector("data", b"biuf")?;
        let lengths = [&indptr, &indices, &data].map(|array| array.shape[0]);
        if lengths[0] != self.n_rows as u64 + 1 || lengths[1] != lengths[2] {
            let [indptr, indices, data] = lengths.map(|len| len as usize);
            let n_rows = self.n_rows as u64;
            return Err(self.wrong(ArchiveFault::Lengths { indptr, indices, data, n_rows }));
        }
        let (indptr, (indices, data)) = rayon::join(
            || indptr.numbers(keep_going, |pointer| pointer, |_| -1),
            || {
                rayon::join(
                    || indices.numbers(keep_going, id, |_| -1),
                    || data.numbers(keep_going, whole, real),
                )
            },
        );
        let (indptr, indices) = (self.read(indptr)?, self.read(indices)?);
        let csr = Csr { n_cols: self.n_cols, indptr, indices, data: self.read(data)? };
        // Compared pairwise: a difference could wrap around and hide a hostile value.
        let n_entries = csr.indices.len();
        let last = csr.indptr[self.n_rows];
        let row = csr.indptr.windows(2).position(|pair| pair[0] > pair[1]);
        let row = row.or((csr.indptr[0] != 0).then_some(0));
        let row = row.or((last != n_entries as i64).then_some(self.n_rows.saturating_sub(1)));
        match row {
            Some(row) => Err(Error::at_row(self.file, row, Fault::BadIndptr { n_entries })),
            None => Ok(csr),
        }
    }

    /// Reads the values again, to say which of them is too small for `f32`, or to have them dropped.
    #[cold]
    fn mark_vanished(&self, csr: &mut Csr, keep_going: KeepGoing<'_>, repair: bool) -> Result<()> {
        let exact = self.vector("data", b"f")?;
        let exact = self.read(exact.numbers(keep_going, |n| n as f64, |x| x))?;
        for (at, (value, exact)) in csr.data.iter_mut().zip(exact).enumerate() {
            if !vanishes(exact) {
                continue;
            }
            if !repair {
                let row = csr.indptr.partition_point(|&end| end <= at as i64) - 1;
                let (label, value) = (csr.indices[at], format!("{exact:e}"));
                return Err(Error::at_row(self.file, row, Fault::TooSmall { label, value }));
            }
            *value = f32::NAN;
        }
        Ok(())
    }
}

/// Whether a nonzero value becomes 0 in `f32`, which would silently drop a positive.
fn vanishes(x: f64) -> bool {
    x != 0.0 && x as f32 == 0.0
}

fn damaged(file: &str, what: String) -> Error {
    Error::Damaged { file: file.to_owned(), format: "scipy .npz", what }
}

/// Checks labels and values, and sorts the rows that are not sorted.
fn check<T: Copy>(
    name: &str,
    csr: &mut Csr<T>,
    good: impl Fn(T) -> bool,
    bad: impl Fn(i32, T) -> Fault,
) -> Result<()> {
    csr.view(name)?;
    let mut scratch = Vec::new();
    for row in 0..csr.n_rows() {
        let span = csr.indptr[row] as usize..csr.indptr[row + 1] as usize;
        let (labels, values) = (&mut csr.indices[span.clone()], &mut csr.data[span]);
        if let Some(at) = values.iter().position(|&value| !good(value)) {
            return Err(Error::at_row(name, row, bad(labels[at], values[at])));
        }
        if !labels.is_sorted_by(|a, b| a < b) {
            sort_row(labels, values, &mut scratch)
                .map_err(|fault| Error::at_row(name, row, fault))?;
        }
    }
    Ok(())
}

/// Drops and merges entries, row by row and in place.
fn mend(name: &str, csr: &mut Csr, repairs: &mut Repairs) {
    let (n_labels, columns) = (csr.n_cols, Columns::Labels);
    let (mut start, mut end) = (0, 0);
    let mut scratch = Vec::new();
    for row in 0..csr.n_rows() {
        let from = end;
        let stop = csr.indptr[row + 1] as usize;
        for at in start..stop {
            let (label, value) = (csr.indices[at], csr.data[at]);
            let fault = if label as u32 as usize >= n_labels {
                Fault::LabelOutOfRange { label: label.to_string(), n_labels }
            } else if !value.is_finite() {
                Fault::NotFinite { label }
            } else {
                (csr.indices[end], csr.data[end]) = (label, value);
                end += 1;
                continue;
            };
            repairs.drops(&fault, row, columns);
        }
        let (ids, values) = (&mut csr.indices[from..end], &mut csr.data[from..end]);
        if !ids.is_sorted_by(|a, b| a < b) {
            end = from + mend_row(ids, values, columns, row, repairs, &mut scratch);
        }
        csr.indptr[row + 1] = end as i64;
        start = stop;
    }
    csr.indices.truncate(end);
    csr.data.truncate(end);
    repairs.name_rows(name);
}

/// Writes an archive that `scipy.sparse.load_npz` opens as a `csr_array`.
///
/// The same matrix always gives the same bytes; row pointers are `int32` where they fit.
///
/// # Errors
/// Those of `out`.
pub fn write_npz<T: Value>(
    matrix: CsrView<'_, T>,
    compressed: bool,
    out: impl Write,
) -> io::Result<()> {
    let (first, indptr, indices, data) = matrix.window();
    let mut archive = zip::Writer::new(out, compressed);
    let vector = |descr, n: usize| npy::head(descr, &format!("({n},)"));
    let n = indices.len();
    archive.add("indices.npy", &vector("<i4", n), n, 4, |range, bytes| {
        bytes.extend(indices[range].iter().flat_map(|id| id.to_le_bytes()));
    })?;
    let (n_pointers, is_narrow) = (indptr.len(), i32::try_from(n).is_ok());
    let (descr, size) = if is_narrow { ("<i4", 4) } else { ("<i8", 8) };
    archive.add("indptr.npy", &vector(descr, n_pointers), n_pointers, size, |range, bytes| {
        for pointer in &indptr[range] {
            bytes.extend_from_slice(&(pointer - first).to_le_bytes()[..size]);
        }
    })?;
    archive.add("format.npy", &npy::head("|S3", "()"), 3, 1, |range, bytes| {
        bytes.extend_from_slice(&b"csr"[range]);
    })?;
    let shape = [matrix.n_rows() as u64, matrix.n_cols() as u64];
    archive.add("shape.npy", &vector("<i8", 2), 2, 8, |range, bytes| {
        bytes.extend(shape[range].iter().flat_map(|side| side.to_le_bytes()));
    })?;
    archive.add("data.npy", &vector(T::DESCR, n), n, size_of::<T>(), |range, bytes| {
        for &value in &data[range] {
            value.append(bytes);
        }
    })?;
    archive.add("_is_array.npy", &npy::head("|b1", "()"), 1, 1, |_, bytes| bytes.push(1))?;
    archive.finish()
}
