//! Label text in the LF layout: a header `rows labels`, then a line of `label:value` tokens a row.

use std::io::{self, Write};

use rayon::prelude::*;

use crate::csr::{Csr, CsrView, sort_row};
use crate::error::{Error, Fault, Place, Result};
use crate::token::{self, Digits};

/// Bytes a task parses, rounded up to a whole line.
const BLOCK: usize = 1 << 20;

/// How to read label text.
#[derive(Clone, Copy)]
pub struct ParseOptions<'a> {
    /// Value of a label that stands without one; such a label is an error if this is `None`.
    pub missing_value: Option<f32>,
    /// Asked before each block of about a megabyte, from any thread; `false` stops the parser.
    pub keep_going: &'a (dyn Fn() -> bool + Sync),
}

impl Default for ParseOptions<'_> {
    fn default() -> Self {
        Self { missing_value: None, keep_going: &|| true }
    }
}

/// A fault and the byte at which its line can be found: lines are counted only for a message.
type At<T> = std::result::Result<T, Stop>;

enum Stop {
    Fault { offset: usize, fault: Fault },
    Interrupted,
}

impl Stop {
    /// The error for a text of the given name.
    fn locate(self, file: &str, text: &[u8]) -> Error {
        let Self::Fault { offset, fault } = self else {
            return Error::Interrupted;
        };
        let line = 1 + text[..offset].iter().filter(|&&byte| byte == b'\n').count();
        Error::Content { place: Place::Line { file: file.to_owned(), line }, fault }
    }
}

/// Parses label text; `file` is its name in messages.
///
/// Rows come out sorted by label. The shape is the header's. Two passes: one counts lines and
/// entries, the second fills arrays of the exact size, both in blocks in the caller's rayon pool.
///
/// # Errors
/// [`Error::Content`] with the line of the first fault; [`Error::Interrupted`] if
/// [`ParseOptions::keep_going`] said so; [`Error::Parameter`] for a missing value that is not finite.
pub fn parse_labels(file: &str, text: &[u8], options: ParseOptions<'_>) -> Result<Csr> {
    if let Some(value) = options.missing_value.filter(|value| !value.is_finite()) {
        let (name, rule) = ("missing_value", "must be finite");
        return Err(Error::Parameter { name, rule, value: value.to_string() });
    }
    parse(text, options).map_err(|stop| stop.locate(file, text))
}

fn parse(text: &[u8], options: ParseOptions<'_>) -> At<Csr> {
    let end = text.iter().position(|&byte| byte == b'\n').unwrap_or(text.len());
    let (n_rows, n_cols) =
        header(&text[..end]).map_err(|fault| Stop::Fault { offset: 0, fault })?;
    let body = (end + 1).min(text.len());

    let blocks = cut(text, body);
    let counts: Vec<Count> =
        blocks.par_iter().map(|block| Count::of(&text[block.clone()])).collect();
    let n_lines: usize = counts.iter().map(|count| count.lines).sum();
    if n_lines < n_rows {
        let fault = Fault::TooFewRows { expected: n_rows, found: n_lines };
        // The last line of the file.
        let offset = text.strip_suffix(b"\n").unwrap_or(text).len();
        return Err(Stop::Fault { offset, fault });
    }
    let n_entries = counts.iter().map(|count| count.entries).sum();

    let mut csr = Csr {
        n_cols,
        indptr: vec![0; n_rows + 1],
        indices: vec![0; n_entries],
        data: vec![0.0; n_entries],
    };
    let (mut indptr, mut indices, mut data) =
        (&mut csr.indptr[1..], &mut csr.indices[..], &mut csr.data[..]);
    let mut tasks = Vec::with_capacity(blocks.len());
    let mut first_entry = 0;
    for (block, count) in blocks.into_iter().zip(counts) {
        let n_block_rows = count.lines.min(indptr.len());
        let rows = take_front(&mut indptr, n_block_rows);
        let labels = take_front(&mut indices, count.entries);
        let values = take_front(&mut data, count.entries);
        tasks.push(Block { text, span: block, n_rows, n_cols, first_entry, rows, labels, values });
        first_entry += count.entries;
    }
    let results: Vec<At<()>> = tasks.into_par_iter().map(|task| task.fill(options)).collect();
    // In file order, so that the first fault is reported whatever the number of threads.
    results.into_iter().collect::<At<()>>()?;
    Ok(csr)
}

