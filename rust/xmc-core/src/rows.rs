//! Rows of a text, parsed into the cells of a matrix.

use crate::csr::{Csr, sort_row};
use crate::error::Fault;
use crate::repair::{Columns, Repairs, mend_row};
use crate::text::Piece;
use crate::token::{self, Unfit};

type Parsed<T> = std::result::Result<T, Fault>;

/// What a row may contain.
#[derive(Clone, Copy)]
pub(crate) struct Rules {
    pub n_cols: usize,
    pub missing_value: Option<f32>,
    pub repair: bool,
    pub columns: Columns,
}

impl Rules {
    /// Whether the fault was mended.
    fn mends(self, fault: &Fault, line: usize, repairs: &mut Repairs) -> bool {
        self.repair && repairs.drops(fault, line, self.columns)
    }
}

/// Row pointers and entries still to be filled, a piece of a larger matrix.
#[derive(Default)]
pub(crate) struct Cells<'a> {
    rows: &'a mut [i64],
    ids: &'a mut [i32],
    values: &'a mut [f32],
    /// Position of the first entry in the whole matrix.
    start: usize,
    filled: usize,
    scratch: Vec<(i32, f32)>,
}

impl<'a> Cells<'a> {
    /// Splits off everything after the given rows and entries.
    pub(crate) fn tail(csr: &'a mut Csr, n_rows: usize, start: usize) -> Self {
        let rows = csr.indptr.get_mut(n_rows + 1..).unwrap_or_default();
        let (ids, values) = (&mut csr.indices[start..], &mut csr.data[start..]);
        Self { rows, ids, values, start, ..Self::default() }
    }

    /// The first rows and entries; the rest stays.
    pub(crate) fn split_off(&mut self, n_rows: usize, n_entries: usize) -> Self {
        let n_rows = n_rows.min(self.rows.len());
        let (rows, rest_rows) = std::mem::take(&mut self.rows).split_at_mut(n_rows);
        let (ids, rest_ids) = std::mem::take(&mut self.ids).split_at_mut(n_entries);
        let (values, rest) = std::mem::take(&mut self.values).split_at_mut(n_entries);
        let start = self.start;
        *self = Self {
            rows: rest_rows,
            ids: rest_ids,
            values: rest,
            start: start + n_entries,
            ..Self::default()
        };
        Self { rows, ids, values, start, ..Self::default() }
    }

