//! What the text layouts share: a header, then a line a row, parsed in blocks of whole lines.
//!
//! Text comes whole (a mapped file) or as a stream of chunks (a compressed one). Of each chunk two
//! passes are made: one counts lines and entries, the second fills arrays of that size, both in
//! blocks in the caller's rayon pool.

use std::ops::Range;

use rayon::prelude::*;

use crate::csr::Csr;
use crate::error::{Error, Fault, Place, Result};
use crate::repair::{Columns, Repairs};
use crate::rows::{Cells, Rules};
use crate::stream::{Stream, reserve};
use crate::token::{self, Digits};

/// Bytes a task parses, rounded up to a whole line.
const BLOCK: usize = 1 << 20;

/// How to read label text and bag-of-words text.
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

/// The two layouts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Header `rows labels`; a line holds `label:value` tokens.
    Lf,
    /// Header `points features labels`; a line holds `label,label,...`, then `feature:value` tokens.
    Bow,
}

/// Where the text comes from.
pub(crate) enum Text<'a> {
    /// All of it at once.
    Whole(&'a [u8]),
    /// Chunk by chunk, at the end perhaps an error.
    Chunks(Stream<'a>),
}

/// What a text holds.
pub(crate) struct Parsed {
    /// The `id:value` tokens.
    pub entries: Csr,
    /// The label lists of bag-of-words text; without rows for label text.
    pub lists: Csr,
    pub repairs: Repairs,
}

/// Why parsing ended early.
pub(crate) enum Stop {
    /// Bad content, and its line.
    Fault(usize, Fault),
    /// An error that names its place already.
    Error(Error),
}

pub(crate) type At<T> = std::result::Result<T, Stop>;

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// Parses a text; `file` is its name in messages. With `repair`, what [`Repairs`] counts is mended.
pub(crate) fn parse(
    file: &str,
    text: Text<'_>,
    layout: Layout,
    options: ParseOptions<'_>,
    repair: bool,
) -> Result<Parsed> {
    if let Some(value) = options.missing_value.filter(|value| !value.is_finite()) {
        let (name, rule) = ("missing_value", "must be finite");
        return Err(Error::Parameter { name, rule, value: value.to_string() });
    }
    let parsed = match text {
        Text::Whole(text) => whole(text, layout, options, repair),
        Text::Chunks(stream) => chunks(stream, layout, options, repair),
    };
    let mut parsed = parsed.map_err(|stop| match stop {
        Stop::Error(error) => error,
        Stop::Fault(line, fault) => {
            Error::Content { place: Place::Line { file: file.to_owned(), line }, fault }
        }
    })?;
    parsed.repairs.name_lines(file);
    Ok(parsed)
}

fn whole(text: &[u8], layout: Layout, options: ParseOptions<'_>, repair: bool) -> At<Parsed> {
    let (header, body) = split_header(text);
    let mut parser = Parser::new(header, layout, options, repair)?;
    parser.feed(body)?;
    parser.finish()
}

fn chunks(
    mut stream: Stream<'_>,
    layout: Layout,
    options: ParseOptions<'_>,
    repair: bool,
) -> At<Parsed> {
    let mut chunk = stream.next_chunk(Vec::new(), options.keep_going)?;
    let (header, body) = split_header(&chunk);
    let body = chunk.len() - body.len();
    let mut parser = Parser::new(header, layout, options, repair)?;
    let (mut spare, mut start) = (Vec::new(), body);
    while !chunk.is_empty() {
        // The next chunk is unpacked while this one is parsed.
        let (fed, next) = rayon::join(
            || parser.feed(&chunk[start..]),
            || stream.next_chunk(std::mem::take(&mut spare), options.keep_going),
        );
        fed?;
        spare = std::mem::replace(&mut chunk, next?);
        start = 0;
    }
    parser.finish()
}

fn split_header(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|&byte| byte == b'\n').unwrap_or(text.len());
    (&text[..end], text.get(end + 1..).unwrap_or_default())
}

