//! Arrays in numpy's `.npy` format: the header is parsed by hand and strictly, nothing is unpickled.

use crate::error::Error;

use crate::memory::reserve;
use crate::zip::{Member, Unpacked, Wrong};

/// Longest header that is read, in bytes; numpy's own are 128.
const LONGEST: usize = 1 << 16;
/// Bytes that are converted at a time.
const STEP: usize = 1 << 18;

/// Element type of an array.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dtype {
    /// As numpy writes it: `b`, `i`, `u`, `f`, `S` ...
    pub kind: u8,
    /// Bytes an item.
    pub size: usize,
    big_endian: bool,
}

/// An array about to be read.
pub(crate) struct Array<'a> {
    /// As numpy writes it.
    pub descr: String,
    pub shape: Vec<u64>,
    pub dtype: Dtype,
    bytes: Unpacked<'a>,
    most: usize,
}

impl<'a> Array<'a> {
    /// Reads the header.
    pub(crate) fn open(member: &Member<'a>) -> std::result::Result<Self, Wrong> {
        let mut bytes = member.unpack();
        let mut start = [0; 8];
        bytes.fill(&mut start)?;
        let [.., major, _] = start;
        if !start.starts_with(b"\x93NUMPY") || !(1..=3).contains(&major) {
            return Err("a member is not an .npy array".to_owned());
        }
        let mut len = [0; 4];
        bytes.fill(&mut len[..if major == 1 { 2 } else { 4 }])?;
        let len = u32::from_le_bytes(len) as usize;
        if len > LONGEST {
            return Err("an array header is too long".to_owned());
        }
        let mut header = vec![0; len];
        bytes.fill(&mut header)?;
        let (descr, shape) = Literal(&header)
            .header()
            .ok_or_else(|| format!("array header {}", crate::token::quote(&header)))?;
        let dtype = dtype(&descr).ok_or_else(|| format!("dtype {descr}"))?;
        Ok(Self { descr, shape, dtype, bytes, most: member.most() })
    }

    /// Reads the items, each converted from its bytes, lowest first.
    fn items<T, const N: usize>(
        mut self,
        convert: impl Fn([u8; N]) -> T,
        keep_going: &(dyn Fn() -> bool + Sync),
    ) -> std::result::Result<Vec<T>, Failed> {
        let n = self.shape.iter().try_fold(1u64, |n, &side| n.checked_mul(side));
        let n = n.and_then(|n| usize::try_from(n).ok()).filter(|&n| n <= self.most / N);
        let n = n.ok_or_else(|| Failed::Wrong("an array is longer than its member".to_owned()))?;
        let mut items = Vec::new();
        reserve(&mut items, n)?;
        let mut buffer = vec![0; STEP.min(n * N)];
        while items.len() < n {
            if !keep_going() {
                return Err(Error::Interrupted.into());
            }
            let buffer_len = ((n - items.len()) * N).min(STEP);
            let buffer = &mut buffer[..buffer_len];
            self.bytes.fill(buffer).map_err(Failed::Wrong)?;
            let chunks = buffer.chunks_exact(N).map(|chunk| {
                let mut item = [0; N];
                item.copy_from_slice(chunk);
                item
            });
            if self.dtype.big_endian {
                items.extend(chunks.map(|mut item| {
                    item.reverse();
                    convert(item)
                }));
            } else {
                items.extend(chunks.map(&convert));
            }
        }
        self.bytes.finish().map_err(Failed::Wrong)?;
        Ok(items)
    }

    /// Reads numbers: integers up to 63 bits through `whole`, all others through `real`.
    pub(crate) fn numbers<T>(
        self,
        keep_going: &(dyn Fn() -> bool + Sync),
        whole: impl Fn(i64) -> T,
        real: impl Fn(f64) -> T,
    ) -> std::result::Result<Vec<T>, Failed> {
        match (self.dtype.kind, self.dtype.size) {
            (b'b', 1) => self.items(|b: [u8; 1]| whole((b[0] != 0).into()), keep_going),
            (b'i', 1) => self.items(|b| whole(i8::from_le_bytes(b).into()), keep_going),
            (b'i', 2) => self.items(|b| whole(i16::from_le_bytes(b).into()), keep_going),
            (b'i', 4) => self.items(|b| whole(i32::from_le_bytes(b).into()), keep_going),
            (b'i', 8) => self.items(|b| whole(i64::from_le_bytes(b)), keep_going),
            (b'u', 1) => self.items(|b| whole(u8::from_le_bytes(b).into()), keep_going),
            (b'u', 2) => self.items(|b| whole(u16::from_le_bytes(b).into()), keep_going),
            (b'u', 4) => self.items(|b| whole(u32::from_le_bytes(b).into()), keep_going),
            (b'u', 8) => self.items(|b| real(u64::from_le_bytes(b) as f64), keep_going),
            (b'f', 2) => self.items(|b| real(half(u16::from_le_bytes(b))), keep_going),
            (b'f', 4) => self.items(|b| real(f32::from_le_bytes(b).into()), keep_going),
            (b'f', 8) => self.items(|b| real(f64::from_le_bytes(b)), keep_going),
            _ => Err(Failed::Wrong(format!("dtype {}", self.descr))),
        }
    }

    /// Reads bytes, such as those of a fixed-size string.
    pub(crate) fn text(mut self) -> std::result::Result<String, Failed> {
        let width = if self.dtype.kind == b'U' { 4 * self.dtype.size } else { self.dtype.size };
        if !self.shape.is_empty() || width > LONGEST {
            return Err(Failed::Wrong("'format' is not a short string".to_owned()));
        }
        let mut bytes = vec![0; width];
        self.bytes.fill(&mut bytes).map_err(Failed::Wrong)?;
        self.bytes.finish().map_err(Failed::Wrong)?;
        bytes.retain(|&byte| byte != 0);
        Ok(crate::token::quote(&bytes))
    }
}

