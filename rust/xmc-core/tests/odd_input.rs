//! The odd-input table: what the loader accepts, and the exact message for the rest.
#![allow(clippy::unwrap_used)]

use xmc_core::{Csr, ParseOptions, Result, parse_labels, write_labels};

fn parse(text: &[u8]) -> Result<Csr> {
    parse_labels("Y.txt", text, ParseOptions::default())
}

#[test]
fn accepted() {
    let plain = parse(b"3 5\n0:1.0 3:0.5\n\n4:2\n").unwrap();
    assert_eq!(plain.indptr, [0, 2, 2, 3]);
    assert_eq!(plain.indices, [0, 3, 4]);
    assert_eq!(plain.data, [1.0, 0.5, 2.0]);
    for (what, text) in [
        ("no final newline", &b"3 5\n0:1.0 3:0.5\n\n4:2"[..]),
        ("CRLF", b"3 5\r\n0:1.0 3:0.5\r\n\r\n4:2\r\n"),
        ("CRLF without the last line feed", b"3 5\r\n0:1.0 3:0.5\r\n\r\n4:2\r"),
        ("blanks and tabs", b" 3\t  5 \n0:1.0\t 3:0.5 \t\n \n  4:2 "),
        ("blank lines after the last row", b"3 5\n0:1.0 3:0.5\n\n4:2\n\n \t\r\n\n"),
        ("unsorted", b"3 5\n3:0.5 0:1.0\n\n4:2\n"),
        ("other spellings", b"3 5\n0:+1e0 3:.5\n\n4:2.000000000000\n"),
        ("leading zeros", b"03 005\n000:01 0000000000003:00.50\n\n4:2\n"),
    ] {
        assert_eq!(parse(text).unwrap(), plain, "{what}");
    }
    let values = parse(b"1 9\n0:0 1:-2.5 2:1e-3 3:5. 4:-0.0 5:1e-99\n").unwrap();
    assert_eq!(values.data, [0.0, -2.5, 1e-3, 5.0, 0.0, 0.0]);
    assert_eq!(parse(b"2 4\n\n\n").unwrap().indptr, [0, 0, 0]);
    let empty = parse(b"0 4").unwrap();
    assert_eq!((empty.n_rows(), empty.n_cols), (0, 4));
    assert_eq!(parse(b"0 0\n").unwrap().n_cols, 0);
    assert_eq!(parse(b"0 2147483647\n").unwrap().n_cols, 2_147_483_647);
}

#[test]
fn missing_values() {
    let options = ParseOptions { missing_value: Some(1.0), ..ParseOptions::default() };
    let csr = parse_labels("Y.txt", b"2 5\n3 4\n0:2 1\n", options).unwrap();
    assert_eq!((csr.indices, csr.data), (vec![3, 4, 0, 1], vec![1.0, 1.0, 2.0, 1.0]));
    let message = |text: &[u8]| parse_labels("Y.txt", text, options).unwrap_err().to_string();
    assert_eq!(message(b"1 5\n3:\n"), "Y.txt:2: bad token '3:' (column 1)");
    assert_eq!(message(b"1 5\nx\n"), "Y.txt:2: bad token 'x' (column 1)");
    let options = ParseOptions { missing_value: Some(f32::NAN), ..options };
    let message = parse_labels("Y.txt", b"0 1\n", options).unwrap_err().to_string();
    assert_eq!(message, "missing_value must be finite, not NaN");
}