struct Parser<'a> {
    layout: Layout,
    options: ParseOptions<'a>,
    repair: bool,
    n_rows: usize,
    n_lines: usize,
    entries: Csr,
    lists: Csr,
    repairs: Repairs,
}

impl<'a> Parser<'a> {
    fn new(header: &[u8], layout: Layout, options: ParseOptions<'a>, repair: bool) -> At<Self> {
        let sides = parse_header(header, layout).map_err(|fault| Stop::Fault(1, fault))?;
        let [n_rows, n_cols, n_listed] = sides;
        let empty = |n_cols| Csr { n_cols, indptr: vec![0], indices: vec![], data: vec![] };
        let (entries, lists) = (empty(n_cols), empty(n_listed));
        let (n_lines, repairs) = (0, Repairs::default());
        Ok(Self { layout, options, repair, n_rows, n_lines, entries, lists, repairs })
    }

    /// Appends the rows of a chunk of whole lines.
    fn feed(&mut self, chunk: &[u8]) -> At<()> {
        let Self { layout, options, repair, n_rows, .. } = *self;
        let blocks = cut(chunk);
        let counts = blocks.par_iter().map(|block| {
            let going = (options.keep_going)();
            going
                .then(|| Count::of(&chunk[block.clone()], layout, options))
                .ok_or(Stop::Error(Error::Interrupted))
        });
        let counts = counts.collect::<Vec<_>>().into_iter().collect::<At<Vec<Count>>>()?;

        let rows_done = self.entries.n_rows();
        let n_new: usize = counts.iter().map(|count| count.lines).sum();
        let n_new = n_new.min(n_rows - rows_done);
        let n_entries: usize = counts.iter().map(|count| count.entries).sum();
        let n_listed: usize = counts.iter().map(|count| count.listed).sum();
        let (entries_start, lists_start) = (self.entries.indices.len(), self.lists.indices.len());
        grow(&mut self.entries, n_new, n_entries)?;
        let n_list_rows = if layout == Layout::Bow { n_new } else { 0 };
        grow(&mut self.lists, n_list_rows, n_listed)?;

        let (n_cols, n_labels) = (self.entries.n_cols, self.lists.n_cols);
        let mut entries = Cells::tail(&mut self.entries, rows_done, entries_start);
        let mut lists = Cells::tail(&mut self.lists, rows_done, lists_start);
        let mut tasks = Vec::with_capacity(blocks.len());
        let mut first_line = self.n_lines + 2;
        for (span, count) in blocks.into_iter().zip(&counts) {
            let n_rows = count.lines.min(entries.n_rows());
            let entries = entries.split_off(n_rows, count.entries);
            let lists = lists.split_off(n_rows, count.listed);
            tasks.push(Block { text: chunk, span, first_line, entries, lists });
            first_line += count.lines;
        }
        self.n_lines = first_line - 2;

        let missing_value = options.missing_value;
        let columns = if layout == Layout::Bow { Columns::Features } else { Columns::Labels };
        let rules = [
            Rules { n_cols, missing_value, repair, columns },
            Rules { n_cols: n_labels, missing_value, repair, columns: Columns::Listed },
        ];
        let fill = |task: Block<'_>| {
            if (options.keep_going)() {
                task.fill(layout, rules, n_rows)
            } else {
                Err(Error::Interrupted.into())
            }
        };
        let filled: Vec<At<Filled>> = tasks.into_par_iter().map(fill).collect();
        // In file order, so that the first fault is reported whatever the number of threads.
        let filled = filled.into_iter().collect::<At<Vec<Filled>>>()?;
        close_gaps(&mut self.entries, filled.iter().map(|block| block.entries));
        close_gaps(&mut self.lists, filled.iter().map(|block| block.lists));
        for block in filled {
            self.repairs.add(block.repairs);
        }
        Ok(())
    }

    fn finish(mut self) -> At<Parsed> {
        if self.n_lines < self.n_rows {
            let fault = Fault::TooFewRows { expected: self.n_rows, found: self.n_lines };
            return Err(Stop::Fault(self.n_lines + 1, fault));
        }
        for csr in [&mut self.entries, &mut self.lists] {
            // Growing by chunks leaves room; giving back the end of an array copies nothing.
            csr.indptr.shrink_to_fit();
            csr.indices.shrink_to_fit();
            csr.data.shrink_to_fit();
        }
        Ok(Parsed { entries: self.entries, lists: self.lists, repairs: self.repairs })
    }
}

