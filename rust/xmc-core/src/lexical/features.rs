//! Rows of features as texts, `17:0.25 40:1`, and back.

use std::fmt::Write as _;

/// The features of a text: each name with its value. They end where a token is no feature.
///
/// A feature is `name:value` between blanks; of several colons the last one counts, and the value is
/// a finite number. What follows the last feature, such as the name of a label, is no part of them.
pub fn features(text: &str) -> impl Iterator<Item = (&str, f32)> {
    text.split_ascii_whitespace().map_while(feature)
}

/// The first token of a text that is no feature, if there is one.
#[must_use]
pub fn not_a_feature(text: &str) -> Option<&str> {
    text.split_ascii_whitespace().find(|token| feature(token).is_none())
}

/// A row as a text; [`features`] gives back the same values.
#[must_use]
pub fn feature_text(columns: &[i32], values: &[f32]) -> String {
    let mut text = String::with_capacity(12 * columns.len());
    for (column, value) in columns.iter().zip(values) {
        let blank = if text.is_empty() { "" } else { " " };
        // Writing into a string does not fail. Tiny and huge values would take dozens of digits.
        let _ = match value.abs() {
            1e-6..1e9 => write!(text, "{blank}{column}:{value}"),
            _ => write!(text, "{blank}{column}:{value:e}"),
        };
    }
    text
}

fn feature(token: &str) -> Option<(&str, f32)> {
    let (name, value) = token.rsplit_once(':')?;
    let value: f32 = value.parse().ok()?;
    (!name.is_empty() && value.is_finite()).then_some((name, value))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn they_end_where_none_stands() {
        let all = |text| features(text).collect::<Vec<_>>();
        assert_eq!(all("3:0.5\t a:b:2  7:-1e-3"), [("3", 0.5), ("a:b", 2.0), ("7", -1e-3)]);
        assert_eq!(all("3:0.5 Aspect ratios 4:3"), [("3", 0.5)]);
        assert!(all("Aspect ratio 4:3").is_empty() && all("").is_empty() && all(":1").is_empty());
        for other in ["3", "3:", "3:x", "3:nan", "3:inf", "3:1e39"] {
            assert_eq!((all(other), not_a_feature(other)), (vec![], Some(other)));
        }
        assert_eq!((not_a_feature("1:2 x 3"), not_a_feature(" 1:2 ")), (Some("x"), None));
    }

    #[test]
    fn rows_come_back_bit_for_bit() {
        let values = [0.1, 1.0, -2.5e-7, f32::MIN_POSITIVE, f32::MAX, 1.0 / 3.0, 1e-45, 123_456.7];
        let columns: Vec<i32> = (0..8).map(|i| i * i).collect();
        let text = feature_text(&columns, &values);
        let (names, read): (Vec<_>, Vec<_>) = features(&text).unzip();
        assert_eq!(read.iter().map(|v| v.to_bits()).collect::<Vec<_>>(), values.map(f32::to_bits));
        assert_eq!(names[3], "9");
        assert_eq!(feature_text(&[], &[]), "");
    }
}
