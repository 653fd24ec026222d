//! Label text in the LF layout: a header `rows labels`, then a line of `label:value` tokens a row.

use crate::csr::Csr;
use crate::error::Result;
use crate::repair::Repairs;
use crate::text::{self, Layout, ParseOptions, Text};

/// Parses label text; `file` is its name in messages.
///
/// Rows come out sorted by label. The shape is the header's.
///
/// # Errors
/// [`Error::Content`](crate::Error::Content) with the line of the first fault;
/// [`Error::Interrupted`](crate::Error::Interrupted) if [`ParseOptions::keep_going`] said so;
/// [`Error::Parameter`](crate::Error::Parameter) for a missing value that is not finite;
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
pub fn parse_labels(file: &str, text: &[u8], options: ParseOptions<'_>) -> Result<Csr> {
    Ok(text::parse(file, Text::Whole(text), Layout::Lf, options, false)?.entries)
}

/// As [`parse_labels`], but mends what [`Repairs`] counts.
///
/// # Errors
/// As [`parse_labels`], for faults that no repair mends.
pub fn parse_labels_repaired(
    file: &str,
    text: &[u8],
    options: ParseOptions<'_>,
) -> Result<(Csr, Repairs)> {
    let parsed = text::parse(file, Text::Whole(text), Layout::Lf, options, true)?;
    Ok((parsed.entries, parsed.repairs))
}
