//! The parser shared by the text layouts: a header, then one line per row, in blocks of whole lines.
//!
//! Text arrives whole (a mapped file) or as a stream of chunks (a compressed one). Each chunk is
//! read twice: the first pass counts lines and entries, the second fills arrays of that size, both
//! in blocks in the caller's rayon pool.

mod block;
mod header;

use bytemuck::Zeroable;
use rayon::prelude::*;

use crate::csr::Csr;
use crate::error::{Error, Fault, Place, Result};
use crate::memory::{reserve, zeroed};
use crate::repair::{Columns, Repairs};
use crate::rows::{Cells, Rules};
use crate::stream::Stream;
pub(crate) use block::Piece;
use block::{Block, Count, Filled, cut};
use header::{parse_header, split_header};

/// How to read label text and bag-of-words text.
#[derive(Clone, Copy)]
pub struct ParseOptions<'a> {
    /// Value of a label that is written without one; if `None`, such a label is an error.
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
    /// An error that already says where it is.
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

/// Appends zeroed rows and entries.
fn grow(csr: &mut Csr, n_rows: usize, n_entries: usize) -> Result<()> {
    reserve(&mut csr.indptr, n_rows)?;
    csr.indptr.resize(csr.indptr.len() + n_rows, 0);
    append_zeros(&mut csr.indices, n_entries)?;
    append_zeros(&mut csr.data, n_entries)
}

/// Appends zeros. To an empty vector that is memory the system has zeroed, touched only when filled.
fn append_zeros<T: Zeroable + Copy>(vector: &mut Vec<T>, n: usize) -> Result<()> {
    if vector.is_empty() {
        *vector = zeroed(n)?;
    } else {
        reserve(vector, n)?;
        vector.resize(vector.len() + n, T::zeroed());
    }
    Ok(())
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
