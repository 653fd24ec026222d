//! Compressed files: recognised by their first bytes, unpacked in chunks, packed in blocks.

use std::io::{self, Read};

use crate::error::{Error, Result};
use crate::memory::reserve;

/// Bytes of text that are unpacked at a time.
const CHUNK: usize = 4 << 20;
/// Bytes to decode between two calls of `keep_going`.
const STEP: usize = 1 << 20;

/// How a file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    None,
    Gzip,
    Zstd,
}

impl Packing {
    /// The packing of these bytes. Zstd data may start with a skippable frame.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        match bytes {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    /// The packing that a file name asks for.
    pub(crate) fn by_suffix(path: &std::path::Path) -> Self {
        let is = |suffix| path.extension().is_some_and(|own| own.eq_ignore_ascii_case(suffix));
        if is("gz") {
            Self::Gzip
        } else if is("zst") {
            Self::Zstd
        } else {
            Self::None
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::None => "plain",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// Packs a block: gzip members and zstd frames can stand one after the other. The same bytes
    /// always give the same bytes: no time or name is stored.
    #[cfg(feature = "compression")]
    pub(crate) fn pack(self, block: Vec<u8>) -> io::Result<Vec<u8>> {
        match self {
            Self::None => Ok(block),
            Self::Gzip => {
                let mut packed = Vec::new();
                let level = flate2::Compression::default();
                flate2::bufread::GzEncoder::new(&block[..], level).read_to_end(&mut packed)?;
                Ok(packed)
            }
            Self::Zstd => {
                let mut packer = zstd::bulk::Compressor::new(zstd::DEFAULT_COMPRESSION_LEVEL)?;
                // Without it a flipped bit may go unnoticed.
                packer.set_parameter(zstd::zstd_safe::CParameter::ChecksumFlag(true))?;
                packer.compress(&block)
            }
        }
    }

    #[cfg(not(feature = "compression"))]
    pub(crate) fn pack(self, block: Vec<u8>) -> io::Result<Vec<u8>> {
        match self {
            Self::None => Ok(block),
            _ => Err(io::Error::new(io::ErrorKind::Unsupported, NOT_BUILT)),
        }
    }
}

#[cfg(not(feature = "compression"))]
const NOT_BUILT: &str = "xmc-core was built without its feature 'compression'";

/// The unpacked bytes of a compressed file, in chunks of whole lines.
pub(crate) struct Stream<'a> {
    file: &'a str,
    packing: Packing,
    reader: Box<dyn Read + Send + 'a>,
    /// What follows the last line feed of the chunk before.
    rest: Vec<u8>,
    ended: bool,
}

impl<'a> Stream<'a> {
    /// Unpacks `bytes`; `file` is the name in messages.
    #[cfg(feature = "compression")]
    pub(crate) fn new(file: &'a str, packing: Packing, bytes: &'a [u8]) -> Result<Self> {
        let reader: Box<dyn Read + Send + 'a> = match packing {
            Packing::None => Box::new(bytes),
            Packing::Gzip => Box::new(Members::of(bytes)),
            Packing::Zstd => match zstd::Decoder::with_buffer(bytes) {
                Ok(decoder) => Box::new(decoder),
                Err(error) => return Err(damaged(file, packing, &error)),
            },
        };
        Ok(Self { file, packing, reader, rest: Vec::new(), ended: false })
    }

    #[cfg(not(feature = "compression"))]
    pub(crate) fn new(file: &'a str, packing: Packing, bytes: &'a [u8]) -> Result<Self> {
        if packing == Packing::None {
            let reader = Box::new(bytes);
            return Ok(Self { file, packing, reader, rest: Vec::new(), ended: false });
        }
        let source = io::Error::new(io::ErrorKind::Unsupported, NOT_BUILT);
        Err(Error::Io { path: file.into(), source })
    }

    /// The next whole lines, at least four megabytes unless the file ends first; empty at the end.
    /// Reuses the buffer it is given. A line longer than memory allows is an error, and only what
    /// was really unpacked takes memory.
    pub(crate) fn next_chunk(
        &mut self,
        mut buffer: Vec<u8>,
        keep_going: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<u8>> {
        buffer.clear();
        reserve(&mut buffer, self.rest.len())?;
        buffer.append(&mut self.rest);
        let mut searched = buffer.len();
        while !self.ended {
            if buffer.len() >= CHUNK {
                let feed = buffer[searched..].iter().rposition(|&byte| byte == b'\n');
                if let Some(feed) = feed {
                    let end = searched + feed + 1;
                    reserve(&mut self.rest, buffer.len() - end)?;
                    self.rest.extend_from_slice(&buffer[end..]);
                    buffer.truncate(end);
                    return Ok(buffer);
                }
                searched = buffer.len();
            }
            self.step(&mut buffer, keep_going)?;
        }
        Ok(buffer)
    }

    /// Everything to the end.
    pub(crate) fn read_all(mut self, keep_going: &(dyn Fn() -> bool + Sync)) -> Result<Vec<u8>> {
        let mut buffer = Vec::new();
        while !self.ended {
            self.step(&mut buffer, keep_going)?;
        }
        Ok(buffer)
    }

    fn step(&mut self, buffer: &mut Vec<u8>, keep_going: &(dyn Fn() -> bool + Sync)) -> Result<()> {
        if !keep_going() {
            return Err(Error::Interrupted);
        }
        reserve(buffer, STEP)?;
        let read = self.reader.by_ref().take(STEP as u64).read_to_end(buffer);
        let read = read.map_err(|error| damaged(self.file, self.packing, &error))?;
        self.ended = read < STEP;
        Ok(())
    }
}

/// The members of a gzip file, one after the other. Zeros may follow a member: tapes and some
/// servers pad files, and gzip and Python read such files too.
#[cfg(feature = "compression")]
struct Members<'a>(Option<flate2::bufread::GzDecoder<&'a [u8]>>);

#[cfg(feature = "compression")]
impl<'a> Members<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        Self(Some(flate2::bufread::GzDecoder::new(bytes)))
    }
}

#[cfg(feature = "compression")]
impl Read for Members<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while let Some(mut member) = self.0.take() {
            let read = member.read(out)?;
            if read > 0 || out.is_empty() {
                self.0 = Some(member);
                return Ok(read);
            }
            let rest = member.into_inner();
            if let Some(next) = rest.iter().position(|&byte| byte != 0) {
                self.0 = Some(flate2::bufread::GzDecoder::new(&rest[next..]));
            }
        }
        Ok(0)
    }
}

fn damaged(file: &str, packing: Packing, error: &io::Error) -> Error {
    if packing == Packing::Zstd && error.to_string().contains("requires too much memory") {
        return Error::Window { file: file.to_owned() };
    }
    let (file, format) = (file.to_owned(), packing.name());
    Error::Damaged { file, format, what: error.to_string() }
}