#[test]
fn rejected() {
    let digits = "1 4\n123456789012345678901:1\n";
    let many = format!("1 4\n{}:1\n", "9".repeat(60));
    let cut = format!("Y.txt:2: label {}... out of range (n_labels = 4)", "9".repeat(40));
    for (text, message) in [
        (&b"2 5\n0:1\n3 4\n"[..], "Y.txt:3: missing ':value' after label 3"),
        (b"2 5\n0:1\n0:1 2:1 0:2\n", "Y.txt:3: duplicate label 0"),
        (b"1 4\n4:1\n", "Y.txt:2: label 4 out of range (n_labels = 4)"),
        (b"1 4\n2147483648:1\n", "Y.txt:2: label 2147483648 out of range (n_labels = 4)"),
        (b"1 4\n4294967296:1\n", "Y.txt:2: label 4294967296 out of range (n_labels = 4)"),
        (digits.as_bytes(), "Y.txt:2: label 123456789012345678901 out of range (n_labels = 4)"),
        (many.as_bytes(), &cut),
        (b"1 4\n0:1 -1:1\n", "Y.txt:2: bad label '-1' (column 5)"),
        (b"1 4\n+1:1\n", "Y.txt:2: bad label '+1' (column 1)"),
        (b"1 4\n4.0:1\n", "Y.txt:2: bad label '4.0' (column 1)"),
        (b"1 4\n0:nan\n", "Y.txt:2: value is not finite (label 0)"),
        (b"1 4\n0:-Inf\n", "Y.txt:2: value is not finite (label 0)"),
        (b"1 4\n0:1e39\n", "Y.txt:2: value is not finite (label 0)"),
        (b"", "Y.txt:1: expected 'rows labels'"),
        (b"\n1 4\n", "Y.txt:1: expected 'rows labels'"),
        (b"0:1 3:1\n1:1\n", "Y.txt:1: expected 'rows labels'"),
        (b"4\n0:1\n", "Y.txt:1: expected 'rows labels'"),
        (b"1 4 8\n0:1\n", "Y.txt:1: expected 'rows labels'"),
        (b"-1 4\n", "Y.txt:1: expected 'rows labels'"),
        (b"+1 4\n0:1\n", "Y.txt:1: expected 'rows labels'"),
        (b"1 2147483648\n\n", "Y.txt:1: header says 2147483648 labels, more than 2147483647"),
        (b"4 5\n0:1\n1:1\n2:1\n", "Y.txt:4: header says 4 rows, found 3"),
        (b"2 5\n0:1\n", "Y.txt:2: header says 2 rows, found 1"),
        (b"4 5", "Y.txt:1: header says 4 rows, found 0"),
        (b"2 5\n0:1\n1:1\n\n2:1\n", "Y.txt:5: more rows than the header's 2"),
        (b"1 5\n# 0:1\n", "Y.txt:2: bad token '#' (column 1)"),
        (b"# comment\n1 5\n0:1\n", "Y.txt:1: bad token '#' (column 1)"),
        (b"\xef\xbb\xbf1 5\n0:1\n", "Y.txt:1: bad token '\u{feff}1' (column 1)"),
        (b"1 5\n0:1 \xff:1\n", "Y.txt:2: bad token '\u{fffd}:1' (column 5)"),
        (b"1 5\n0:1 a:1\n", "Y.txt:2: bad token 'a:1' (column 5)"),
        (b"1 5\n0:1:2\n", "Y.txt:2: bad token '0:1:2' (column 1)"),
        (b"1 5\n:1\n", "Y.txt:2: bad token ':1' (column 1)"),
        (b"1 5\n0:\n", "Y.txt:2: bad token '0:' (column 1)"),
        (b"1 5\n0:0x1\n", "Y.txt:2: bad token '0:0x1' (column 1)"),
        (b"1 5\n0:1\r1:1\n", "Y.txt:2: bad token '0:1\\r1:1' (column 1)"),
        (b"1 5\n0:1\x0c1:1\n", "Y.txt:2: bad token '0:1\\u{c}1:1' (column 1)"),
    ] {
        let found = parse(text).unwrap_err().to_string().replace("\\u{feff}", "\u{feff}");
        assert_eq!(found, message, "{:?}", String::from_utf8_lossy(text));
    }
}

#[test]
fn a_fault_far_into_a_large_file_is_found_by_its_line() {
    let mut text = b"300000 9\n".to_vec();
    for row in 0..300_000 {
        text.extend_from_slice(if row == 250_000 || row == 280_000 {
            b"9:1.0\n"
        } else {
            b"1:1.0 8:1.0\n"
        });
    }
    let message = parse(&text).unwrap_err().to_string();
    assert_eq!(message, "Y.txt:250002: label 9 out of range (n_labels = 9)");
}

#[test]
fn the_parser_stops_when_asked() {
    let options = ParseOptions { keep_going: &|| false, ..ParseOptions::default() };
    let message = parse_labels("Y.txt", b"1 1\n0:1\n", options).unwrap_err().to_string();
    assert_eq!(message, "interrupted");
}

#[test]
fn text_is_written_byte_for_byte() {
    let text = b"3 9\n0:1.0 3:0.1 8:1e-10\n\n4:-2.5 5:1e16\n";
    let mut written = Vec::new();
    write_labels(parse(text).unwrap().view("y").unwrap(), &mut written).unwrap();
    assert_eq!(written, text);
}
