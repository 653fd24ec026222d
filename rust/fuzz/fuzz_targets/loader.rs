//! Files of any bytes (text, gzip, zstd, archives): an error or a valid matrix, and never much memory.
#![no_main]

use std::fs;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use xmc_core::{
    Csr, ParseOptions, Scores, load_bow, load_bytes, load_labels, load_labels_repaired, load_pairs,
    load_scores, write_npz,
};

fuzz_target!(|bytes: &[u8]| {
    twins::on_this_thread();
    let folder =
        if Path::new("/dev/shm").is_dir() { "/dev/shm".into() } else { std::env::temp_dir() };
    let path = folder.join(format!("xmc-fuzz-{}", std::process::id()));
    let path = path.as_path();
    fs::write(path, bytes).expect("room");
    let options = ParseOptions::default();
    let packed = [&b"\x1f\x8b"[..], b"\x28\xb5\x2f\xfd", b"\x2a\x4d\x18"];
    let plain = |packing: &&[u8]| bytes.starts_with(packing) || bytes.get(1..4) == Some(packing);
    match load_bytes(path, options) {
        Ok(text) => assert!(packed.iter().any(plain) || text == bytes),
        Err(_) => assert!(packed.iter().any(plain)),
    }
    if let Ok(pairs) = load_pairs(path, 1000, 1000) {
        assert!(pairs.indices.iter().all(|&label| (0..1000).contains(&label)));
    }
    let labels = load_labels(path, options);
    let repaired = load_labels_repaired(path, options);
    if let Ok(scores) = load_scores(path, options) {
        match &scores {
            Scores::F32(csr) => drop(csr.view("scores").expect("valid")),
            Scores::F64(csr) => drop(csr.view("scores").expect("valid")),
        }
    }
    if let Ok(bow) = load_bow(path, options) {
        bow.labels.view("y").expect("valid");
        bow.features.view("x").expect("valid");
    }
    if let Ok(csr) = labels {
        assert!(csr.data.iter().all(|value| value.is_finite()));
        let (same, repairs) = repaired.expect("nothing to mend");
        assert_eq!((&same, repairs.n_entries()), (&csr, 0));
        let view = csr.view("y").expect("what is loaded is valid");
        let sorted = |row| view.row(row).0.is_sorted_by(|a, b| a < b);
        assert!((0..view.n_rows()).all(sorted));
        let mut archive = Vec::new();
        write_npz(view, bytes.len().is_multiple_of(2), &mut archive).expect("memory takes all");
        fs::write(path, archive).expect("room");
        let again: Csr = load_labels(path, options).expect("our own");
        assert_eq!(again, csr);
    }
});
