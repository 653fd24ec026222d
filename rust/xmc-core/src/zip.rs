//! The part of the zip format that numpy uses: stored and deflated members, zip64.

use std::io::{self, Read, Write};

use flate2::{Compress, Compression, Crc, FlushCompress, Status};
use rayon::prelude::*;

/// Bytes of an array that are compressed at a time.
const BLOCK: usize = 1 << 20;

/// What is wrong with an archive.
pub(crate) type Wrong = String;

/// A member of an archive.
pub(crate) struct Member<'a> {
    pub name: String,
    /// The bytes as stored in the file.
    bytes: &'a [u8],
    deflated: bool,
    crc: u32,
    len: u64,
}

/// Reads the directory at the end of an archive.
pub(crate) fn members(file: &[u8]) -> Result<Vec<Member<'_>>, Wrong> {
    let end = find_end(file).ok_or("it has no zip directory at its end")?;
    let (mut at, mut n_members) =
        (u64::from(u32_at(file, end + 16)?), u16_at(file, end + 10)?.into());
    // A locator in front of the end leads to a directory end with wide numbers.
    if let Some(locator) = end.checked_sub(20).filter(|&at| file[at..].starts_with(b"PK\x06\x07")) {
        let wide = usize_of(u64_at(file, locator + 8)?)?;
        signed(file, wide, *b"PK\x06\x06")?;
        (n_members, at) = (u64_at(file, wide + 32)?, u64_at(file, wide + 48)?);
    }
    let mut at = usize_of(at)?;
    let mut members = Vec::new();
    for _ in 0..n_members {
        signed(file, at, *b"PK\x01\x02")?;
        let lengths = [u16_at(file, at + 28)?, u16_at(file, at + 30)?, u16_at(file, at + 32)?];
        let [name_len, extra_len, comment_len] = lengths.map(usize::from);
        let name = slice(file, at + 46, name_len)?;
        let extra = slice(file, at + 46 + name_len, extra_len)?;
        let mut wide = wide_numbers(extra);
        let mut number = |at| -> Result<u64, Wrong> {
            match u32_at(file, at)? {
                u32::MAX => wide.next().ok_or_else(|| "a size is missing".to_owned()),
                number => Ok(number.into()),
            }
        };
        // In this order, which is that of the wide numbers.
        let (len, packed_len, local) = (number(at + 24)?, number(at + 20)?, number(at + 42)?);
        let local = usize_of(local)?;
        signed(file, local, *b"PK\x03\x04")?;
        let (a, b) = (u16_at(file, local + 26)?, u16_at(file, local + 28)?);
        let start = local + 30 + usize::from(a) + usize::from(b);
        let bytes = slice(file, start, usize_of(packed_len)?)?;
        let deflated = match (u16_at(file, at + 8)? & 1, u16_at(file, at + 10)?) {
            (0, 0) if len == packed_len => false,
            (0, 8) => true,
            _ => return Err("a member is neither stored nor deflated".to_owned()),
        };
        let (name, crc) = (String::from_utf8_lossy(name).into_owned(), u32_at(file, at + 16)?);
        members.push(Member { name, bytes, deflated, crc, len });
        at += 46 + name_len + extra_len + comment_len;
    }
    Ok(members)
}

/// Position of the end record: the last one whose comment fills the rest of the file.
fn find_end(file: &[u8]) -> Option<usize> {
    let last = file.len().checked_sub(22)?;
    (last.saturating_sub(1 << 16)..=last).rev().find(|&at| {
        file[at..].starts_with(b"PK\x05\x06")
            && u16_at(file, at + 20).is_ok_and(|len| at + 22 + usize::from(len) == file.len())
    })
}

/// The eight-byte numbers of the zip64 field.
fn wide_numbers(mut extra: &[u8]) -> impl Iterator<Item = u64> + '_ {
    let mut field: &[u8] = &[];
    while let Some((head, rest)) = extra.split_first_chunk::<4>() {
        let len = usize::from(u16::from_le_bytes([head[2], head[3]])).min(rest.len());
        if head[..2] == [1, 0] {
            field = &rest[..len];
        }
        extra = &rest[len..];
    }
    field.chunks_exact(8).map(|eight| eight.iter().rev().fold(0, |n, &b| (n << 8) | u64::from(b)))
}

fn slice(file: &[u8], at: usize, len: usize) -> Result<&[u8], Wrong> {
    let end = at.checked_add(len);
    end.and_then(|end| file.get(at..end)).ok_or_else(|| "it ends too early".to_owned())
}

fn bytes_at<const N: usize>(file: &[u8], at: usize) -> Result<[u8; N], Wrong> {
    let mut bytes = [0; N];
    bytes.copy_from_slice(slice(file, at, N)?);
    Ok(bytes)
}