/// Why an array could not be read.
pub(crate) enum Failed {
    /// The archive is damaged.
    Wrong(Wrong),
    /// Any other reason.
    Error(Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// A float of half the size.
fn half(bits: u16) -> f64 {
    let sign = if bits >> 15 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from((bits >> 10) & 31), f64::from(bits & 1023));
    sign * match exponent {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
    }
}

/// `<f4` and the like.
fn dtype(descr: &str) -> Option<Dtype> {
    let (order, rest) = (*descr.as_bytes().first()?, descr.get(1..)?);
    let (kind, size) = (*rest.as_bytes().first()?, rest.get(1..)?.parse().ok()?);
    let known = matches!(order, b'<' | b'>' | b'|' | b'=') && size <= LONGEST;
    known.then_some(Dtype { kind, size, big_endian: order == b'>' })
}

/// The header, a Python literal: `{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }`.
struct Literal<'a>(&'a [u8]);

impl Literal<'_> {
    fn header(mut self) -> Option<(String, Vec<u64>)> {
        let (mut descr, mut order, mut shape) = (None, None, None);
        self.symbol(b'{')?;
        while self.symbol(b'}').is_none() {
            let key = self.string()?;
            self.symbol(b':')?;
            let repeated = match &key[..] {
                "descr" => descr.replace(self.string()?).is_some(),
                "fortran_order" => order.replace(self.boolean()?).is_some(),
                "shape" => shape.replace(self.numbers()?).is_some(),
                _ => return None,
            };
            if repeated || self.symbol(b',').is_none() && self.peek() != Some(b'}') {
                return None;
            }
        }
        let shape = shape?;
        // The order of axes is irrelevant with at most one axis.
        if !self.0.trim_ascii().is_empty() || order? && shape.len() > 1 {
            return None;
        }
        Some((descr?, shape))
    }

    fn peek(&mut self) -> Option<u8> {
        self.0 = self.0.trim_ascii_start();
        self.0.first().copied()
    }

    fn symbol(&mut self, symbol: u8) -> Option<()> {
        (self.peek()? == symbol).then(|| self.0 = &self.0[1..])
    }

    fn string(&mut self) -> Option<String> {
        let quote = self.peek().filter(|byte| b"'\"".contains(byte))?;
        let text = &self.0[1..];
        let len = text.iter().position(|&byte| byte == quote)?;
        self.0 = &text[len + 1..];
        let plain = |byte: &u8| byte.is_ascii_graphic() && *byte != b'\\';
        text[..len].iter().all(plain).then(|| String::from_utf8_lossy(&text[..len]).into_owned())
    }

    fn boolean(&mut self) -> Option<bool> {
        self.peek()?;
        let (rest, value) = match self.0.strip_prefix(b"True") {
            Some(rest) => (rest, true),
            None => (self.0.strip_prefix(b"False")?, false),
        };
        self.0 = rest;
        Some(value)
    }

    fn numbers(&mut self) -> Option<Vec<u64>> {
        let mut numbers = Vec::new();
        self.symbol(b'(')?;
        while self.symbol(b')').is_none() {
            self.peek()?;
            let len = self.0.iter().position(|byte| !byte.is_ascii_digit())?;
            let (digits, rest) = self.0.split_at(len);
            numbers.push(std::str::from_utf8(digits).ok()?.parse().ok()?);
            // Python 2 wrote long numbers with an L.
            self.0 = rest.strip_prefix(b"L").unwrap_or(rest);
            if self.symbol(b',').is_none() && self.peek() != Some(b')') {
                return None;
            }
        }
        Some(numbers)
    }
}

/// The bytes before the items of an array, padded as numpy does.
pub(crate) fn head(descr: &str, shape: &str) -> Vec<u8> {
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    while (10 + text.len() + 1) % 64 != 0 {
        text.push(' ');
    }
    text.push('\n');
    let mut head = b"\x93NUMPY\x01\x00".to_vec();
    head.extend_from_slice(&(text.len() as u16).to_le_bytes());
    head.extend_from_slice(text.as_bytes());
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        let header = |text: &str| Literal(text.as_bytes()).header();
        let good = Some(("<f4".to_owned(), vec![3]));
        for text in [
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }   \n",
            "{\"shape\":(3L,),'fortran_order':True,'descr':'<f4'}",
            " { 'descr' : '<f4' , 'fortran_order' : False , 'shape' : ( 3 ) } ",
        ] {
            assert_eq!(header(text), good, "{text}");
        }
        for text in [
            "",
            "{",
            "{}",
            "{'descr': '<f4', 'fortran_order': False}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3,)} x",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (-3,)}",
            "{'descr': '<f4', 'fortran_order': 0, 'shape': (3,)}",
            "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,)}",
            "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (3,)}",
            "{'descr': '<f4' 'fortran_order': False, 'shape': (3,)}",
            "{'descr': '<f4', 'fortran_order': True, 'shape': (3, 2)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), 'x': 'y'}",
        ] {
            assert_eq!(header(text), None, "{text}");
        }
        assert_eq!(head("<i4", "(5,)").len() % 64, 0);
    }

    #[test]
    fn halves() {
        let cases =
            [(0, 0.0), (1, 2f64.powi(-24)), (0x3c00, 1.0), (0xc000, -2.0), (0x7bff, 65504.0)];
        for (bits, value) in cases {
            assert!((half(bits) - value).abs() < f64::EPSILON * value.abs().max(1e-9), "{bits}");
        }
        assert!(half(0x7c00).is_infinite() && half(0x7e00).is_nan());
    }
}
