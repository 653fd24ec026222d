//! The first line of a text.

use super::Layout;
use crate::error::Fault;
use crate::token::{self, Digits};

/// The header line, and what follows it.
pub(super) fn split_header(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|&byte| byte == b'\n').unwrap_or(text.len());
    (&text[..end], text.get(end + 1..).unwrap_or_default())
}

/// Rows and columns that the header line announces; label text has no third side.
pub(super) fn parse_header(line: &[u8], layout: Layout) -> std::result::Result<[usize; 3], Fault> {
    let (n_sides, wrong) = match layout {
        Layout::Lf => (2, Fault::Header),
        Layout::Bow => (3, Fault::BowHeader),
    };
    let line = token::trim_cr(token::without_mark(line));
    let mut numbers = [Some(0); 3];
    let mut n_tokens = 0;
    for (at, text) in token::tokens(line) {
        let number = match token::digits(text) {
            Digits::Number(number) => Some(number),
            // A number means that the header is missing or wrong; anything else is a foreign file.
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
