//! Opening and replacing files: the only part of the crate that uses the file system.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use memmap2::Mmap;

use crate::bow::Bow;
use crate::csr::{Csr, CsrPattern, CsrView};
use crate::error::{Error, Result};
#[cfg(feature = "compression")]
use crate::npz::{self, Scores};
use crate::pairs::{Pairs, parse_pairs};
use crate::repair::Repairs;
use crate::stream::{Packing, Stream};
use crate::text::{self, Layout, ParseOptions, Parsed, Text};
use crate::write;

/// Reads a label matrix: LF text, plain or compressed, or a scipy CSR archive.
///
/// The first bytes decide the format, not the name: gzip, zstd, zip (an archive), otherwise text.
/// A plain file is mapped; of a compressed one a few megabytes are unpacked at a time.
///
/// # Errors
/// [`Error::Io`], [`Error::Damaged`], [`Error::Archive`], [`Error::OutOfMemory`], and those of
/// [`parse_labels`](crate::parse_labels).
pub fn load_labels(path: &Path, options: ParseOptions<'_>) -> Result<Csr> {
    Ok(labels(path, options, false)?.0)
}

/// As [`load_labels`], but mends what [`Repairs`] counts.
///
/// # Errors
/// As [`load_labels`], for faults that no repair mends.
pub fn load_labels_repaired(path: &Path, options: ParseOptions<'_>) -> Result<(Csr, Repairs)> {
    labels(path, options, true)
}

fn labels(path: &Path, options: ParseOptions<'_>, repair: bool) -> Result<(Csr, Repairs)> {
    let bytes = Bytes::open(path).map_err(Error::io(path))?;
    #[cfg(feature = "compression")]
    if is_archive(path, &bytes) {
        return npz::read_labels(&path.to_string_lossy(), &bytes, options.keep_going, repair);
    }
    let parsed = parse(path, &bytes, Layout::Lf, options, repair)?;
    Ok((parsed.entries, parsed.repairs))
}

/// Reads bag-of-words text, plain or compressed.
///
/// # Errors
/// As [`load_labels`].
pub fn load_bow(path: &Path, options: ParseOptions<'_>) -> Result<Bow> {
    let bytes = Bytes::open(path).map_err(Error::io(path))?;
    Ok(parse(path, &bytes, Layout::Bow, options, false)?.into())
}

/// As [`load_bow`], but mends what [`Repairs`] counts, in both matrices.
///
/// # Errors
/// As [`load_bow`], for faults that no repair mends.
pub fn load_bow_repaired(path: &Path, options: ParseOptions<'_>) -> Result<(Bow, Repairs)> {
    let bytes = Bytes::open(path).map_err(Error::io(path))?;
    let mut parsed = parse(path, &bytes, Layout::Bow, options, true)?;
    let repairs = std::mem::take(&mut parsed.repairs);
    Ok((parsed.into(), repairs))
}

/// Reads predicted scores: as [`load_labels`], but the scores of an archive keep `f64` where they
/// have it (rounding makes ties, and ties decide metrics), and may be infinite.
///
/// # Errors
/// As [`load_labels`]; a score that is NaN is one.
#[cfg(feature = "compression")]
pub fn load_scores(path: &Path, options: ParseOptions<'_>) -> Result<Scores> {
    let bytes = Bytes::open(path).map_err(Error::io(path))?;
    if is_archive(path, &bytes) {
        return npz::read_scores(&path.to_string_lossy(), &bytes, options.keep_going);
    }
    Ok(Scores::F32(parse(path, &bytes, Layout::Lf, options, false)?.entries))
}

/// Reads filter pairs, plain or compressed, for a matrix of the given shape.
///
/// # Errors
/// As [`load_labels`], and those of [`parse_pairs`].
pub fn load_pairs(path: &Path, n_rows: usize, n_labels: usize) -> Result<Pairs> {
    let bytes = Bytes::open(path).map_err(Error::io(path))?;
    let file = path.to_string_lossy();
    match Packing::of(&bytes) {
        Packing::None => parse_pairs(&file, &bytes, n_rows, n_labels),
        packing => {
            let text = Stream::new(&file, packing, &bytes)?.read_all(&|| true)?;
            parse_pairs(&file, &text, n_rows, n_labels)
        }
    }
}

/// Reads a whole file and unpacks it if it is gzip or zstd.
///
/// # Errors
/// [`Error::Io`], [`Error::Damaged`], [`Error::OutOfMemory`], [`Error::Interrupted`].
pub fn load_bytes(path: &Path, options: ParseOptions<'_>) -> Result<Vec<u8>> {
    let bytes = Bytes::open(path).map_err(Error::io(path))?;
    let file = path.to_string_lossy();
    Stream::new(&file, Packing::of(&bytes), &bytes)?.read_all(options.keep_going)
}