fn u16_at(file: &[u8], at: usize) -> Result<u16, Wrong> {
    bytes_at(file, at).map(u16::from_le_bytes)
}

fn u32_at(file: &[u8], at: usize) -> Result<u32, Wrong> {
    bytes_at(file, at).map(u32::from_le_bytes)
}

fn u64_at(file: &[u8], at: usize) -> Result<u64, Wrong> {
    bytes_at(file, at).map(u64::from_le_bytes)
}

/// An offset in the file, small enough that adding lengths from a header cannot overflow.
fn usize_of(number: u64) -> Result<usize, Wrong> {
    let place = usize::try_from(number).ok().filter(|&place| place <= isize::MAX as usize / 2);
    place.ok_or_else(|| "an offset points beyond its end".to_owned())
}

fn signed(file: &[u8], at: usize, signature: [u8; 4]) -> Result<(), Wrong> {
    if bytes_at::<4>(file, at)? == signature {
        return Ok(());
    }
    Err("a header is not where it should be".to_owned())
}

impl<'a> Member<'a> {
    /// The unpacked bytes; call [`Unpacked::finish`] after the last one.
    pub(crate) fn unpack(&self) -> Unpacked<'a> {
        let reader: Box<dyn Read + Send + 'a> = if self.deflated {
            Box::new(flate2::bufread::DeflateDecoder::new(self.bytes))
        } else {
            Box::new(self.bytes)
        };
        Unpacked { reader, found: Crc::new(), crc: self.crc, left: self.len }
    }

    /// An upper bound of the unpacked bytes that does not trust a header: deflate shrinks to a
    /// 1,032nd at best.
    pub(crate) fn most(&self) -> usize {
        let len = self.bytes.len();
        if self.deflated { len.saturating_mul(1032) } else { len }
    }
}

/// A member being read.
pub(crate) struct Unpacked<'a> {
    reader: Box<dyn Read + Send + 'a>,
    found: Crc,
    crc: u32,
    left: u64,
}

impl Unpacked<'_> {
    pub(crate) fn fill(&mut self, buffer: &mut [u8]) -> Result<(), Wrong> {
        let Some(left) = self.left.checked_sub(buffer.len() as u64) else {
            return Err("an array is longer than its member".to_owned());
        };
        self.reader.read_exact(buffer).map_err(|error| error.to_string())?;
        self.found.update(buffer);
        self.left = left;
        Ok(())
    }

    /// Checks that nothing is left and that the checksum is right.
    pub(crate) fn finish(mut self) -> Result<(), Wrong> {
        let more = self.reader.read(&mut [0]).map_err(|error| error.to_string())?;
        if self.left != 0 || more != 0 {
            return Err("an array is shorter than its member".to_owned());
        }
        if self.found.sum() != self.crc {
            return Err("a checksum is wrong".to_owned());
        }
        Ok(())
    }
}

/// Writes an archive member by member: no times, no attributes.
pub(crate) struct Writer<W> {
    out: W,
    compressed: bool,
    written: u64,
    directory: Vec<u8>,
    n_members: u64,
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(out: W, compressed: bool) -> Self {
        Self { out, compressed, written: 0, directory: Vec::new(), n_members: 0 }
    }

    /// Adds a member of `n` items: a head, then the bytes that `items` appends for each range of
    /// items (`size` bytes an item). Blocks are packed in parallel; where one ends a byte ends.
    pub(crate) fn add(
        &mut self,
        name: &str,
        head: &[u8],
        n: usize,
        size: usize,
        items: impl Fn(std::ops::Range<usize>, &mut Vec<u8>) + Sync,
    ) -> io::Result<()> {
        let step = BLOCK / size;
        let n_blocks = n.div_ceil(step).max(1);
        let block = |i: usize| {
            let mut bytes = if i == 0 { head.to_vec() } else { Vec::new() };
            items(i * step..((i + 1) * step).min(n), &mut bytes);
            bytes
        };
        let packed = (0..n_blocks).into_par_iter().map(|i| {
            let bytes = block(i);
            let mut crc = Crc::new();
            crc.update(&bytes);
            let deflated = self.compressed.then(|| deflate(&bytes, i + 1 == n_blocks));
            Ok((crc, deflated.transpose()?))
        });
        let packed = packed.collect::<Vec<io::Result<(Crc, Option<Vec<u8>>)>>>();
        let packed = packed.into_iter().collect::<io::Result<Vec<_>>>()?;
        let mut crc = Crc::new();
        for (of_block, _) in &packed {
            crc.combine(of_block);
        }
        let len = head.len() as u64 + n as u64 * size as u64;
        let packed_len = if self.compressed {
            packed.iter().flat_map(|(_, bytes)| bytes).map(|bytes| bytes.len() as u64).sum()
        } else {
            len
        };
        self.header(name, crc.sum(), packed_len, len)?;
        for (i, (_, bytes)) in packed.into_iter().enumerate() {
            self.out.write_all(&bytes.unwrap_or_else(|| block(i)))?;
        }
        self.written += packed_len;
        Ok(())
    }

