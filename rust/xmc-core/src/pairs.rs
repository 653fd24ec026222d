//! Filter pairs: a line `row label` for each pair to drop before ranking.

use crate::csr::CsrPattern;
use crate::error::{Error, Fault, Place, Result};
use crate::memory::{reserve, with_room};
use crate::token::{self, Digits};

/// Filter pairs as a CSR pattern, sorted, each pair once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pairs {
    /// Row pointers, one more than rows.
    pub indptr: Vec<i64>,
    /// Labels, row after row.
    pub indices: Vec<i32>,
    /// Repetitions that were merged.
    pub n_repeated: usize,
}

impl Pairs {
    /// The pairs as a pattern with `n_labels` columns, under the given name.
    ///
    /// # Errors
    /// As [`CsrPattern::new`], if the fields were changed by hand.
    pub fn pattern<'a>(&'a self, name: &'a str, n_labels: usize) -> Result<CsrPattern<'a>> {
        CsrPattern::new(name, n_labels, &self.indptr, &self.indices)
    }
}

/// Parses filter pairs for a matrix of the given shape; `file` is the name in messages.
///
/// There is no header. Blank lines are skipped, an empty text has no pairs.
///
/// # Errors
/// [`Error::Content`] with the line of the first fault; [`Error::Parameter`] if a side is 2^31 or
/// more.
pub fn parse_pairs(file: &str, text: &[u8], n_rows: usize, n_labels: usize) -> Result<Pairs> {
    for (name, side) in [("n_rows", n_rows), ("n_labels", n_labels)] {
        if side > i32::MAX as usize {
            let rule = "must be below 2^31";
            return Err(Error::Parameter { name, rule, value: side.to_string() });
        }
    }
    let mut pairs = Vec::new();
    let text = token::without_mark(text);
    for (line, bytes) in text.split(|&byte| byte == b'\n').enumerate() {
        let pair = parse_pair(token::trim_cr(bytes), n_rows, n_labels).map_err(|fault| {
            Error::Content { place: Place::Line { file: file.to_owned(), line: line + 1 }, fault }
        })?;
        if let Some((row, label)) = pair {
            reserve(&mut pairs, 1)?;
            // One number of both, row first: half the memory, and it sorts faster.
            pairs.push(((row as u64) << 32) | label as u64);
        }
    }
    let n_lines = pairs.len();
    pairs.sort_unstable();
    pairs.dedup();
    let mut indptr = with_room(n_rows.saturating_add(1))?;
    let mut end = 0;
    indptr.push(0);
    for row in 0..n_rows {
        end += pairs[end..].iter().take_while(|&&pair| pair >> 32 == row as u64).count();
        indptr.push(end as i64);
    }
    let indices: Vec<i32> = pairs.into_iter().map(|pair| pair as u32 as i32).collect();
    Ok(Pairs { n_repeated: n_lines - indices.len(), indptr, indices })
}

fn parse_pair(
    line: &[u8],
    n_rows: usize,
    n_labels: usize,
) -> std::result::Result<Option<(usize, i32)>, Fault> {
    let mut tokens = token::tokens(line);
    let Some((at_row, row)) = tokens.next() else {
        return Ok(None);
    };
    let (Some((at_label, label)), None) = (tokens.next(), tokens.next()) else {
        return Err(Fault::NotAPair);
    };
    let row = match token::digits(row) {
        Digits::Number(number) if number < n_rows as u64 => number as usize,
        Digits::Not => return Err(token::bad_token(row, at_row)),
        _ => {
            return Err(Fault::RowOutOfRange { row: token::quote(row), n_rows });
        }
    };
    Ok(Some((row, token::label(label, label, at_label, n_labels)?)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Pairs> {
        parse_pairs("filter.txt", text.as_bytes(), 3, 4)
    }

    #[test]
    fn pairs_are_sorted_and_merged() {
        let pairs = parse("2 0\r\n0 3\n0\t1 \n\n2 0").unwrap();
        assert_eq!(pairs.indptr, [0, 2, 2, 3]);
        assert_eq!(pairs.indices, [1, 3, 0]);
        assert_eq!(pairs.n_repeated, 1);
        assert_eq!(parse("").unwrap().indptr, [0; 4]);
    }

    #[test]
    fn faults_name_their_line() {
        for (text, message) in [
            ("0 1\n3 1", "filter.txt:2: row 3 out of range (n_rows = 3)"),
            ("0 4", "filter.txt:1: label 4 out of range (n_labels = 4)"),
            ("0 -1", "filter.txt:1: bad label '-1' (column 3)"),
            ("x 1", "filter.txt:1: bad token 'x' (column 1)"),
            ("0 1 2", "filter.txt:1: expected 'row label'"),
            ("\n0", "filter.txt:2: expected 'row label'"),
            ("0 0:1", "filter.txt:1: bad token '0:1' (column 3)"),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), message);
        }
    }
}