fn parse(
    path: &Path,
    bytes: &[u8],
    layout: Layout,
    options: ParseOptions<'_>,
    repair: bool,
) -> Result<Parsed> {
    let file = path.to_string_lossy();
    let text = match Packing::of(bytes) {
        Packing::None => Text::Whole(bytes),
        packing => Text::Chunks(Stream::new(&file, packing, bytes)?),
    };
    text::parse(&file, text, layout, options, repair)
}

/// Whether a file is an archive, or is named like one (and is damaged if it is not).
#[cfg(feature = "compression")]
fn is_archive(path: &Path, bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK") || path.extension().is_some_and(|suffix| suffix == "npz")
}

/// Writes LF text beside `path`, then renames: readers see the old file or the new one. A name that
/// ends in `.gz` or `.zst` is compressed.
///
/// # Errors
/// [`Error::Io`]; the file at `path` is then as before.
pub fn save_labels(path: &Path, matrix: CsrView<'_>) -> Result<()> {
    replace(path, |out| write::pack_labels(matrix, out, Packing::by_suffix(path)))
}

/// Writes bag-of-words text, as [`save_labels`] does.
///
/// # Errors
/// As [`save_labels`].
pub fn save_bow(path: &Path, features: CsrView<'_>, labels: CsrPattern<'_>) -> Result<()> {
    replace(path, |out| write::pack_bow(features, labels, out, Packing::by_suffix(path)))
}

/// Writes filter pairs, as [`save_labels`] does.
///
/// # Errors
/// As [`save_labels`].
pub fn save_pairs(path: &Path, pairs: CsrPattern<'_>) -> Result<()> {
    replace(path, |out| write::pack_pairs(pairs, out, Packing::by_suffix(path)))
}

/// Writes a scipy CSR archive (`.npz`), as [`save_labels`] does; its arrays are compressed on demand.
///
/// # Errors
/// As [`save_labels`].
#[cfg(feature = "compression")]
pub fn save_npz<T: npz::Value>(
    path: &Path,
    matrix: CsrView<'_, T>,
    compressed: bool,
) -> Result<()> {
    replace(path, |out| npz::write_npz(matrix, compressed, out))
}

/// Writes a temporary file beside `path`, syncs it, and renames it.
pub(crate) fn replace(path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<()> {
    let beside = beside(path).map_err(Error::io(path))?;
    let written = File::create(&beside).and_then(|file| {
        let mut out = BufWriter::with_capacity(1 << 18, file);
        fill(&mut out)?;
        out.flush()?;
        out.get_ref().sync_all()?;
        fs::rename(&beside, path)
    });
    written.inspect_err(|_| drop(fs::remove_file(&beside))).map_err(Error::io(path))
}

/// A name in the same folder that no other process or thread uses.
fn beside(path: &Path) -> io::Result<PathBuf> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(format!(".{}.{}.tmp", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    Ok(path.with_file_name(beside))
}
/// The bytes of a file: mapped if it is a regular one, else read to the end.
enum Bytes {
    Mapped(Mmap),
    Read(Vec<u8>),
}

impl Bytes {
    fn open(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        // Pipes cannot be mapped, and neither can empty files everywhere.
        if metadata.is_file() && metadata.len() > 0 {
            return map(&file).map(Self::Mapped);
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(Self::Read(bytes))
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Read(bytes) => bytes,
        }
    }
}

#[expect(unsafe_code, reason = "mapping spares a copy as large as the file")]
fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the map is read-only and private to this module. As with every mapped file, another
    // process that cuts the file short meanwhile ends this one; data sets are not edited in use.
    unsafe { Mmap::map(file) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn files_round_trip_and_failures_name_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("Y.txt");
        let matrix = Csr { n_cols: 3, indptr: vec![0, 1, 1], indices: vec![2], data: vec![0.5] };
        save_labels(&path, matrix.view("y").unwrap()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"2 3\n2:0.5\n\n");
        assert_eq!(load_labels(&path, ParseOptions::default()).unwrap(), matrix);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside");

        let missing = folder.path().join("none").join("Y.txt");
        let message = save_labels(&missing, matrix.view("y").unwrap()).unwrap_err().to_string();
        assert!(message.starts_with(&missing.display().to_string()));
        let error = load_pairs(&missing, 1, 1).unwrap_err();
        assert!(
            matches!(error, Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
        );
        assert!(load_labels(folder.path(), ParseOptions::default()).is_err());
    }

    #[test]
    fn an_empty_file_is_no_label_file_but_has_no_pairs() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let message = load_labels(file.path(), ParseOptions::default()).unwrap_err().to_string();
        assert!(message.ends_with(":1: expected 'rows labels'"));
        assert_eq!(load_pairs(file.path(), 2, 2).unwrap().indptr, [0, 0, 0]);
    }
}
