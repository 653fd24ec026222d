//! Tokens of label text: parsing numbers, and saying what is wrong with those that do not parse.

use crate::error::Fault;

/// How much of a bad token a message repeats, in bytes.
const QUOTED: usize = 40;

/// Powers of ten that are exact in `f32`.
const POWERS: [f32; 8] = [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7];

/// The same as whole numbers.
const WHOLE_POWERS: [u32; 8] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000];

/// Blanks between tokens. A carriage return counts only at the end of a line.
#[inline]
pub(crate) const fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// A line without the carriage return before its line feed.
#[inline]
pub(crate) fn trim_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// A text without the UTF-8 byte order mark that some editors put in front of it.
pub(crate) fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

/// The tokens of a line, each with its byte offset in it.
pub(crate) fn tokens(line: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        at += line[at..].iter().position(|&byte| !is_blank(byte))?;
        let len = line[at..].iter().position(|&byte| is_blank(byte)).unwrap_or(line.len() - at);
        let token = (at, &line[at..at + len]);
        at += len;
        Some(token)
    })
}

/// A number written in plain digits.
pub(crate) enum Digits {
    /// Its value.
    Number(u64),
    /// Digits, but more than fit.
    Huge,
    /// Something else, or nothing.
    Not,
}

#[inline]
pub(crate) fn digits(text: &[u8]) -> Digits {
    if text.is_empty() {
        return Digits::Not;
    }
    let mut number: Option<u64> = Some(0);
    for &byte in text {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return Digits::Not;
        }
        number = number.and_then(|n| n.checked_mul(10)?.checked_add(u64::from(digit)));
    }
    number.map_or(Digits::Huge, Digits::Number)
}

/// The label of a `label:value` token.
#[inline]
pub(crate) fn label(token: &[u8], text: &[u8], at: usize, n_labels: usize) -> Result<i32, Fault> {
    match digits(text) {
        Digits::Number(number) if number < n_labels as u64 => Ok(number as i32),
        Digits::Number(_) | Digits::Huge => {
            Err(Fault::LabelOutOfRange { label: quote(text), n_labels })
        }
        Digits::Not => Err(bad_label(token, text, at)),
    }
}

/// A number that cannot be a label (`-1`, `4.0`) is a bad label, anything else a bad token.
#[cold]
fn bad_label(token: &[u8], text: &[u8], at: usize) -> Fault {
    let column = at + 1;
    let numeric = |byte: &u8| byte.is_ascii_digit() || b"+-.,eE".contains(byte);
    let numeric = text.iter().all(numeric) && text.iter().any(u8::is_ascii_digit);
    if numeric {
        Fault::BadLabel { label: quote(text), column }
    } else {
        Fault::BadToken { token: quote(token), column }
    }
}

/// A token that does not belong here.
#[cold]
pub(crate) fn bad_token(token: &[u8], at: usize) -> Fault {
    Fault::BadToken { token: quote(token), column: at + 1 }
}

/// Why a number cannot be a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unfit {
    NotFinite,
    /// Not 0, but `f32` rounds it to 0, which would silently drop a positive.
    TooSmall,
}

/// Parses a value: `None` if the text is not a number, `Some(Err)` if `f32` cannot hold it.
#[inline]
pub(crate) fn value(text: &[u8]) -> Option<Result<f32, Unfit>> {
    if let Some((value, len)) = leading_decimal(text) {
        if len == text.len() {
            return Some(Ok(value));
        }
    }
    let value: f32 = std::str::from_utf8(text).ok()?.parse().ok()?;
    let mantissa = text.split(|byte| matches!(byte, b'e' | b'E')).next().unwrap_or_default();
    Some(if !value.is_finite() {
        Err(Unfit::NotFinite)
    } else if value == 0.0 && mantissa.iter().any(|byte| matches!(byte, b'1'..=b'9')) {
        Err(Unfit::TooSmall)
    } else {
        Ok(value)
    })
}

/// As [`plain_entry`], for the commonest form: at most seven digits, a colon, one digit, a point and
/// up to seven digits more (six, if the first is not 0). Digits are found and converted eight bytes
/// at a time, without a branch on how many there are.
#[inline]
pub(crate) fn short_entry(text: &[u8]) -> Option<(u32, f32, usize)> {
    let text: &[u8; 24] = text.first_chunk()?;
    let (label, n_digits) = eight_bytes(text, 0);
    if n_digits.wrapping_sub(1) >= 7 || text[n_digits] != b':' {
        return None;
    }
    let at = n_digits + 1;
    let whole = text[at].wrapping_sub(b'0');
    let (fraction, n_fraction) = eight_bytes(text, at + 2);
    // With 0 before the point, a seventh digit behind it leaves the number below 10^7.
    let most = 6 + usize::from(whole == 0);
    if whole > 9 || text[at + 1] != b'.' || n_fraction.wrapping_sub(1) >= most {
        return None;
    }
    let len = at + 2 + n_fraction;
    if !matches!(text[len], b' ' | b'\n' | b'\t') {
        return None;
    }
    let number = u32::from(whole) * WHOLE_POWERS[n_fraction] + fraction;
    Some((label, number as f32 / POWERS[n_fraction], len))
}

