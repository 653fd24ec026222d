//! The odd-input table: what the loader accepts, and the exact message for the rest.
#![allow(clippy::unwrap_used)]

use xmc_core::{
    Bow, Csr, ParseOptions, Repairs, Result, parse_bow, parse_bow_repaired, parse_labels,
    parse_labels_repaired, write_bow, write_labels,
};

fn bow(text: &[u8]) -> Result<Bow> {
    parse_bow("X.txt", text, ParseOptions::default())
}

/// One row of the table: the same text in both layouts, and what becomes of it.
fn row(lf: &str, lf_message: Option<&str>, in_bow: &str, bow_message: Option<&str>) {
    let found = parse(lf.as_bytes()).err().map(|error| error.to_string());
    assert_eq!(found.as_deref(), lf_message, "{lf:?}");
    let found = bow(in_bow.as_bytes()).err().map(|error| error.to_string());
    assert_eq!(found.as_deref(), bow_message, "{in_bow:?}");
}

macro_rules! table {
    ($($name:ident: $lf:expr, $lf_message:expr, $bow:expr, $bow_message:expr;)*) => {
        $(#[test] fn $name() { row($lf, $lf_message, $bow, $bow_message); })*
    };
}

// One test a row of the odd-input table, both layouts.
table! {
    plain: "2 5\n0:1 3:1\n4:2\n", None, "2 5 3\n0,2 0:1 3:1\n1 4:2\n", None;
    no_final_newline: "1 5\n0:1", None, "1 5 3\n0 0:1", None;
    carriage_returns: "1 5\r\n0:1\r\n", None, "2 5 3\r\n0,2 0:1\r\n1\r\n", None;
    blanks_and_tabs: "1\t 5\n0:1 \t3:1\n", None, " 1 5\t3\n0,2\t 0:1  3:1\n", None;
    trailing_blanks: "1 5 \n0:1 \t\n", None, "1 5 3 \n0 0:1 \t\n", None;
    empty_row: "2 5\n\n0:1\n", None, "2 5 3\n\n0 0:1\n", None;
    blank_lines_at_the_end: "1 5\n0:1\n\n \n", None, "1 5 3\n0 0:1\n\n\t\n", None;
    all_rows_empty: "2 5\n\n\n", None, "2 5 3\n\n \n", None;
    no_rows: "0 5\n", None, "0 5 3", None;
    spellings: "1 5\n0:1 1:1e2 2:.5 3:-2 4:+1\n", None, "1 5 3\n0 0:1 1:1e2 2:.5 3:-2 4:+1\n", None;
    stored_zero: "1 5\n0:0\n", None, "1 5 3\n0 0:0\n", None;
    unsorted: "1 5\n3:1 0:1\n", None, "1 5 3\n2,0 3:1 0:1\n", None;
    missing_value: "1 5\n3 4\n", Some("Y.txt:2: missing ':value' after label 3"),
        "1 5 3\n0 3 4\n", Some("X.txt:2: missing ':value' after feature 3");
    duplicate: "1 5\n0:1 0:1\n", Some("Y.txt:2: duplicate label 0"),
        "1 5 3\n1 0:1 0:1\n", Some("X.txt:2: duplicate feature 0");
    duplicate_in_a_list: "1 5\n0:1 2:1 0:1\n", Some("Y.txt:2: duplicate label 0"),
        "1 5 3\n1,0,1 0:1\n", Some("X.txt:2: duplicate label 1");
    out_of_range: "1 5\n5:1\n", Some("Y.txt:2: label 5 out of range (n_labels = 5)"),
        "1 5 3\n3 0:1\n", Some("X.txt:2: label 3 out of range (n_labels = 3)");
    feature_out_of_range: "1 5\n2147483648:1\n",
        Some("Y.txt:2: label 2147483648 out of range (n_labels = 5)"),
        "1 5 3\n0 5:1\n", Some("X.txt:2: feature 5 out of range (n_features = 5)");
    twenty_one_digits: "1 5\n111111111111111111111:1\n",
        Some("Y.txt:2: label 111111111111111111111 out of range (n_labels = 5)"),
        "1 5 3\n0,111111111111111111111 0:1\n",
        Some("X.txt:2: label 111111111111111111111 out of range (n_labels = 3)");
    negative: "1 5\n-1:1\n", Some("Y.txt:2: bad label '-1' (column 1)"),
        "1 5 3\n0,-1 0:1\n", Some("X.txt:2: bad label '-1' (column 3)");
    negative_feature: "1 5\n0:1 -1:1\n", Some("Y.txt:2: bad label '-1' (column 5)"),
        "1 5 3\n -1:1\n", Some("X.txt:2: bad feature '-1' (column 2)");
    nan: "1 5\n0:nan\n", Some("Y.txt:2: value is not finite (label 0)"),
        "1 5 3\n0 2:nan\n", Some("X.txt:2: value is not finite (feature 2)");
    infinite: "1 5\n0:1e39\n", Some("Y.txt:2: value is not finite (label 0)"),
        "1 5 3\n0 2:-inf\n", Some("X.txt:2: value is not finite (feature 2)");
    too_small: "1 5\n0:1 1:1e-60\n",
        Some("Y.txt:2: value 1e-60 is too small for float32 (label 1)"),
        "1 5 3\n0 2:-1e-60\n",
        Some("X.txt:2: value -1e-60 is too small for float32 (feature 2)");
    no_header: "0:1\n", Some("Y.txt:1: expected 'rows labels'"),
        "0,2 0:1\n", Some("X.txt:1: expected 'points features labels'");
    wrong_header: "1 5 3\n0:1\n", Some("Y.txt:1: expected 'rows labels'"),
        "1 5\n0 0:1\n", Some("X.txt:1: expected 'points features labels'");
    large_header: "1 2147483648\n\n",
        Some("Y.txt:1: header says 2147483648 labels, more than 2147483647"),
        "1 2147483648 3\n\n",
        Some("X.txt:1: header says 2147483648 features, more than 2147483647");
    large_header_of_labels: "99999999999999999999 5\n", Some("Y.txt:1: expected 'rows labels'"),
        "1 5 2147483648\n\n",
        Some("X.txt:1: header says 2147483648 labels, more than 2147483647");
    too_few_rows: "4 5\n0:1\n1:1\n2:1\n", Some("Y.txt:4: header says 4 rows, found 3"),
        "4 5 3\n0 0:1\n1 1:1\n2\n", Some("X.txt:4: header says 4 rows, found 3");
    too_many_rows: "2 5\n0:1\n1:1\n\n2:1\n", Some("Y.txt:5: more rows than the header's 2"),
        "2 5 3\n0 0:1\n1 1:1\n\n0\n", Some("X.txt:5: more rows than the header's 2");
    comment: "1 5\n# 0:1\n", Some("Y.txt:2: bad token '#' (column 1)"),
        "1 5 3\n# 0:1\n", Some("X.txt:2: bad token '#' (column 1)");
    byte_order_mark: "\u{feff}1 5\n0:1\n", None,
        "\u{feff}1 5 3\n0 0:1\n", None;
    byte_order_mark_later: "1 5\n\u{feff}0:1\n",
        Some("Y.txt:2: bad token '\\u{feff}0:1' (column 1)"),
        "1 5 3\n0 \u{feff}0:1\n", Some("X.txt:2: bad token '\\u{feff}0:1' (column 3)");
    other_bytes: "1 5\n0:1 a:1\n", Some("Y.txt:2: bad token 'a:1' (column 5)"),
        "1 5 3\n0 0:1 é:1\n", Some("X.txt:2: bad token 'é:1' (column 7)");
    decimal_label: "1 5\n4.0:1\n", Some("Y.txt:2: bad label '4.0' (column 1)"),
        "1 5 6\n4.0,1.0 0:1\n", Some("X.txt:2: bad label '4.0' (column 1)");
    blank_in_a_list: "1 5\n0: 1\n", Some("Y.txt:2: bad token '0:' (column 1)"),
        "1 5 6\n0, 4 1:0.5\n", Some("X.txt:2: bad label '0,' (column 3)");
    comma_behind_a_blank: "1 5\n0:1,1:1\n", Some("Y.txt:2: bad token '0:1,1:1' (column 1)"),
        "1 5 6\n0 ,4 1:0.5\n", Some("X.txt:2: bad feature ',4' (column 3)");
    list_with_colon: "1 5\n0:1:2\n", Some("Y.txt:2: bad token '0:1:2' (column 1)"),
        "1 5 6\n0,4:1\n", Some("X.txt:2: bad feature '0,4' (column 1)");
    letters_in_a_list: "1 5\nx:1\n", Some("Y.txt:2: bad token 'x:1' (column 1)"),
        "1 5 6\n0,x 1:1\n", Some("X.txt:2: bad token 'x' (column 3)");
}

#[test]
fn bags_of_words() {
    let text = b"5 9 7\n6,2,0 8:0.5 1:2\n 3:1.5\n3:0.25 4:1\n5\n\n";
    let Bow { features, labels } = bow(text).unwrap();
    assert_eq!((features.n_rows(), features.n_cols, labels.n_cols), (5, 9, 7));
    assert_eq!(features.indptr, [0, 2, 3, 5, 5, 5]);
    assert_eq!(features.indices, [1, 8, 3, 3, 4]);
    assert_eq!(features.data, [2.0, 0.5, 1.5, 0.25, 1.0]);
    assert_eq!(labels.indptr, [0, 3, 3, 3, 4, 4]);
    assert_eq!(labels.indices, [0, 2, 6, 5]);
    assert_eq!(labels.data, [1.0; 4]);
    let mut written = Vec::new();
    let view = labels.view("labels").unwrap().pattern();
    write_bow(features.view("features").unwrap(), view, &mut written).unwrap();
    let canonical = b"5 9 7\n0,2,6 1:2.0 8:0.5\n 3:1.5\n 3:0.25 4:1.0\n5\n\n";
    assert_eq!(String::from_utf8(written).unwrap().as_bytes(), canonical);
    let options = ParseOptions { missing_value: Some(1.0), ..ParseOptions::default() };
    let Bow { features, labels } = parse_bow("X.txt", b"2 9 7\n1 3 4:2\n 8\n", options).unwrap();
    assert_eq!((features.indptr, features.data), (vec![0, 2, 3], vec![1.0, 2.0, 1.0]));
    assert_eq!(labels.indices, [1]);
}

#[test]
fn repairs_are_made_and_counted() {
    let text = b"3 5\n3:1 0:2 3:4 -1:1 0:3e38 0:3e38\n\n9:1 1:nan 2:1 99999999999:1\n";
    let (csr, repairs) = parse_labels_repaired("Y.txt", text, ParseOptions::default()).unwrap();
    assert_eq!((csr.indptr, csr.indices), (vec![0, 1, 1, 2], vec![3, 2]));
    assert_eq!(csr.data, [5.0, 1.0]);
    let Repairs { rows_sorted, duplicates, out_of_range, not_finite, first, .. } = repairs;
    assert_eq!((rows_sorted, duplicates, out_of_range, not_finite), (1, 3, 3, 2));
    let first: Vec<String> = first.iter().map(|(at, fault)| format!("{at}: {fault}")).collect();
    assert_eq!(first[0], "Y.txt:2: bad label '-1' (column 13)");
    assert_eq!(first[4], "Y.txt:4: label 9 out of range (n_labels = 5)");
    assert_eq!(first.len(), 7);

    let text = b"2 5 4\n1,0,1,7 3:1 3:1 8:1\n2 0:inf 1:1 2:1e-60\n";
    let (bow, repairs) = parse_bow_repaired("X.txt", text, ParseOptions::default()).unwrap();
    assert_eq!((bow.labels.indices, bow.labels.data), (vec![0, 1, 2], vec![1.0; 3]));
    assert_eq!(bow.labels.indptr, [0, 2, 3]);
    assert_eq!((bow.features.indices, bow.features.data), (vec![3, 1], vec![2.0, 1.0]));
    assert_eq!((repairs.duplicates, repairs.out_of_range, repairs.not_finite), (2, 2, 2));
    let last = repairs.first.last().unwrap().1.to_string();
    assert_eq!(last, "value 1e-60 is too small for float32 (feature 2)");

    // Whatever else is wrong stays an error.
    for text in ["1 5\nx:1\n", "1 5\n9:x\n", "1 5\n0\n", "2 5\n\n", "1 5\n4.0:1\n"] {
        let options = ParseOptions::default();
        assert!(parse_labels_repaired("Y.txt", text.as_bytes(), options).is_err(), "{text:?}");
    }
}

#[test]
fn repairs_close_the_gaps_between_blocks() {
    let mut text = b"400000 9\n".to_vec();
    for row in 0..400_000 {
        text.extend_from_slice(if row % 3 == 0 { b"9:1.0 2:1.0\n" } else { b"1:1.0 8:1.0\n" });
    }
    let (csr, repairs) = parse_labels_repaired("Y.txt", &text, ParseOptions::default()).unwrap();
    assert_eq!((repairs.out_of_range, repairs.first.len()), (133_334, 20));
    assert_eq!(csr.indices.len(), 800_000 - 133_334);
    for row in 0..400_000 {
        let (start, end) = (csr.indptr[row] as usize, csr.indptr[row + 1] as usize);
        assert_eq!(&csr.indices[start..end], if row % 3 == 0 { &[2][..] } else { &[1, 8] });
    }
}

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
    let values = parse(b"1 9\n0:0 1:-2.5 2:1e-3 3:5. 4:-0.0 5:0e-99\n").unwrap();
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
        (b"\xef\xbb\xbfx\n0:1\n", "Y.txt:1: bad token 'x' (column 1)"),
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
