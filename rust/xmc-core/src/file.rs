//! Opening and replacing files: the only part of the crate that touches the file system.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use memmap2::Mmap;

use crate::csr::{Csr, CsrView};
use crate::error::{Error, Result};
use crate::labels::{ParseOptions, parse_labels, write_labels};
use crate::pairs::{Pairs, parse_pairs};

/// Reads label text in the LF layout.
///
/// # Errors
/// [`Error::Io`], and those of [`parse_labels`].
pub fn load_labels(path: &Path, options: ParseOptions<'_>) -> Result<Csr> {
    let bytes = Bytes::open(path).map_err(Error::io(path))?;
    parse_labels(&path.to_string_lossy(), &bytes, options)
}

/// Reads filter pairs for a matrix of the given shape.
///
/// # Errors
/// [`Error::Io`], and those of [`parse_pairs`].
pub fn load_pairs(path: &Path, n_rows: usize, n_labels: usize) -> Result<Pairs> {
    let bytes = Bytes::open(path).map_err(Error::io(path))?;
    parse_pairs(&path.to_string_lossy(), &bytes, n_rows, n_labels)
}

/// Writes label text beside `path`, then renames: readers see the old file or the new one.
///
/// # Errors
/// [`Error::Io`]; the file at `path` is then as before.
pub fn save_labels(path: &Path, matrix: CsrView<'_>) -> Result<()> {
    let beside = beside(path).map_err(Error::io(path))?;
    let file = File::create(&beside).map_err(Error::io(path))?;
    let mut out = BufWriter::with_capacity(1 << 18, file);
    let written = write_labels(matrix, &mut out).and_then(|()| out.flush());
    let renamed = written.and_then(|()| fs::rename(&beside, path));
    renamed.inspect_err(|_| drop(fs::remove_file(&beside))).map_err(Error::io(path))
}

/// A name in the same folder that no other process and no other thread uses.
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
