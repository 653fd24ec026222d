//! Columns of JSON lines: what is read, and what is left to a reader with more patience.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use xmc_core::{Error, JsonColumn, JsonColumns, ParseOptions, json_columns};

fn read(content: &[u8], names: &[&str]) -> Option<JsonColumns> {
    json_columns(content, names, ParseOptions::default()).unwrap()
}

/// The cells of a column as JSON, checked to be written without repetition.
fn cells(column: &JsonColumn) -> Vec<Value> {
    match column {
        JsonColumn::Strings(strings) => strings.iter().map(Value::from).collect(),
        JsonColumn::Lists(lists) => {
            let strings: Vec<&str> = lists.strings.iter().collect();
            assert_eq!(strings.iter().collect::<HashSet<_>>().len(), strings.len());
            let mut known = 0;
            for &code in &lists.codes {
                assert!(code <= known, "strings stand in the order in which lists have them");
                known = known.max(code + 1);
            }
            let spans = lists.offsets.windows(2);
            spans
                .map(|span| {
                    let codes = &lists.codes[span[0] as usize..span[1] as usize];
                    codes.iter().map(|&code| strings[code as usize]).collect()
                })
                .collect()
        }
    }
}

/// The slow twin: each line for itself, all of it, and then a look at the cells.
fn twin(content: &str, names: &[&str]) -> Option<(Vec<i64>, Vec<Vec<Value>>)> {
    let (mut lines, mut columns) = (Vec::new(), vec![Vec::new(); names.len()]);
    for (at, line) in content.split('\n').enumerate() {
        if line.trim_matches([' ', '\t', '\r']).is_empty() {
            continue;
        }
        let Value::Object(object) = serde_json::from_str(line).ok()? else { return None };
        for (name, column) in names.iter().zip(&mut columns) {
            column.push(object.get(*name)?.clone());
        }
        lines.push(at as i64 + 1);
    }
    let strings = |values: &[Value]| values.iter().all(Value::is_string);
    let regular = columns.iter().all(|column: &Vec<Value>| {
        let lists = |v: &Value| v.as_array().is_some_and(|list| strings(list));
        !column.is_empty() && (strings(column) || column.iter().all(lists))
    });
    regular.then_some((lines, columns))
}

#[test]
fn columns_and_lines() {
    let content = concat!(
        "{\"text\": \"a\\u00e9\\n\", \"id\": [1, {\"text\": 3}], \"labels\": [\"x\", \"y\"]}\r\n",
        " \t\r\n\n",
        "{\"labels\":[],\"te\\u0078t\":\"\",\"more\":null}\n",
        "{\"text\": \"\u{1f600} \\ud83d\\ude00\", \"labels\": [\"y\", \"y\", \"z\"]}",
    );
    let found = read(content.as_bytes(), &["labels", "text"]).unwrap();
    assert_eq!(found.lines, [1, 4, 5]);
    assert_eq!(
        found.columns.iter().map(cells).collect::<Vec<_>>(),
        [
            vec![json!(["x", "y"]), json!([]), json!(["y", "y", "z"])],
            vec![json!("aé\n"), json!(""), json!("😀 😀")],
        ]
    );
}

#[test]
fn what_is_not_regular() {
    let good = "{\"a\": \"x\"}\n";
    for bad in [
        "{\"b\": \"x\"}",
        "{\"a\": \"x\", \"a\": \"y\"}",
        "{\"a\": null}",
        "{\"a\": 1}",
        "{\"a\": [\"x\"]}",
        "{\"a\": \"\\ud800\"}",
        "{\"a\": \"x\"} {\"a\": \"y\"}",
        "{\"a\": \"x\", \"b\": NaN}",
        "{\"a\": \"x\", \"b\": [}",
        "{\"a\": \"x\"",
        "{\"a\": \"\t\"}",
        "[\"a\"]",
        "\u{feff}{\"a\": \"x\"}",
        "\u{a0}",
    ] {
        assert_eq!(read(format!("{good}{bad}\n").as_bytes(), &["a"]), None, "{bad}");
    }
    assert_eq!(read(b"{\"a\": \"\xff\"}", &["a"]), None);
    assert_eq!(read(b"{\"a\": [\"x\", 1]}", &["a"]), None);
    assert_eq!(read(b"{\"a\": [[\"x\"]]}", &["a"]), None);
    assert_eq!(read(b"\n", &["a"]), None);
}

#[test]
fn deep_nesting_is_no_recursion() {
    for close in ["]", ""] {
        let content =
            format!("{{\"a\": \"x\", \"b\": {}{}}}", "[".repeat(1 << 20), close.repeat(1 << 20));
        assert_eq!(read(content.as_bytes(), &["a"]).is_some(), close == "]");
    }
}

#[test]
fn a_reading_can_be_stopped() {
    let options = ParseOptions { missing_value: None, keep_going: &|| false };
    let error = json_columns(b"{\"a\": \"x\"}", &["a"], options).unwrap_err();
    assert!(matches!(error, Error::Interrupted));
}

proptest! {
    #[test]
    fn as_each_line_by_itself(
        parts in vec(
            prop_oneof![
                8 => Just("{\"a\":\"x\",\"b\":[\"y\"]}\n"),
                3 => Just("{\"b\":[],\"a\":\"\\u00e9\\\"\"}\n"),
                2 => Just("{\"a\": \"é\", \"c\": [1e9, {\"a\": -0.5}], \"b\": [\"x\", \"y\"]}\n"),
                1 => Just("{\"a\":"),
                1 => Just("[\"z\"]"),
                1 => Just("\r\n"),
                1 => Just("\"x\""),
                1 => Just("}"),
            ],
            0..8,
        ),
    ) {
        let content = parts.concat();
        let found = read(content.as_bytes(), &["a", "b"]);
        let found = found.map(|t| (t.lines, t.columns.iter().map(cells).collect::<Vec<_>>()));
        prop_assert_eq!(found, twin(&content, &["a", "b"]));
    }
}