/// Rows and columns that the header line announces; label text has no third side.
fn parse_header(line: &[u8], layout: Layout) -> std::result::Result<[usize; 3], Fault> {
    let (n_sides, wrong) = match layout {
        Layout::Lf => (2, Fault::Header),
        Layout::Bow => (3, Fault::BowHeader),
    };
    let line = token::trim_cr(line);
    let mut numbers = [Some(0); 3];
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
    let (true, [Some(n_rows), Some(n_cols), Some(n_listed)]) = (n_tokens == n_sides, numbers)
    else {
        return Err(wrong);
    };
    let most = i32::MAX as u64;
    match layout {
        Layout::Lf if n_cols > most => return Err(Fault::TooManyLabels { n_labels: n_cols }),
        Layout::Bow if n_cols > most => {
            return Err(Fault::TooManyFeatures { n_features: n_cols });
        }
        Layout::Bow if n_listed > most => {
            return Err(Fault::TooManyLabels { n_labels: n_listed });
        }
        _ => {}
    }
    let n_rows = usize::try_from(n_rows).map_err(|_| wrong)?;
    Ok([n_rows, n_cols as usize, n_listed as usize])
}

/// Cuts a text into blocks that end with a line.
fn cut(text: &[u8]) -> Vec<Range<usize>> {
    let mut blocks = Vec::new();
    let mut start = 0;
    while start < text.len() {
        let least = (start + BLOCK).min(text.len());
        let rest = text[least..].iter().position(|&byte| byte == b'\n');
        let end = rest.map_or(text.len(), |rest| least + rest + 1);
        blocks.push(start..end);
        start = end;
    }
    blocks
}

/// Lines of a block, and upper bounds of its entries that good text meets.
struct Count {
    lines: usize,
    entries: usize,
    listed: usize,
}

impl Count {
    fn of(block: &[u8], layout: Layout, options: ParseOptions<'_>) -> Self {
        let [mut lines, colons] = count_bytes(block, [b'\n', b':']);
        // The last line of a file may lack its line feed.
        lines += usize::from(block.last().is_some_and(|&byte| byte != b'\n'));
        // Without its colon a token counts only where a value may be missing.
        let space = |byte| matches!(byte, b' ' | b'\n' | b'\t' | b'\r');
        let entries = match options.missing_value {
            None => colons,
            Some(_) => count_pairs(block, |before, after| space(before) & !space(after)),
        };
        let listed = match layout {
            Layout::Lf => 0,
            Layout::Bow => {
                let [commas] = count_bytes(block, [b',']);
                commas + count_pairs(block, |before, after| (before == b'\n') & !space(after))
            }
        };
        Self { lines, entries, listed }
    }
}

/// How often each byte occurs. Short runs with byte-sized sums vectorise well.
fn count_bytes<const N: usize>(block: &[u8], bytes: [u8; N]) -> [usize; N] {
    let mut totals = [0; N];
    for run in block.chunks(192) {
        let mut sums = [0u8; N];
        for &byte in run {
            for (sum, wanted) in sums.iter_mut().zip(bytes) {
                *sum += u8::from(byte == wanted);
            }
        }
        for (total, sum) in totals.iter_mut().zip(sums) {
            *total += usize::from(sum);
        }
    }
    totals
}

/// How many neighbouring bytes, a line feed thought before the first, are as wanted.
fn count_pairs(block: &[u8], wanted: impl Fn(u8, u8) -> bool) -> usize {
    let Some((&first, after)) = block.split_first() else { return 0 };
    let mut total = usize::from(wanted(b'\n', first));
    for (before, after) in block.chunks(192).zip(after.chunks(192)) {
        let mut sum = 0u8;
        for (&before, &after) in before.iter().zip(after) {
            sum += u8::from(wanted(before, after));
        }
        total += usize::from(sum);
    }
    total
}

