//! Programs in C and C++ are compiled against the header and the library, and run.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Compiles a program against the library of this build; `None`, with a line, if there is no compiler.
fn compile(compiler: &str, source: &str, flags: &[&str], folder: &Path) -> Option<PathBuf> {
    if Command::new(compiler).arg("--version").output().is_err() {
        println!("skipped: no compiler '{compiler}'");
        return None;
    }
    let libraries = libraries();
    let program = folder.join(Path::new(source).file_stem().unwrap());
    let output = Command::new(compiler)
        .args(["-Wall", "-Wextra", "-Werror", "-pedantic", "-g"])
        .args(flags)
        .arg("-I")
        .arg(Path::new(ROOT).join("include"))
        .arg(Path::new(ROOT).join(source))
        .arg("-o")
        .arg(&program)
        .arg("-L")
        .arg(&libraries)
        .arg("-lxmc")
        .arg(format!("-Wl,-rpath,{}", libraries.display()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(program)
}

/// The folder of this build's library: cargo puts it beside the test programs.
fn libraries() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().to_path_buf()
}

/// Exit status, stdout and stderr.
fn run(program: &Path, arguments: &[&Path]) -> (Option<i32>, String, String) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn golden() -> Value {
    let path = Path::new(ROOT).join("../../tests/data/golden.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Label text of rows of `[label, value]` pairs.
fn label_text(rows: impl Iterator<Item = Vec<(i64, f64)>>) -> String {
    let rows: Vec<String> = rows
        .map(|row| row.iter().map(|(l, v)| format!("{l}:{v}")).collect::<Vec<_>>().join(" "))
        .collect();
    format!("{} 8\n{}\n", rows.len(), rows.join("\n"))
}

#[test]
fn the_c_example_prints_the_reference_values() {
    let folder = tempfile::tempdir().unwrap();
    let Some(program) = compile("cc", "examples/evaluate.c", &["-std=c11"], folder.path()) else {
        return;
    };
    let golden = golden();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let train: Vec<usize> = golden["train_counts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n.as_u64().unwrap() as usize)
        .collect();
    let train = label_text((0..12).map(|row| {
        (0..8).filter(|&label| row < train[label as usize]).map(|label| (label, 1.0)).collect()
    }));
    let train = file("train.txt", &train);

    let mut checked = 0;
    for case in golden["cases"].as_array().unwrap() {
        let array = |value: &Value| value.as_array().unwrap().clone();
        if case["empty_rows"] == "skip" {
            continue;
        }
        let pair = |pair: &Value| (pair[0].as_i64().unwrap(), pair[1].as_f64().unwrap());
        let matrix = |rows: &Value| {
            label_text(array(rows).iter().map(|row| array(row).iter().map(pair).collect()))
        };
        let pred = if case["rankings"].is_array() {
            label_text(array(&case["rankings"]).iter().map(|row| {
                let ids = array(row);
                ids.iter()
                    .enumerate()
                    .map(|(rank, id)| (id.as_i64().unwrap(), -(rank as f64)))
                    .collect()
            }))
        } else {
            matrix(&case["scores"])
        };
        let (pred, truth) = (file("pred.txt", &pred), file("truth.txt", &matrix(&case["truth"])));
        let pairs: Vec<String> = array(&case["exclude"])
            .iter()
            .map(|pair| format!("{} {}\n", pair[0], pair[1]))
            .collect();
        let filter = file("filter.txt", &pairs.concat());

        let arguments =
            [&pred, &truth, Path::new("--train"), &train, Path::new("--filter"), &filter];
        let (status, table, messages) = run(&program, &arguments);
        assert_eq!((status, messages.as_str()), (Some(0), ""), "case {}", case["name"]);
        let expected = case["expected"].as_object().unwrap();
        for line in table.lines().skip(1).take(3) {
            let mut words = line.split_whitespace();
            let kind = words.next().unwrap();
            for (k, printed) in [1, 3, 5].into_iter().zip(words) {
                let Some(value) = expected.get(&format!("{kind}@{k}")) else { continue };
                let printed: f64 = printed.parse().unwrap();
                let difference = (printed - value.as_f64().unwrap()).abs();
                assert!(difference < 5.1e-7, "case {}: {kind}@{k} is {printed}", case["name"]);
                checked += 1;
            }
        }
    }
    assert!(checked > 50, "{checked}");
}

#[test]
fn the_c_example_shows_errors() {
    let folder = tempfile::tempdir().unwrap();
    let Some(program) = compile("cc", "examples/evaluate.c", &["-std=c11"], folder.path()) else {
        return;
    };
    let (good, bad) = (folder.path().join("good.txt"), folder.path().join("bad.txt"));
    fs::write(&good, "2 4\n0:1\n3:1\n").unwrap();
    fs::write(&bad, "2 4\n0:1\n4:1\n").unwrap();
    let (status, _, message) = run(&program, &[&good, &bad]);
    let expected = format!("evaluate: {}:3: label 4 out of range (n_labels = 4)\n", bad.display());
    assert_eq!((status, message), (Some(1), expected));
    let (status, _, message) = run(&program, &[&folder.path().join("none.txt"), &good]);
    assert_eq!(status, Some(1));
    assert!(message.contains("none.txt: No such file"), "{message}");
    fs::write(&bad, "3 4\n0:1\n3:1\n\n").unwrap();
    let (_, _, message) = run(&program, &[&bad, &good]);
    assert_eq!(message, "evaluate: y_pred: 3 rows, expected 2\n");
    let (status, _, message) = run(&program, &[&good]);
    assert_eq!(status, Some(2));
    assert!(message.starts_with("usage: "));
}

#[test]
fn the_cpp_example_runs() {
    let folder = tempfile::tempdir().unwrap();
    let source = "examples/rank_and_score.cpp";
    let Some(program) = compile("c++", source, &["-std=c++17"], folder.path()) else { return };
    let (status, printed, messages) = run(&program, &[]);
    let message = "unknown metric 'AUC@3' (known: ";
    assert_eq!((status, messages.as_str()), (Some(0), ""));
    assert!(printed.starts_with(&format!("P@1 0.5000\nP@2 0.5000\n{message}")), "{printed}");
}

#[test]
fn threads_share_handles_and_children_make_their_own_pools() {
    let folder = tempfile::tempdir().unwrap();
    let flags = ["-std=c11", "-pthread"];
    let Some(program) = compile("cc", "tests/processes.c", &flags, folder.path()) else { return };
    assert_eq!(run(&program, &[]), (Some(0), String::new(), String::new()));
}

#[test]
fn the_program_of_the_page_runs() {
    let page = fs::read_to_string(Path::new(ROOT).join("../../docs/embedding.md")).unwrap();
    let (_, rest) = page.split_once("```c\n").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("page.c");
    fs::write(&source, rest.split_once("```").unwrap().0).unwrap();
    // An absolute path takes the place of the root.
    let Some(program) = compile("cc", source.to_str().unwrap(), &["-std=c11"], folder.path())
    else {
        return;
    };
    let half = 1.0 / (1.0 + 3f64.log2().recip());
    let expected = format!("nDCG@2 {:.6}\n", f64::midpoint(half, 1.0));
    assert_eq!(run(&program, &[]), (Some(0), expected, String::new()));
}

#[test]
fn an_installed_library_is_found_by_pkg_config() {
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path();
    if Command::new("pkg-config").arg("--version").output().is_err() {
        println!("skipped: no pkg-config");
        return;
    }
    // With the library of this build, and without building another.
    let install = Command::new("make")
        .args(["-C", ROOT, "install", "CARGO=true"])
        .arg(format!("PREFIX={}", prefix.display()))
        .arg(format!("BUILT={}", libraries().display()))
        .output();
    let Ok(install) = install else {
        println!("skipped: no make");
        return;
    };
    assert!(install.status.success(), "{}", String::from_utf8_lossy(&install.stderr));
    let pkg_config = |arguments: &[&str]| {
        let output = Command::new("pkg-config")
            .env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig"))
            .args(arguments)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(pkg_config(&["--modversion", "xmc"]).trim(), env!("CARGO_PKG_VERSION"));

    // The static library needs nothing at run time.
    let program = prefix.join("evaluate");
    let flags =
        pkg_config(&["--cflags", "--libs", "--static", "xmc"]).replace("-lxmc", "-l:libxmc.a");
    let compiled = Command::new("cc")
        .arg(Path::new(ROOT).join("examples/evaluate.c"))
        .args(flags.split_whitespace())
        .arg("-o")
        .arg(&program)
        .output();
    let Ok(compiled) = compiled else {
        println!("skipped: no compiler 'cc'");
        return;
    };
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    assert_eq!(run(&program, &[]).0, Some(2));
}

#[test]
fn the_c_example_serves_a_bilinear_model() {
    use std::io::Write as _;
    use std::process::Stdio;

    use xmc_core::Csr;
    use xmc_core::bilinear::{Bilinear, BilinearParts, Labels, Loss, TextModel};
    use xmc_core::lexical::{Tokenizer, Vocabulary};

    let folder = tempfile::tempdir().unwrap();
    let Some(program) = compile("cc", "examples/serve.c", &["-std=c11"], folder.path()) else {
        return;
    };
    // Two words, each of them a label.
    let one =
        || Csr { n_cols: 2, indptr: vec![0, 1, 2], indices: vec![0, 1], data: vec![1.0f32; 2] };
    let parts = BilinearParts {
        support: one(),
        refined: vec![2.0; 2],
        bias: -1.0,
        direct: vec![0, 1],
        loss: Loss::SquaredHinge,
        score_alpha: 0.5,
        shortlist: 5,
    };
    let vocabulary = Vocabulary::parse("words", b"fox\nboat\n", &[1, 1], 2).unwrap();
    let (model, labels) = (Bilinear::new(parts).unwrap(), Labels::new(one()).unwrap());
    let model = TextModel::new(Tokenizer::default(), vocabulary, false, model, labels).unwrap();
    let path = folder.path().join("model.xmc");
    model.save(&path).unwrap();

    let serve = |path: &Path| {
        let mut child = Command::new(&program)
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let _ = child.stdin.take().unwrap().write_all(b"a boat\n\nFOX\n");
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (status, answers, _) = serve(&path);
    assert_eq!((status, answers.as_str()), (Some(0), "1:1.0000\n\n0:1.0000\n"));
    fs::write(&path, "something else").unwrap();
    let (status, _, message) = serve(&path);
    assert_eq!(status, Some(1));
    assert!(message.contains("not a bilinear model"), "{message}");
}