    fn header(&mut self, name: &str, crc: u32, packed_len: u64, len: u64) -> io::Result<()> {
        let wide = |number: u64| number >= u64::from(u32::MAX);
        let narrow = |number: u64| if wide(number) { u32::MAX } else { number as u32 };
        // 1 January 1980, the earliest there is.
        let mut common = Vec::new();
        common.extend_from_slice(&45u16.to_le_bytes());
        common.extend_from_slice(&0u16.to_le_bytes());
        common.extend_from_slice(&(if self.compressed { 8u16 } else { 0 }).to_le_bytes());
        common.extend_from_slice(&[0, 0, 0x21, 0]);
        common.extend_from_slice(&crc.to_le_bytes());
        let is_wide = wide(packed_len) || wide(len);
        let both = if is_wide { [u32::MAX; 2] } else { [narrow(packed_len), narrow(len)] };
        common.extend(both.iter().flat_map(|number| number.to_le_bytes()));
        common.extend_from_slice(&(name.len() as u16).to_le_bytes());
        let start = self.written;
        let extra = |numbers: &[u64]| {
            let mut extra = Vec::new();
            if !numbers.is_empty() {
                extra.extend_from_slice(&[1, 0]);
                extra.extend_from_slice(&(8 * numbers.len() as u16).to_le_bytes());
                extra.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
            }
            extra
        };
        let mut numbers = if is_wide { vec![len, packed_len] } else { vec![] };

        let mut local = b"PK\x03\x04".to_vec();
        local.extend_from_slice(&common);
        let field = extra(&numbers);
        local.extend_from_slice(&(field.len() as u16).to_le_bytes());
        local.extend_from_slice(name.as_bytes());
        local.extend_from_slice(&field);
        self.out.write_all(&local)?;
        self.written += local.len() as u64;

        if wide(start) {
            numbers.push(start);
        }
        let field = extra(&numbers);
        self.directory.extend_from_slice(b"PK\x01\x02\x2d\x03");
        self.directory.extend_from_slice(&common);
        self.directory.extend_from_slice(&(field.len() as u16).to_le_bytes());
        // No comment, first disk, no attributes but those of a plain readable file.
        self.directory.extend_from_slice(&[0; 6]);
        self.directory.extend_from_slice(&(0o100_644u32 << 16).to_le_bytes());
        self.directory.extend_from_slice(&narrow(start).to_le_bytes());
        self.directory.extend_from_slice(name.as_bytes());
        self.directory.extend_from_slice(&field);
        self.n_members += 1;
        Ok(())
    }

    /// Writes the directory.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        let (start, len) = (self.written, self.directory.len() as u64);
        self.out.write_all(&self.directory)?;
        let wide = start >= u64::from(u32::MAX);
        if wide {
            let n = self.n_members.to_le_bytes();
            let mut end = b"PK\x06\x06".to_vec();
            end.extend_from_slice(&44u64.to_le_bytes());
            end.extend_from_slice(&[45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            for number in [n, n, len.to_le_bytes(), start.to_le_bytes()] {
                end.extend_from_slice(&number);
            }
            end.extend_from_slice(b"PK\x06\x07\0\0\0\0");
            end.extend_from_slice(&(start + len).to_le_bytes());
            end.extend_from_slice(&1u32.to_le_bytes());
            self.out.write_all(&end)?;
        }
        let n = (self.n_members as u16).to_le_bytes();
        let start = if wide { u32::MAX } else { start as u32 };
        let mut end = b"PK\x05\x06\0\0\0\0".to_vec();
        end.extend_from_slice(&[n, n].concat());
        end.extend_from_slice(&(len as u32).to_le_bytes());
        end.extend_from_slice(&start.to_le_bytes());
        end.extend_from_slice(&[0, 0]);
        self.out.write_all(&end)
    }
}

/// A piece of a deflate stream; pieces stand one after the other.
fn deflate(bytes: &[u8], last: bool) -> io::Result<Vec<u8>> {
    let mut stream = Compress::new(Compression::default(), false);
    let flush = if last { FlushCompress::Finish } else { FlushCompress::Sync };
    let mut packed = Vec::with_capacity(bytes.len() / 2 + 64);
    loop {
        let done = stream.total_in() as usize;
        let status = stream.compress_vec(&bytes[done..], &mut packed, flush)?;
        let all = stream.total_in() as usize == bytes.len() && packed.len() < packed.capacity();
        let complete = if last { status == Status::StreamEnd } else { all };
        if complete {
            return Ok(packed);
        }
        packed.reserve(bytes.len() / 2 + 64);
    }
}