/// Appends zeroed rows and entries.
fn grow(csr: &mut Csr, n_rows: usize, n_entries: usize) -> Result<()> {
    reserve(&mut csr.indptr, n_rows)?;
    csr.indptr.resize(csr.indptr.len() + n_rows, 0);
    zeroed(&mut csr.indices, n_entries)?;
    zeroed(&mut csr.data, n_entries)
}

/// Appends zeros. To an empty vector that is memory the system has zeroed, touched only when filled.
fn zeroed<T: Copy + Default>(vector: &mut Vec<T>, n: usize) -> Result<()> {
    if vector.is_empty() {
        reserve(&mut Vec::<T>::new(), n)?;
        *vector = vec![T::default(); n];
    } else {
        reserve(vector, n)?;
        vector.resize(vector.len() + n, T::default());
    }
    Ok(())
}

/// A block of whole lines and the cells of the result that it fills.
struct Block<'a> {
    text: &'a [u8],
    span: Range<usize>,
    first_line: usize,
    entries: Cells<'a>,
    lists: Cells<'a>,
}

/// What a block has filled of its cells.
struct Filled {
    entries: Piece,
    lists: Piece,
    repairs: Repairs,
}

/// A block's rows, where its cells start, how many it filled.
#[derive(Clone, Copy)]
pub(crate) struct Piece {
    pub n_rows: usize,
    pub start: usize,
    pub filled: usize,
}

impl Block<'_> {
    fn fill(mut self, layout: Layout, rules: [Rules; 2], n_rows: usize) -> At<Filled> {
        let [of_entries, of_lists] = rules;
        let mut repairs = Repairs::default();
        let (mut at, mut line) = (self.span.start, self.first_line);
        for row in 0..self.entries.n_rows() {
            let located = |fault| Stop::Fault(line, fault);
            // Up to the end of the text: whoever looks ahead needs no care at a line's end.
            let rest = &self.text[at..];
            let mut start = 0;
            if layout == Layout::Bow {
                start =
                    self.lists.parse_list(rest, of_lists, line, &mut repairs).map_err(located)?;
                self.lists.finish(row, of_lists, line, &mut repairs).map_err(located)?;
            }
            let len = self.entries.parse(rest, start, of_entries, line, &mut repairs);
            at += len.map_err(located)?;
            self.entries.finish(row, of_entries, line, &mut repairs).map_err(located)?;
            line += 1;
        }
        while at < self.span.end {
            let rest = &self.text[at..self.span.end];
            let len = rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
            if !token::trim_cr(&rest[..len]).iter().all(|&byte| token::is_blank(byte)) {
                return Err(Stop::Fault(line, Fault::TooManyRows { expected: n_rows }));
            }
            at += len + 1;
            line += 1;
        }
        Ok(Filled { entries: self.entries.piece(), lists: self.lists.piece(), repairs })
    }
}

/// Moves the pieces of the last chunk together, where a piece did not fill all its cells.
fn close_gaps(csr: &mut Csr, pieces: impl Iterator<Item = Piece> + Clone) {
    let Some(first) = pieces.clone().next() else { return };
    let n_new: usize = pieces.clone().map(|piece| piece.n_rows).sum();
    let mut row = csr.indptr.len() - n_new;
    let mut end = first.start;
    for piece in pieces {
        if piece.start != end {
            let filled = piece.start..piece.start + piece.filled;
            csr.indices.copy_within(filled.clone(), end);
            csr.data.copy_within(filled, end);
            let gap = (piece.start - end) as i64;
            for pointer in &mut csr.indptr[row..row + piece.n_rows] {
                *pointer -= gap;
            }
        }
        row += piece.n_rows;
        end += piece.filled;
    }
    csr.indices.truncate(end);
    csr.data.truncate(end);
}