/// The number that the digits at byte `at` make, and how many of the next eight bytes they are; the
/// number is meaningless if that count is 0 or 8.
#[inline]
fn eight_bytes(text: &[u8; 24], at: usize) -> (u32, usize) {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&text[at..at + 8]);
    // Digits become 0..=9; the first byte is the lowest.
    let digits = u64::from_le_bytes(bytes) ^ 0x3030_3030_3030_3030;
    // The high bit of each byte above 9. A carry only reaches bytes after the first such byte.
    let others = (digits.wrapping_add(0x7676_7676_7676_7676) | digits) & 0x8080_8080_8080_8080;
    let n_digits = others.trailing_zeros() as usize / 8;
    // Zeros in front make it eight digits; neighbours are then joined to pairs, to fours, to one.
    let digits = digits << ((64 - 8 * n_digits) & 63);
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
    let low = (pairs & 0x0000_00ff_0000_00ff).wrapping_mul(0x000f_4240_0000_0064);
    let high = ((pairs >> 16) & 0x0000_00ff_0000_00ff).wrapping_mul(0x0000_2710_0000_0001);
    ((low.wrapping_add(high) >> 32) as u32, n_digits)
}

/// The entry at the start of `text` if it is a plain one and a separator follows: label, value and
/// length. Nearly every entry is (`131072:1.0`), so this is where a large file spends its time;
/// all others, faulty or not, are left to [`label`] and [`value`].
#[inline]
pub(crate) fn plain_entry(text: &[u8]) -> Option<(u32, f32, usize)> {
    let (label, n_digits) = leading_digits(text, 0);
    if n_digits == 0 || text.get(n_digits) != Some(&b':') {
        return None;
    }
    let (value, len) = leading_decimal(&text[n_digits + 1..])?;
    let len = n_digits + 1 + len;
    matches!(text.get(len), Some(b' ' | b'\n' | b'\t')).then_some((label, value, len))
}

/// The number that follows `number` if the digits at the start of `text`, nine at most, are
/// appended, and how many there are.
#[inline]
pub(crate) fn leading_digits(text: &[u8], mut number: u32) -> (u32, usize) {
    let mut n_digits = 0;
    for &byte in text.iter().take(9) {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        number = number.wrapping_mul(10).wrapping_add(u32::from(digit));
        n_digits += 1;
    }
    (number, n_digits)
}

/// `digits[.digits]` at the start of `text` and its length, if it has at most seven digits. Then
/// both the digits and the power of ten are exact in `f32`, so that one division rounds once, as the
/// full parser would.
#[inline]
fn leading_decimal(text: &[u8]) -> Option<(f32, usize)> {
    let (mut number, n_whole) = leading_digits(text, 0);
    let (mut len, mut n_fraction) = (n_whole, 0);
    if text.get(n_whole) == Some(&b'.') {
        (number, n_fraction) = leading_digits(&text[n_whole + 1..], number);
        len += 1 + n_fraction;
    }
    if !(1..=7).contains(&(n_whole + n_fraction)) {
        return None;
    }
    Some((number as f32 / POWERS[n_fraction], len))
}

/// The text for a message: escaped, and cut if long.
pub(crate) fn quote(text: &[u8]) -> String {
    let cut = &text[..text.len().min(QUOTED)];
    let mut quoted: String =
        String::from_utf8_lossy(cut).chars().flat_map(char::escape_debug).collect();
    if cut.len() < text.len() {
        quoted.push_str("...");
    }
    quoted
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn short_decimals_equal_the_full_parser() {
        for text in ["0", "1", "1.0", "0.1", ".5", "5.", "0.333333", "16777216", "9999999", "007"] {
            let full: f32 = text.parse().unwrap();
            assert_eq!(
                value(text.as_bytes()).unwrap().unwrap().to_bits(),
                full.to_bits(),
                "{text}"
            );
        }
        for number in (0..10_000_000u32).step_by(997) {
            for split in 0..7 {
                let digits = format!("{number:07}");
                let text = format!("{}.{}", &digits[..split], &digits[split..]);
                let full: f32 = text.parse().unwrap();
                assert_eq!(leading_decimal(text.as_bytes()).unwrap().0.to_bits(), full.to_bits());
            }
        }
    }

    #[test]
    fn values() {
        assert_eq!(value(b"-1e-3"), Some(Ok(-1e-3)));
        assert_eq!(value(b"+2"), Some(Ok(2.0)));
        for text in ["nan", "-inf", "1e99", "Infinity"] {
            assert_eq!(value(text.as_bytes()), Some(Err(Unfit::NotFinite)), "{text}");
        }
        for text in ["1e-60", "-0.0003e-90", "0.00000000000000000000000000000000000000000000000001"]
        {
            assert_eq!(value(text.as_bytes()), Some(Err(Unfit::TooSmall)), "{text}");
        }
        for text in ["0e-60", "-0.0", "0.00000000000000000000000000000000000000000000000000"] {
            assert_eq!(value(text.as_bytes()), Some(Ok(0.0)), "{text}");
        }
        assert_eq!(value(b"1e-45"), Some(Ok(f32::from_bits(1))));
        for text in ["", ".", "1_0", "0x1", "1:2", "1e", "--1"] {
            assert_eq!(value(text.as_bytes()), None, "{text}");
        }
    }
}