/// Splits the first `len` elements off a slice.
#[expect(clippy::mut_mut, reason = "`split_off_mut` needs Rust 1.87")]
fn take_front<'a, T>(slice: &mut &'a mut [T], len: usize) -> &'a mut [T] {
    let (front, rest) = std::mem::take(slice).split_at_mut(len);
    *slice = rest;
    front
}

/// Rows and labels of the header line.
fn header(line: &[u8]) -> std::result::Result<(usize, usize), Fault> {
    let line = token::trim_cr(line);
    let mut numbers = [None; 2];
    let mut n_tokens = 0;
    for (at, text) in token::tokens(line) {
        let number = match token::digits(text) {
            Digits::Number(number) => Some(number),
            // Something numeric means that the header is missing or wrong, all else is foreign.
            _ if text[0].is_ascii_digit() || b"+-.".contains(&text[0]) => None,
            _ => return Err(token::bad_token(text, at)),
        };
        if let Some(slot) = numbers.get_mut(n_tokens) {
            *slot = number;
        }
        n_tokens += 1;
    }
    let (2, [Some(n_rows), Some(n_labels)]) = (n_tokens, numbers) else {
        return Err(Fault::Header);
    };
    if n_labels > i32::MAX as u64 {
        return Err(Fault::TooManyLabels { n_labels });
    }
    let n_rows = usize::try_from(n_rows).map_err(|_| Fault::Header)?;
    Ok((n_rows, n_labels as usize))
}

/// Cuts the body, which starts at byte `from`, into blocks that end with a line.
fn cut(text: &[u8], from: usize) -> Vec<std::ops::Range<usize>> {
    let mut blocks = Vec::new();
    let mut start = from;
    while start < text.len() {
        let least = (start + BLOCK).min(text.len());
        let rest = text[least..].iter().position(|&byte| byte == b'\n');
        let end = rest.map_or(text.len(), |rest| least + rest + 1);
        blocks.push(start..end);
        start = end;
    }
    blocks
}

/// Lines and tokens of a block.
struct Count {
    lines: usize,
    entries: usize,
}

impl Count {
    fn of(block: &[u8]) -> Self {
        let space = |byte: u8| byte == b' ' || byte == b'\n' || byte == b'\t' || byte == b'\r';
        let (mut lines, mut entries) = (0, 0);
        if let Some(&first) = block.first() {
            entries += usize::from(!space(first));
            lines += usize::from(first == b'\n');
        }
        // A token starts where a space ends. Short runs with byte-sized sums vectorise well.
        let (before, after) = (&block[..block.len().saturating_sub(1)], block.get(1..));
        for (before, after) in before.chunks(192).zip(after.unwrap_or_default().chunks(192)) {
            let (mut n_lines, mut n_starts) = (0u8, 0u8);
            for (&before, &after) in before.iter().zip(after) {
                n_lines += u8::from(after == b'\n');
                n_starts += u8::from(space(before) & !space(after));
            }
            lines += usize::from(n_lines);
            entries += usize::from(n_starts);
        }
        // The last line of a file may lack its line feed.
        lines += usize::from(block.last().is_some_and(|&byte| byte != b'\n'));
        Self { lines, entries }
    }
}

/// A block of whole lines and the pieces of the result that it fills.
struct Block<'a> {
    text: &'a [u8],
    span: std::ops::Range<usize>,
    n_rows: usize,
    n_cols: usize,
    first_entry: usize,
    rows: &'a mut [i64],
    labels: &'a mut [i32],
    values: &'a mut [f32],
}

impl Block<'_> {
    fn fill(self, options: ParseOptions<'_>) -> At<()> {
        if !(options.keep_going)() {
            return Err(Stop::Interrupted);
        }
        let mut rows = self.rows.iter_mut();
        let mut row = Row { labels: self.labels, values: self.values, filled: 0 };
        let mut scratch = Vec::new();
        let mut start = self.span.start;
        while start < self.span.end {
            let located = |fault| Stop::Fault { offset: start, fault };
            if let Some(pointer) = rows.next() {
                let from = row.filled;
                let rest = &self.text[start..self.span.end];
                let len = row.parse(rest, self.n_cols, options.missing_value).map_err(located)?;
                row.finish(from, &mut scratch).map_err(located)?;
                *pointer = (self.first_entry + row.filled) as i64;
                start += len;
            } else {
                let rest = &self.text[start..self.span.end];
                let len = rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
                if !token::trim_cr(&rest[..len]).iter().all(|&byte| token::is_blank(byte)) {
                    return Err(located(Fault::TooManyRows { expected: self.n_rows }));
                }
                start += len + 1;
            }
        }
        Ok(())
    }
}

