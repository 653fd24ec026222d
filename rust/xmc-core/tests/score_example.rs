//! `examples/score.rs`, run in this process: the reference values in its table, and its errors.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

#[path = "../examples/score.rs"]
#[allow(dead_code, reason = "main is for the program")]
mod score;

/// Exit code, table and messages.
fn run(arguments: &[&str]) -> (u8, String, String) {
    let (mut out, mut messages) = (Vec::new(), Vec::new());
    let arguments = arguments.iter().map(ToString::to_string).collect();
    let code = score::run(arguments, &mut out, &mut messages).unwrap();
    (code, String::from_utf8(out).unwrap(), String::from_utf8(messages).unwrap())
}

fn write(folder: &TempDir, name: &str, text: &str) -> String {
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn label_text(rows: &[Vec<(i64, f64)>]) -> String {
    let mut text = format!("{} 8\n", rows.len());
    for row in rows {
        let tokens: Vec<String> = row.iter().map(|(l, v)| format!("{l}:{v}")).collect();
        text += &(tokens.join(" ") + "\n");
    }
    text
}

#[test]
fn the_table_holds_the_reference_values() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/golden.json");
    let golden: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let case = |name: &str| {
        let cases = golden["cases"].as_array().unwrap();
        cases.iter().find(|case| case["name"] == name).unwrap().clone()
    };
    let array = |value: &Value| value.as_array().unwrap().clone();
    let folder = tempfile::tempdir().unwrap();

    let counts: Vec<i64> =
        array(&golden["train_counts"]).iter().map(|n| n.as_i64().unwrap()).collect();
    let seen = |row: i64| {
        let labels = (0..8).filter(|&label| row < counts[label as usize]);
        labels.map(|label| (label, 1.0)).collect()
    };
    let train: Vec<_> = (0..12).map(seen).collect();
    let train = write(&folder, "train.txt", &label_text(&train));

    for (name, filter) in [("A", ""), ("C", ""), ("D", ""), ("X", "0 5\n3 0\n")] {
        let case = case(name);
        let pair = |pair: &Value| (pair[0].as_i64().unwrap(), pair[1].as_f64().unwrap());
        let truth: Vec<_> =
            array(&case["truth"]).iter().map(|row| array(row).iter().map(pair).collect()).collect();
        let ranked = |row: &Value| {
            let ids = array(row);
            let scored =
                ids.iter().zip(0..).map(|(id, rank)| (id.as_i64().unwrap(), -f64::from(rank)));
            scored.collect()
        };
        let pred: Vec<_> = array(&case["rankings"]).iter().map(ranked).collect();
        let truth = write(&folder, "truth.txt", &label_text(&truth));
        let pred = write(&folder, "pred.txt", &label_text(&pred));
        let filter = write(&folder, "filter.txt", filter);

        for threads in ["1", "2"] {
            let (code, table, messages) =
                run(&[&pred, &truth, "--train", &train, "--filter", &filter, "--threads", threads]);
            assert_eq!((code, messages.as_str()), (0, ""), "case {name}");
            for (line, kind) in table.lines().skip(1).zip(["P", "nDCG", "PSP"]) {
                let mut words = line.split_whitespace();
                assert_eq!(words.next(), Some(kind));
                for (k, percent) in [1, 3, 5].into_iter().zip(words) {
                    let Some(expected) = case["expected"][format!("{kind}@{k}")].as_f64() else {
                        continue;
                    };
                    let difference = percent.parse::<f64>().unwrap() - 100.0 * expected;
                    assert!(difference.abs() < 5.1e-5, "case {name}: {kind}@{k} is {percent}");
                }
            }
            assert!(table.ends_with(if name == "X" {
                "4 points, 0 without positives; 2 predictions excluded, 1 positives with them\n"
            } else {
                "4 points, 0 without positives; 0 predictions excluded, 0 positives with them\n"
            }));
        }
    }
}

#[test]
fn errors_are_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let good = write(&folder, "good.txt", "2 4\n0:1\n3:1\n");
    let bad = write(&folder, "bad.txt", "2 4\n0:1\n4:1\n");
    let three = write(&folder, "three.txt", "3 4\n0:1\n1:1\n\n");
    let empty = write(&folder, "empty.txt", "0 4\n");
    let few = write(&folder, "few.txt", "1 4\n0:1\n");
    for (arguments, message) in [
        (&[&*good, &*bad][..], format!("{bad}:3: label 4 out of range (n_labels = 4)")),
        (&[&three, &good], "predictions: 3 rows, expected 2".to_owned()),
        (&[&good, &good, "--filter", &good], format!("{good}:1: row 2 out of range (n_rows = 2)")),
        (&[&good, &good, "--train", &few], "n_points must be at least 3, not 1".to_owned()),
        (&[&empty, &empty], "no rows left to average".to_owned()),
    ] {
        let (code, _, messages) = run(arguments);
        assert_eq!((code, messages), (1, format!("score: {message}\n")));
    }
    let none = folder.path().join("none.txt");
    let (code, _, messages) = run(&[none.to_str().unwrap(), &good]);
    assert_eq!((code, messages.lines().count()), (1, 1));
    assert!(messages.contains("none.txt: "), "{messages}");
    assert!(!Path::new(&none).exists());

    for arguments in
        [&[][..], &[&*good], &[&*good; 3], &[&good, &good, "--train"], &[&good, &good, "-x"]]
    {
        let (code, table, messages) = run(arguments);
        assert_eq!((code, table.as_str()), (2, ""));
        assert!(messages.starts_with("usage: score PRED TRUTH"));
    }
}
