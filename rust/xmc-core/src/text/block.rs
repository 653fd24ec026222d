//! Blocks of whole lines: cut, counted, and parsed into the cells they were given.

use std::ops::Range;

use super::{At, Layout, ParseOptions, Stop};
use crate::error::Fault;
use crate::repair::Repairs;
use crate::rows::{Cells, Rules};
use crate::token;

/// Bytes a task parses, rounded up to a whole line.
const BLOCK: usize = 1 << 20;

/// Cuts a text into blocks that end with a line.
pub(super) fn cut(text: &[u8]) -> Vec<Range<usize>> {
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
pub(super) struct Count {
    pub(super) lines: usize,
    pub(super) entries: usize,
    pub(super) listed: usize,
}

impl Count {
    pub(super) fn of(block: &[u8], layout: Layout, options: ParseOptions<'_>) -> Self {
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

/// Counts each byte. Short runs with byte-sized sums vectorise well.
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

/// A block of whole lines and the cells of the result that it fills.
pub(super) struct Block<'a> {
    pub(super) text: &'a [u8],
    pub(super) span: Range<usize>,
    pub(super) first_line: usize,
    pub(super) entries: Cells<'a>,
    pub(super) lists: Cells<'a>,
}

/// What a block has filled of its cells.
pub(super) struct Filled {
    pub(super) entries: Piece,
    pub(super) lists: Piece,
    pub(super) repairs: Repairs,
}

/// A block's rows, where its cells start, how many it filled.
#[derive(Clone, Copy)]
pub(crate) struct Piece {
    pub n_rows: usize,
    pub start: usize,
    pub filled: usize,
}

impl Block<'_> {
    pub(super) fn fill(mut self, layout: Layout, rules: [Rules; 2], n_rows: usize) -> At<Filled> {
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
