//! The seeds of the fuzz targets: each is refused, or read as it is written again.
#![cfg(all(feature = "compression", feature = "lexical"))]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;

use xmc_core::bilinear::TextModel;
use xmc_core::lexical::Vocabulary;
use xmc_core::{
    Evaluator, Metric, Options, ParseOptions, Scores, load_bow, load_bytes, load_labels,
    load_labels_repaired, load_pairs, load_scores, parse_bow, parse_labels, parse_labels_repaired,
    parse_pairs, write_bow, write_labels, write_pairs,
};

/// Path and content of each seed of a target.
fn seeds(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(target);
    let mut seeds: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    seeds.sort();
    assert!(seeds.len() > 3);
    seeds
}

/// As the core mixes, for checksums.
fn mix(bits: u64) -> u64 {
    let bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[test]
fn label_text() {
    for (path, text) in seeds("labels") {
        for missing_value in [None, Some(0.25)] {
            let options = ParseOptions { missing_value, ..ParseOptions::default() };
            let repaired = parse_labels_repaired("y", &text, options);
            let Ok(csr) = parse_labels("y", &text, options) else { continue };
            assert_eq!(repaired.unwrap().0, csr, "{path:?}");
            let mut written = Vec::new();
            write_labels(csr.view("y").unwrap(), &mut written).unwrap();
            let again = parse_labels("y", &written, ParseOptions::default()).unwrap();
            assert_eq!(again, csr, "{path:?}");
        }
    }
}

#[test]
fn bags_of_words() {
    for (path, text) in seeds("bow") {
        let Ok(bow) = parse_bow("x", &text, ParseOptions::default()) else { continue };
        let mut written = Vec::new();
        let labels = bow.labels.view("y").unwrap().pattern();
        write_bow(bow.features.view("x").unwrap(), labels, &mut written).unwrap();
        let again = parse_bow("x", &written, ParseOptions::default()).unwrap();
        assert_eq!(again.features, bow.features, "{path:?}");
        assert_eq!(again.labels, bow.labels, "{path:?}");
    }
}

#[test]
fn filter_pairs() {
    for (path, text) in seeds("pairs") {
        let Ok(pairs) = parse_pairs("pairs", &text, 300, 300) else { continue };
        let mut written = Vec::new();
        let pattern =
            xmc_core::CsrPattern::new("pairs", 300, &pairs.indptr, &pairs.indices).unwrap();
        write_pairs(pattern, &mut written).unwrap();
        let again = parse_pairs("pairs", &written, 300, 300).unwrap();
        assert_eq!((again.indptr, again.indices), (pairs.indptr, pairs.indices), "{path:?}");
    }
}

#[test]
fn files_of_any_bytes() {
    for (path, _) in seeds("loader") {
        let options = ParseOptions::default();
        let _ = load_bytes(&path, options);
        let _ = load_pairs(&path, 1000, 1000);
        if let Ok(bow) = load_bow(&path, options) {
            bow.labels.view("y").unwrap();
            bow.features.view("x").unwrap();
        }
        match load_scores(&path, options) {
            Ok(Scores::F32(csr)) => drop(csr.view("y").unwrap()),
            Ok(Scores::F64(csr)) => drop(csr.view("y").unwrap()),
            Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
        }
        let repaired = load_labels_repaired(&path, options);
        if let Ok(csr) = load_labels(&path, options) {
            csr.view("y").unwrap();
            assert_eq!(repaired.unwrap().0, csr, "{path:?}");
        }
    }
}

#[test]
fn vocabularies() {
    for (path, text) in seeds("vocabulary") {
        let n_lines = text.strip_suffix(b"\n").unwrap_or(&text).split(|&b| b == b'\n').count();
        let df = vec![1; n_lines];
        let Ok(vocabulary) = Vocabulary::parse("tokens", &text, &df, 9) else { continue };
        let written = vocabulary.to_text().unwrap();
        let again = Vocabulary::parse("tokens", written.as_bytes(), &df, 9).unwrap();
        assert_eq!(again.to_text().unwrap(), written, "{path:?}");
    }
}

#[test]
fn saved_evaluators() {
    let metrics = ["P@1".parse::<Metric>().unwrap()];
    let head = Evaluator::new(1, &metrics, Options::default()).unwrap().to_bytes();
    let mut n_read = 0;
    for (path, body) in seeds("state") {
        // Seeds begin behind magic and version, and have no checksum.
        let mut bytes = [&head[..12], &body].concat();
        let word = |part: &[u8]| part.iter().rev().fold(0, |word, &b| word << 8 | u64::from(b));
        let start = mix(bytes.len() as u64);
        let sum = bytes.chunks(8).fold(start, |sum, part| mix(sum ^ word(part)));
        bytes.extend(sum.to_le_bytes());
        let Ok(mut evaluator) = Evaluator::from_bytes(&bytes) else { continue };
        n_read += 1;
        assert_eq!(evaluator.to_bytes(), bytes, "{path:?}");
        for &metric in &evaluator.metrics().to_vec() {
            let _ = evaluator.value(metric);
        }
        let same = evaluator.clone();
        evaluator.merge(&same).unwrap();
    }
    assert!(n_read > 3, "those written by hand are of this version");
}

#[test]
fn bilinear_models() {
    let folder = tempfile::tempdir().unwrap();
    let mut n_read = 0;
    for (seed, body) in seeds("bilinear") {
        // Seeds are the sections, without what stands around them.
        let words = body.chunks_exact(8);
        let tail = words.remainder();
        let sum = words
            .fold(0x786d_6321, |sum, word| mix(sum ^ u64::from_le_bytes(word.try_into().unwrap())));
        let sum = mix(sum ^ body.len() as u64);
        let sum = tail.iter().fold(sum, |sum, &byte| mix(sum ^ u64::from(byte)));
        let length = (body.len() as u64).to_le_bytes();
        let file = [b"xmc bilinear 1\n", &length[..], &body, &sum.to_le_bytes()].concat();
        let path = folder.path().join("model");
        fs::write(&path, &file).unwrap();
        let Ok(model) = TextModel::open(&path) else { continue };
        n_read += 1;
        let found = model.search(&["kernel driver", ""], 3).unwrap();
        assert!(found.ids.iter().all(|&id| id < model.n_labels() as i32), "{seed:?}");
        model.save(&path).unwrap();
        TextModel::open(&path).unwrap();
    }
    assert!(n_read > 1, "the checksum is right");
}
