//! Writers of the text formats. The same matrix always gives the same bytes, whatever the number of
//! threads: rows are formatted (and packed) in parallel, in blocks that depend on the matrix alone.

use std::io::{self, Write};
use std::ops::Range;

use rayon::prelude::*;

use crate::csr::{CsrPattern, CsrView};
use crate::stream::Packing;

/// Entries and rows a task formats: a megabyte or so.
const BLOCK: usize = 1 << 16;
/// Blocks held in memory at a time.
const BATCH: usize = 64;

/// Writes label text that [`parse_labels`](crate::parse_labels) reads back to the same matrix.
///
/// Values are written as `1.0`, with the fewest digits that give the same `f32`; entries keep their
/// order, so the same matrix always gives the same bytes.
///
/// # Errors
/// Those of `out`.
pub fn write_labels(matrix: CsrView<'_>, out: impl Write) -> io::Result<()> {
    pack_labels(matrix, out, Packing::None)
}

pub(crate) fn pack_labels(
    matrix: CsrView<'_>,
    out: impl Write,
    packing: Packing,
) -> io::Result<()> {
    let header = format!("{} {}\n", matrix.n_rows(), matrix.n_cols());
    rows(header, matrix.pattern(), out, packing, |row, text| {
        entries(matrix.row(row), text);
        text.push(b'\n');
    })
}

/// Writes bag-of-words text that [`parse_bow`](crate::parse_bow) reads back to the same matrices.
///
/// The values of the labels are not written. A row without labels starts with a blank.
///
/// # Errors
/// Those of `out`; [`io::ErrorKind::InvalidInput`] if the matrices differ in their rows.
pub fn write_bow(features: CsrView<'_>, labels: CsrPattern<'_>, out: impl Write) -> io::Result<()> {
    pack_bow(features, labels, out, Packing::None)
}

pub(crate) fn pack_bow(
    features: CsrView<'_>,
    labels: CsrPattern<'_>,
    out: impl Write,
    packing: Packing,
) -> io::Result<()> {
    let n_rows = features.n_rows();
    if labels.n_rows() != n_rows {
        let what = format!("{n_rows} rows of features, {} of labels", labels.n_rows());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    let header = format!("{n_rows} {} {}\n", features.n_cols(), labels.n_cols());
    rows(header, features.pattern(), out, packing, |row, text| {
        for (i, &label) in labels.row(row).iter().enumerate() {
            if i > 0 {
                text.push(b',');
            }
            number(label as u32, text);
        }
        let features = features.row(row);
        if !features.0.is_empty() {
            text.push(b' ');
        }
        entries(features, text);
        text.push(b'\n');
    })
}

/// Writes filter pairs that [`parse_pairs`](crate::parse_pairs) reads back.
///
/// # Errors
/// Those of `out`.
pub fn write_pairs(pairs: CsrPattern<'_>, out: impl Write) -> io::Result<()> {
    pack_pairs(pairs, out, Packing::None)
}

pub(crate) fn pack_pairs(
    pairs: CsrPattern<'_>,
    out: impl Write,
    packing: Packing,
) -> io::Result<()> {
    rows(String::new(), pairs, out, packing, |row, text| {
        for &label in pairs.row(row) {
            number(row as u32, text);
            text.push(b' ');
            number(label as u32, text);
            text.push(b'\n');
        }
    })
}

/// Writes a header and the text of each row.
fn rows(
    header: String,
    pattern: CsrPattern<'_>,
    mut out: impl Write,
    packing: Packing,
    format: impl Fn(usize, &mut Vec<u8>) + Sync,
) -> io::Result<()> {
    let mut first = Some(header.into_bytes());
    let blocks = cut(pattern);
    for batch in blocks.chunks(BATCH) {
        let mut batch: Vec<(Vec<u8>, Range<usize>)> =
            batch.iter().map(|rows| (Vec::new(), rows.clone())).collect();
        if let Some(header) = first.take() {
            batch[0].0 = header;
        }
        let packed = batch.into_par_iter().map(|(mut text, rows)| {
            for row in rows {
                format(row, &mut text);
            }
            packing.pack(text)
        });
        for block in packed.collect::<Vec<io::Result<Vec<u8>>>>() {
            out.write_all(&block?)?;
        }
    }
    Ok(())
}

/// Blocks of rows, at least one.
fn cut(pattern: CsrPattern<'_>) -> Vec<Range<usize>> {
    let (mut blocks, mut start, mut size) = (Vec::new(), 0, 0);
    for row in 0..pattern.n_rows() {
        size += 1 + pattern.row(row).len();
        if size >= BLOCK {
            blocks.push(start..row + 1);
            (start, size) = (row + 1, 0);
        }
    }
    if blocks.is_empty() || start < pattern.n_rows() {
        blocks.push(start..pattern.n_rows());
    }
    blocks
}

fn entries((ids, values): (&[i32], &[f32]), text: &mut Vec<u8>) {
    for (i, (&id, &value)) in ids.iter().zip(values).enumerate() {
        if i > 0 {
            text.push(b' ');
        }
        number(id as u32, text);
        text.push(b':');
        decimal(value, text);
    }
}

fn number(mut number: u32, text: &mut Vec<u8>) {
    let mut digits = [0; 10];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    text.extend_from_slice(&digits[at..]);
}

/// Writes a value as `{:?}` does: the fewest digits that give the same `f32`, and at least `.0`.
fn decimal(value: f32, text: &mut Vec<u8>) {
    // Most values are whole or have few decimals. The first count of decimals at which the nearest
    // decimal number reads back as the value is the shortest there is; below 10^7 the quotient is
    // rounded once and so is what a reader gets.
    const POWERS: [f32; 7] = [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6];
    if value.is_sign_positive() && (value >= 1e-4 || value == 0.0) {
        for (n_decimals, power) in POWERS.into_iter().enumerate() {
            let digits = (f64::from(value) * f64::from(power)).round_ties_even();
            if digits >= 1e7 {
                break;
            }
            if (digits as f32 / power).to_bits() == value.to_bits() {
                let (digits, power) = (digits as u32, power as u32);
                number(digits / power, text);
                text.push(b'.');
                let start = text.len();
                let mut rest = digits % power;
                text.resize(start + n_decimals.max(1), b'0');
                for place in text[start..].iter_mut().rev() {
                    *place = b'0' + (rest % 10) as u8;
                    rest /= 10;
                }
                return;
            }
        }
    }
    // Writing to memory does not fail.
    let _ = write!(text, "{value:?}");
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_those_of_the_standard_library() {
        let check = |value: f32| {
            let mut text = Vec::new();
            decimal(value, &mut text);
            assert_eq!(String::from_utf8(text).unwrap(), format!("{value:?}"));
        };
        for value in [0.0, -0.0, 1.0, 0.1, 1e7, 9_999_999.0, 16_777_216.0, 1e16, 1e-4, 1e-5, -1.5] {
            check(value);
            check(f32::from_bits(value.to_bits() + 1));
        }
        for bits in (0..0x7f80_0000u32).step_by(9973) {
            check(f32::from_bits(bits));
        }
        for number in (0..10_000_000u32).step_by(37) {
            for power in [1e1f32, 1e3, 1e6, 1e7] {
                check(number as f32 / power);
            }
        }
    }
}