/// The entries of a block, filled row by row.
struct Row<'a> {
    labels: &'a mut [i32],
    values: &'a mut [f32],
    filled: usize,
}

impl Row<'_> {
    /// Parses the first line of `text` and returns its length, line feed included.
    #[inline]
    fn parse(
        &mut self,
        text: &[u8],
        n_cols: usize,
        missing_value: Option<f32>,
    ) -> std::result::Result<usize, Fault> {
        let mut at = 0;
        loop {
            while at < text.len() && token::is_blank(text[at]) {
                at += 1;
            }
            if let Some((label, value, len)) = token::plain_entry(&text[at..]) {
                if (label as usize) < n_cols && self.push(label as i32, value) {
                    at += len;
                    continue;
                }
            }
            let start = at;
            let mut colon = None;
            while at < text.len() && !token::is_blank(text[at]) && text[at] != b'\n' {
                if text[at] == b':' && colon.is_none() {
                    colon = Some(at);
                }
                at += 1;
            }
            let ends_line = at == text.len() || text[at] == b'\n';
            let token = &text[start..at];
            let token = if ends_line { token::trim_cr(token) } else { token };
            if !token.is_empty() {
                self.entry(token, start, colon.map(|colon| colon - start), n_cols, missing_value)?;
            }
            if ends_line {
                return Ok((at + 1).min(text.len()));
            }
        }
    }

    /// Stores one token, which starts at byte `start` of its line.
    #[inline]
    fn entry(
        &mut self,
        token: &[u8],
        start: usize,
        colon: Option<usize>,
        n_cols: usize,
        missing_value: Option<f32>,
    ) -> std::result::Result<(), Fault> {
        let label = token::label(token, &token[..colon.unwrap_or(token.len())], start, n_cols)?;
        let value = match (colon, missing_value) {
            (Some(colon), _) => match token::value(&token[colon + 1..]) {
                Some(Ok(value)) => value,
                Some(Err(())) => return Err(Fault::NotFinite { label }),
                None => return Err(token::bad_token(token, start)),
            },
            (None, Some(value)) => value,
            (None, None) => {
                return Err(Fault::MissingValue { label: token::quote(token) });
            }
        };
        if self.push(label, value) { Ok(()) } else { Err(token::bad_token(token, start)) }
    }

    /// Appends an entry. The first pass counted every token, so there is room; a miscount must not
    /// panic, though.
    #[inline]
    fn push(&mut self, label: i32, value: f32) -> bool {
        let slot = self.labels.get_mut(self.filled).zip(self.values.get_mut(self.filled));
        let Some(slot) = slot else { return false };
        (*slot.0, *slot.1) = (label, value);
        self.filled += 1;
        true
    }

    /// Sorts the row that starts at entry `from`, unless it is sorted, as nearly all are.
    #[inline]
    fn finish(
        &mut self,
        from: usize,
        scratch: &mut Vec<(i32, f32)>,
    ) -> std::result::Result<(), Fault> {
        let labels = &mut self.labels[from..self.filled];
        if labels.is_sorted_by(|a, b| a < b) {
            return Ok(());
        }
        sort_row(labels, &mut self.values[from..self.filled], scratch)
    }
}

/// Writes label text that [`parse_labels`] reads back to the same matrix.
///
/// Values are written as `1.0`, with the fewest digits that give the same `f32`; entries keep their
/// order, so the same matrix always gives the same bytes.
///
/// # Errors
/// Those of `out`.
pub fn write_labels(matrix: CsrView<'_>, mut out: impl Write) -> io::Result<()> {
    writeln!(out, "{} {}", matrix.n_rows(), matrix.n_cols())?;
    for row in 0..matrix.n_rows() {
        let (labels, values) = matrix.row(row);
        for (i, (label, value)) in labels.iter().zip(values).enumerate() {
            let gap = if i == 0 { "" } else { " " };
            write!(out, "{gap}{label}:{value:?}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}