    pub(crate) fn n_rows(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn piece(&self) -> Piece {
        Piece { n_rows: self.rows.len(), start: self.start, filled: self.filled }
    }

    /// Parses the `id:value` tokens of a line from byte `at` on, up to its end, and returns its
    /// length, line feed included.
    #[inline]
    pub(crate) fn parse(
        &mut self,
        text: &[u8],
        mut at: usize,
        rules: Rules,
        line: usize,
        repairs: &mut Repairs,
    ) -> Parsed<usize> {
        loop {
            // One blank, as nearly everywhere, then one entry.
            while let Some((id, value, len)) = token::short_entry(&text[at..]) {
                if id as usize >= rules.n_cols || !self.push(id as i32, value) {
                    break;
                }
                at += len;
                match text[at] {
                    b'\n' => return Ok(at + 1),
                    _ => at += 1,
                }
            }
            while at < text.len() && token::is_blank(text[at]) {
                at += 1;
            }
            if let Some((id, value, len)) = token::plain_entry(&text[at..]) {
                if (id as usize) < rules.n_cols && self.push(id as i32, value) {
                    at += len;
                    continue;
                }
            }
            let start = at;
            let mut colon = None;
            while at < text.len() && !token::is_blank(text[at]) && text[at] != b'\n' {
                if text[at] == b':' && colon.is_none() {
                    colon = Some(at - start);
                }
                at += 1;
            }
            let ends_line = at == text.len() || text[at] == b'\n';
            let token = &text[start..at];
            let token = if ends_line { token::trim_cr(token) } else { token };
            if !token.is_empty() {
                match self.entry(token, start, colon, rules) {
                    Ok(()) => {}
                    Err(fault) if rules.mends(&fault, line, repairs) => {}
                    Err(fault) => return Err(rules.columns.named(fault)),
                }
            }
            if ends_line {
                return Ok((at + 1).min(text.len()));
            }
        }
    }

    /// Stores one token, which starts at byte `start` of its line.
    fn entry(
        &mut self,
        token: &[u8],
        start: usize,
        colon: Option<usize>,
        rules: Rules,
    ) -> Parsed<()> {
        let id = token::label(token, &token[..colon.unwrap_or(token.len())], start, rules.n_cols);
        let value = match (colon, rules.missing_value) {
            (Some(colon), _) => token::value(&token[colon + 1..]),
            (None, Some(value)) => Some(Ok(value)),
            (None, None) => {
                return Err(match id {
                    Ok(_) => Fault::MissingValue { label: token::quote(token) },
                    Err(fault) => fault,
                });
            }
        };
        // First, because a malformed token cannot be repaired, whatever its label.
        let value = value.ok_or_else(|| token::bad_token(token, start))?;
        let id = id?;
        let written = colon.map_or(token, |colon| &token[colon + 1..]);
        let value = value.map_err(|unfit| match unfit {
            Unfit::NotFinite => Fault::NotFinite { label: id },
            Unfit::TooSmall => Fault::TooSmall { label: id, value: token::quote(written) },
        })?;
        if self.push(id, value) { Ok(()) } else { Err(token::bad_token(token, start)) }
    }

    /// Parses the label list at the start of a line, if there is one, and returns its length.
    #[inline]
    pub(crate) fn parse_list(
        &mut self,
        text: &[u8],
        rules: Rules,
        line: usize,
        repairs: &mut Repairs,
    ) -> Parsed<usize> {
        if matches!(text.first(), None | Some(b' ' | b'\t' | b'\n' | b'\r')) {
            return Ok(0);
        }
        let from = self.filled;
        let mut at = 0;
        loop {
            let (label, n_digits) = token::leading_digits(&text[at..], 0);
            let end = text.get(at + n_digits);
            let stops = matches!(end, Some(b' ' | b'\t' | b'\n'));
            let good = n_digits > 0 && (label as usize) < rules.n_cols;
            if !(good && (stops || end == Some(&b','))) || !self.push(label as i32, 1.0) {
                break;
            }
            at += n_digits;
            if stops {
                return Ok(at);
            }
            at += 1;
        }
        self.filled = from;
        self.odd_list(text, rules, line, repairs)
    }

    /// The slow, complete form of `parse_list`.
    #[cold]
    fn odd_list(
        &mut self,
        text: &[u8],
        rules: Rules,
        line: usize,
        repairs: &mut Repairs,
    ) -> Parsed<usize> {
        let ends = |byte: &u8| token::is_blank(*byte) || *byte == b'\n';
        let len = text.iter().position(ends).unwrap_or(text.len());
        let mut token = &text[..len];
        if matches!(text.get(len), None | Some(b'\n')) {
            token = token::trim_cr(token);
        }
        if token.contains(&b':') {
            return Ok(0);
        }
        let mut at = 0;
        for piece in token.split(|&byte| byte == b',') {
            let shown = if piece.is_empty() { token } else { piece };
            match token::label(shown, piece, at, rules.n_cols) {
                Ok(label) if self.push(label, 1.0) => {}
                Ok(_) => return Err(token::bad_token(token, 0)),
                Err(_) if piece.is_empty() => {
                    let label = token::quote(token);
                    return Err(Fault::BadLabel { label, column: at + 1 });
                }
                Err(fault) if rules.mends(&fault, line, repairs) => {}
                Err(fault) => return Err(fault),
            }
            at += piece.len() + 1;
        }
        Ok(len)
    }

    /// Appends an entry. The first pass counted every token, so it fits; but a miscount must not
    /// panic.
    #[inline]
    fn push(&mut self, id: i32, value: f32) -> bool {
        let slot = self.ids.get_mut(self.filled).zip(self.values.get_mut(self.filled));
        let Some(slot) = slot else { return false };
        (*slot.0, *slot.1) = (id, value);
        self.filled += 1;
        true
    }

    /// Ends row `row` of the piece: sorts it, unless it is sorted, as nearly all are.
    #[inline]
    pub(crate) fn finish(
        &mut self,
        row: usize,
        rules: Rules,
        line: usize,
        repairs: &mut Repairs,
    ) -> Parsed<()> {
        let from = row.checked_sub(1).map_or(0, |row| self.rows[row] as usize - self.start);
        let ids = &mut self.ids[from..self.filled];
        if !ids.is_sorted_by(|a, b| a < b) {
            let values = &mut self.values[from..self.filled];
            if rules.repair {
                let columns = rules.columns;
                let len = mend_row(ids, values, columns, line, repairs, &mut self.scratch);
                self.filled = from + len;
            } else {
                let sorted = sort_row(ids, values, &mut self.scratch);
                sorted.map_err(|fault| rules.columns.named(fault))?;
            }
        }
        self.rows[row] = (self.start + self.filled) as i64;
        Ok(())
    }
}
