//! Opening and replacing files: the only part of the crate that uses the file system.

use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, BufWriter, Read, Write};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

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
/// If `path` is a link, what it leads to is replaced, and the link stays; bytes for a pipe, a
/// character device or an open file (`/dev/stdout`) are written into it.
///
/// # Errors
/// [`Error::Io`]; the file at `path` is then as before. Links in a circle, block devices and sockets
/// are errors too.
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

/// Links that are followed one after the other, as Linux does.
const LINKS: usize = 40;

/// Writes a temporary file beside `path`, syncs it, and renames it.
///
/// Links are followed, and stay. What is neither a regular file nor a folder (a pipe, a device), or
/// names an open file (`/dev/stdout`), stays what it is: the bytes are written into it.
pub(crate) fn replace(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<()> {
    write_to(path, fill).map_err(Error::io(path))
}

fn write_to(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    let target = target_of(path)?;
    if is_stream(&target)? {
        let stream = File::options().append(true).open(&target)?;
        let mut out = BufWriter::with_capacity(1 << 18, stream);
        fill(&mut out)?;
        return out.flush();
    }
    let (beside, opened) = create_beside(&target)?;
    let written = (|| {
        let mut out = BufWriter::with_capacity(1 << 18, opened);
        fill(&mut out)?;
        out.flush()?;
        out.get_ref().sync_all()?;
        fs::rename(&beside, &target)
    })();
    written.inspect_err(|_| drop(fs::remove_file(&beside)))
}

/// What a writer makes or replaces: the end of the links that begin at `path`, or a name of an open
/// file among them, behind which there may be no other name.
fn target_of(path: &Path) -> io::Result<PathBuf> {
    let mut target = path.to_path_buf();
    for _ in 0..LINKS {
        if is_open_file(&target) {
            return Ok(target);
        }
        match fs::read_link(&target) {
            Ok(next) => target = folder_of(&target).join(next),
            Err(_) => return Ok(target), // no link, or nothing there
        }
    }
    Err(io::Error::other("links lead in a circle"))
}

/// Whether a path is one of those that name a file by the number under which it is open.
fn is_open_file(path: &Path) -> bool {
    let Ok(folder) = fs::canonicalize(folder_of(path)) else { return false };
    folder.ends_with("fd") && (folder.starts_with("/proc") || folder.starts_with("/dev"))
}

/// The folder that a path is in; for a bare name, the one that this process is in.
fn folder_of(path: &Path) -> &Path {
    let parent = path.parent().unwrap_or(path);
    if parent.as_os_str().is_empty() { Path::new(".") } else { parent }
}

/// Whether bytes are written into what is at `target`: a pipe, a character device, an open file.
fn is_stream(target: &Path) -> io::Result<bool> {
    if is_open_file(target) {
        return Ok(true);
    }
    match fs::metadata(target) {
        Ok(found) if found.is_file() || found.is_dir() => Ok(false),
        Ok(found) if is_pipe_or_character_device(found.file_type()) => Ok(true),
        Ok(_) => Err(io::Error::other("a block device or a socket; give the name of a file")),
        Err(_) => Ok(false), // nothing there
    }
}

#[cfg(unix)]
fn is_pipe_or_character_device(kind: fs::FileType) -> bool {
    use std::os::unix::fs::FileTypeExt;
    kind.is_fifo() || kind.is_char_device()
}

#[cfg(not(unix))]
fn is_pipe_or_character_device(_: fs::FileType) -> bool {
    true
}

/// Makes a file in the folder of `path`, with a name that no other writer uses, on whatever machine:
/// `.HEX.new.NAME`, by which the Python package knows what killed writers left.
fn create_beside(path: &Path) -> io::Result<(PathBuf, File)> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    loop {
        let mut beside = std::ffi::OsString::from(format!(".{:016x}.new.", random()));
        beside.push(name);
        let beside = path.with_file_name(beside);
        match File::options().write(true).create_new(true).open(&beside) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return Ok((beside, made?)),
        }
    }
}

/// 64 bits that differ from call to call, in all threads and processes.
fn random() -> u64 {
    // Keys from the operating system, once a thread; a forked process inherits them.
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.write_usize(COUNT.fetch_add(1, Ordering::Relaxed));
    if let Ok(now) = SystemTime::now().duration_since(UNIX_EPOCH) {
        hasher.write_u128(now.as_nanos());
    }
    hasher.finish()
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

    fn matrix() -> Csr {
        Csr { n_cols: 3, indptr: vec![0, 1, 1], indices: vec![2], data: vec![0.5] }
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_stay() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("far")).unwrap();
        fs::write(path("far/old"), "old").unwrap();
        symlink("far/old", path("first")).unwrap();
        symlink(path("first"), path("second")).unwrap();
        symlink("far/new", path("nothing")).unwrap();
        for (link, target) in [("first", "far/old"), ("second", "far/old"), ("nothing", "far/new")]
        {
            save_labels(&path(link), matrix().view("y").unwrap()).unwrap();
            assert!(path(link).is_symlink());
            assert_eq!(fs::read(path(target)).unwrap(), b"2 3\n2:0.5\n\n");
            fs::write(path(target), "other").unwrap();
        }
        assert_eq!(fs::read_dir(path("far")).unwrap().count(), 2, "nothing is left beside");
        symlink("circle", path("circle")).unwrap();
        let error = save_labels(&path("circle"), matrix().view("y").unwrap()).unwrap_err();
        assert!(error.to_string().ends_with("circle: links lead in a circle"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_stays_what_it_is() {
        use std::os::fd::AsRawFd;
        use std::os::unix::fs::FileTypeExt;
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).unwrap()
        });
        save_labels(&pipe, matrix().view("y").unwrap()).unwrap();
        assert_eq!(reader.join().unwrap(), b"2 3\n2:0.5\n\n");
        assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());

        // An open file: behind what is there.
        let plain = folder.path().join("plain");
        fs::write(&plain, "before\n").unwrap();
        let open = File::options().append(true).open(&plain).unwrap();
        let named = format!("/proc/self/fd/{}", open.as_raw_fd());
        if Path::new(&named).exists() {
            save_pairs(named.as_ref(), matrix().view("y").unwrap().pattern()).unwrap();
            assert_eq!(fs::read(&plain).unwrap(), b"before\n0 2\n");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left beside");

        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let error = save_labels(&socket, matrix().view("y").unwrap()).unwrap_err();
        assert!(error.to_string().contains("a block device or a socket"), "{error}");
    }

    #[test]
    fn temporary_names_are_new_and_known_to_the_package() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("Y.txt");
        let names: std::collections::HashSet<_> = (0..100)
            .map(|_| create_beside(&path).unwrap().0.file_name().unwrap().to_owned())
            .collect();
        assert_eq!(names.len(), 100);
        for name in names {
            let name = name.into_string().unwrap();
            let digits = name.strip_prefix('.').unwrap().strip_suffix(".new.Y.txt").unwrap();
            assert_eq!(digits.len(), 16);
            assert!(digits.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f')));
        }
    }

    #[test]
    fn an_empty_file_is_no_label_file_but_has_no_pairs() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let message = load_labels(file.path(), ParseOptions::default()).unwrap_err().to_string();
        assert!(message.ends_with(":1: expected 'rows labels'"));
        assert_eq!(load_pairs(file.path(), 2, 2).unwrap().indptr, [0, 0, 0]);
    }
}
