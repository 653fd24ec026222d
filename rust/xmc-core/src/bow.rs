//! Bag-of-words text: features and labels in one file.

use crate::csr::Csr;
use crate::error::Result;
use crate::repair::Repairs;
use crate::text::{self, Layout, ParseOptions, Parsed, Text};

/// A data set of bags of words; both matrices have a row a point.
#[derive(Debug, Clone, PartialEq)]
pub struct Bow {
    /// Features with their values, points x features.
    pub features: Csr,
    /// Labels, points x labels; every value is 1.
    pub labels: Csr,
}

impl From<Parsed> for Bow {
    fn from(parsed: Parsed) -> Self {
        Self { features: parsed.entries, labels: parsed.lists }
    }
}

/// Parses bag-of-words text; `file` is its name in messages.
///
/// The first line is `points features labels`; each further line is a list of labels
/// (`3,17,20`), then `feature:value` tokens. A line that starts with a blank, or whose first token
/// holds a colon, has no labels. Rows come out sorted.
///
/// # Errors
/// As [`parse_labels`](crate::parse_labels).
pub fn parse_bow(file: &str, text: &[u8], options: ParseOptions<'_>) -> Result<Bow> {
    Ok(text::parse(file, Text::Whole(text), Layout::Bow, options, false)?.into())
}

/// As [`parse_bow`], but mends what [`Repairs`] counts, in both matrices.
///
/// # Errors
/// As [`parse_bow`], for faults that no repair mends.
pub fn parse_bow_repaired(
    file: &str,
    text: &[u8],
    options: ParseOptions<'_>,
) -> Result<(Bow, Repairs)> {
    let mut parsed = text::parse(file, Text::Whole(text), Layout::Bow, options, true)?;
    let repairs = std::mem::take(&mut parsed.repairs);
    Ok((parsed.into(), repairs))
}
