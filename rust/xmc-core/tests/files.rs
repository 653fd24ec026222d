//! Files: compressed text, scipy archives, and what is left of them when they are damaged.
#![cfg(feature = "compression")]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use tempfile::TempDir;
use xmc_core::{
    Csr, Error, ParseOptions, Scores, load_bow, load_bytes, load_labels, load_labels_repaired,
    load_pairs, load_scores, parse_labels, save_bow, save_labels, save_npz, save_pairs,
    write_labels,
};

fn options() -> ParseOptions<'static> {
    ParseOptions::default()
}

fn small() -> Csr {
    Csr {
        n_cols: 70,
        indptr: vec![0, 2, 2, 5],
        indices: vec![3, 69, 0, 4, 5],
        data: vec![1.0, 0.123_456, -2.5, 0.0, 1e-10],
    }
}

/// A matrix of several blocks and chunks.
fn large() -> Csr {
    let mut csr = Csr { n_cols: 1_000_003, indptr: vec![0], indices: vec![], data: vec![] };
    let mut state = 1u64;
    for row in 0..50_000 {
        let mut label = 0;
        for _ in 0..row % 12 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            label += 1 + (state >> 48) as i32;
            csr.indices.push(label % 1_000_003);
            csr.data.push((state >> 40) as f32 / 1e4);
        }
        csr.indptr.push(csr.indices.len() as i64);
    }
    csr
}

fn in_folder(name: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    (folder, path)
}

const NAMES: [&str; 4] = ["y.txt", "y.txt.gz", "y.txt.zst", "y.npz"];

fn save(path: &std::path::Path, csr: &Csr) {
    let view = csr.view("y").unwrap();
    if path.extension().unwrap() == "npz" {
        save_npz(path, view, true).unwrap();
    } else {
        save_labels(path, view).unwrap();
    }
}

#[test]
fn every_format_round_trips_with_the_same_bytes() {
    for csr in [small(), large(), Csr { n_cols: 0, indptr: vec![0], indices: vec![], data: vec![] }]
    {
        for name in NAMES {
            let (folder, path) = in_folder(name);
            save(&path, &csr);
            assert_eq!(load_labels(&path, options()).unwrap(), csr, "{name}");
            let bytes = fs::read(&path).unwrap();
            let pool = xmc_core::rayon::ThreadPoolBuilder::new().num_threads(7).build().unwrap();
            pool.install(|| save(&path, &csr));
            assert_eq!(fs::read(&path).unwrap(), bytes, "{name}");
            assert_eq!(pool.install(|| load_labels(&path, options())).unwrap(), csr, "{name}");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside");
        }
    }
}

#[test]
fn the_first_bytes_tell_the_format() {
    let (_folder, path) = in_folder("y.txt.gz");
    save(&path, &small());
    let packed = fs::read(&path).unwrap();
    fs::write(path.with_extension("txt"), &packed).unwrap();
    assert_eq!(load_labels(&path.with_extension("txt"), options()).unwrap(), small());
    fs::write(&path, b"1 2\n1:1\n").unwrap();
    assert_eq!(load_labels(&path, options()).unwrap().indices, [1]);
    save_npz(&path, small().view("y").unwrap(), false).unwrap();
    assert_eq!(load_labels(&path, options()).unwrap(), small());
}

#[test]
fn members_and_frames_follow_each_other() {
    for name in ["y.txt.gz", "y.txt.zst"] {
        let (_folder, path) = in_folder(name);
        let mut packed = Vec::new();
        for text in ["2 9\n1:", "0.5 2:1\n", "", "8:1\n"] {
            packed.extend(if name.ends_with("gz") { gzip(text) } else { zstandard(text) });
        }
        fs::write(&path, packed).unwrap();
        assert_eq!(load_labels(&path, options()).unwrap().indices, [1, 2, 8]);
        assert_eq!(load_bytes(&path, options()).unwrap(), b"2 9\n1:0.5 2:1\n8:1\n");
    }
}

fn gzip(text: &str) -> Vec<u8> {
    use std::io::Write;
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(text.as_bytes()).unwrap();
    packer.finish().unwrap()
}

fn zstandard(text: &str) -> Vec<u8> {
    zstd::encode_all(text.as_bytes(), 1).unwrap()
}

#[test]
fn faults_in_compressed_text_have_the_same_places() {
    let (_folder, path) = in_folder("y.txt.zst");
    let mut text = "900000 9\n".to_owned();
    for row in 0..900_000 {
        text.push_str(if row == 850_000 || row == 880_000 { "9:1.0\n" } else { "1:1.0 8:1.0\n" });
    }
    fs::write(&path, zstandard(&text)).unwrap();
    let message = load_labels(&path, options()).unwrap_err().to_string();
    assert!(
        message.ends_with("y.txt.zst:850002: label 9 out of range (n_labels = 9)"),
        "{message}"
    );
    let (csr, repairs) = load_labels_repaired(&path, options()).unwrap();
    assert_eq!((repairs.out_of_range, csr.indices.len()), (2, 1_799_996));
    assert!(repairs.first[1].0.to_string().ends_with("y.txt.zst:880002"));
    fs::write(&path, zstandard(&text[..text.len() - 12])).unwrap();
    let message = load_labels(&path, options()).unwrap_err().to_string();
    assert!(message.ends_with(":850002: label 9 out of range (n_labels = 9)"), "{message}");
    fs::write(&path, zstandard("3 5\n\n\n")).unwrap();
    let message = load_labels(&path, options()).unwrap_err().to_string();
    assert!(message.ends_with("y.txt.zst:3: header says 3 rows, found 2"), "{message}");
}

#[test]
fn loading_stops_when_asked() {
    for name in NAMES {
        let (_folder, path) = in_folder(name);
        save(&path, &large());
        let asked = AtomicUsize::new(0);
        let keep_going = || asked.fetch_add(1, Ordering::Relaxed) < 2;
        let options = ParseOptions { keep_going: &keep_going, ..options() };
        assert!(matches!(load_labels(&path, options), Err(Error::Interrupted)), "{name}");
    }
}

#[test]
fn bow_and_pairs_round_trip() {
    for suffix in ["", ".gz", ".zst"] {
        let (_folder, path) = in_folder(&format!("x.txt{suffix}"));
        let (features, mut labels) = (large(), large());
        labels.data.fill(1.0);
        let pattern = labels.view("labels").unwrap().pattern();
        save_bow(&path, features.view("features").unwrap(), pattern).unwrap();
        let bow = load_bow(&path, options()).unwrap();
        assert_eq!((&bow.features, &bow.labels), (&features, &labels), "{suffix}");
        save_pairs(&path, pattern).unwrap();
        let pairs = load_pairs(&path, labels.n_rows(), labels.n_cols).unwrap();
        assert_eq!((&pairs.indptr, &pairs.indices), (&labels.indptr, &labels.indices));
        assert_eq!(pairs.pattern("pairs", labels.n_cols).unwrap().n_rows(), 50_000);
    }
    let (_folder, path) = in_folder("x.txt");
    let (short, long) = (small(), large());
    let labels = long.view("labels").unwrap().pattern();
    let message = save_bow(&path, short.view("x").unwrap(), labels).unwrap_err().to_string();
    assert!(message.ends_with("3 rows of features, 50000 of labels"), "{message}");
    assert!(!path.exists());
}

#[test]
fn scores_keep_their_precision_and_may_be_infinite() {
    let (_folder, path) = in_folder("s.npz");
    let data = vec![1.0, 1.0 + 1e-12, f64::NEG_INFINITY];
    let scores = Csr { n_cols: 5, indptr: vec![0, 2, 3], indices: vec![0, 4, 1], data };
    for compressed in [false, true] {
        save_npz(&path, scores.view("s").unwrap(), compressed).unwrap();
        assert_eq!(load_scores(&path, options()).unwrap(), Scores::F64(scores.clone()));
    }
    let message = load_labels(&path, options()).unwrap_err().to_string();
    assert!(message.ends_with("s.npz: row 1: value is not finite (label 1)"), "{message}");
    let (labels, repairs) = load_labels_repaired(&path, options()).unwrap();
    assert_eq!((labels.indices, repairs.not_finite), (vec![0, 4], 1));
    let data = vec![1.0, 1e-45, 1e-50];
    let tiny = Csr { n_cols: 5, indptr: vec![0, 2, 2, 3], indices: vec![0, 4, 1], data };
    save_npz(&path, tiny.view("s").unwrap(), true).unwrap();
    assert_eq!(load_scores(&path, options()).unwrap(), Scores::F64(tiny));
    let message = load_labels(&path, options()).unwrap_err().to_string();
    let expected = "s.npz: row 2: value 1e-50 is too small for float32 (label 1)";
    assert!(message.ends_with(expected), "{message}");
    let (labels, repairs) = load_labels_repaired(&path, options()).unwrap();
    assert_eq!((labels.indices, repairs.not_finite), (vec![0, 4], 1));
    save_npz(&path, small().view("s").unwrap(), true).unwrap();
    assert_eq!(load_scores(&path, options()).unwrap(), Scores::F32(small()));
    let nan = Csr { data: vec![1.0, f64::NAN, 0.0], ..scores };
    save_npz(&path, nan.view("s").unwrap(), true).unwrap();
    let message = load_scores(&path, options()).unwrap_err().to_string();
    assert!(message.ends_with("s.npz: row 0: score of label 4 is NaN"), "{message}");
}

#[test]
fn damage_is_named() {
    for (name, message) in [
        ("y.txt.gz", "damaged or not a gzip stream ("),
        ("y.txt.zst", "damaged or not a zstd stream ("),
        ("y.npz", "damaged or not a scipy .npz archive ("),
    ] {
        let (_folder, path) = in_folder(name);
        save(&path, &large());
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() * 2 / 3]).unwrap();
        let found = load_labels(&path, options()).unwrap_err().to_string();
        assert!(found.contains(&format!("{name}: {message}")), "{found}");
    }
}

/// Whatever is done to small files: an error or a matrix, no panic, no hang; and compressed files,
/// which have checksums, never give another matrix.
#[test]
fn every_truncation_and_every_flipped_bit_of_small_files() {
    for name in ["y.txt", "y.txt.gz", "y.txt.zst", "y.npz", "stored.npz"] {
        let (_folder, path) = in_folder(name);
        if name == "stored.npz" {
            save_npz(&path, small().view("y").unwrap(), false).unwrap();
        } else {
            save(&path, &small());
        }
        let whole = fs::read(&path).unwrap();
        for len in 0..whole.len() {
            fs::write(&path, &whole[..len]).unwrap();
            let loaded = load_labels(&path, options());
            // Plain text has no end mark but its rows.
            assert!(loaded.is_err() || name == "y.txt", "{name} cut to {len}");
            if len % 5 > 0 {
                continue;
            }
            drop(load_labels_repaired(&path, options()));
            drop(load_bow(&path, options()));
            drop(load_pairs(&path, 9, 9));
        }
        for at in 0..whole.len() {
            // One bit of each byte, each of the eight in turn.
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            fs::write(&path, &bytes).unwrap();
            if let Ok(csr) = load_labels(&path, options()) {
                assert!(csr == small() || name == "y.txt", "{name}: byte {at}");
            }
            drop(load_scores(&path, options()));
        }
    }
}

#[test]
fn claims_of_headers_take_no_memory() {
    let (_folder, path) = in_folder("y.txt.gz");
    fs::write(&path, gzip("18446744073709551615 2147483647\n1:1\n")).unwrap();
    let message = load_labels(&path, options()).unwrap_err().to_string();
    assert!(message.contains("header says 18446744073709551615 rows, found 1"), "{message}");
    // A bomb of zeros is one long bad token, never a row.
    fs::write(&path, gzip(&format!("1 5\n{}", "\0".repeat(30 << 20)))).unwrap();
    let message = load_labels(&path, options()).unwrap_err().to_string();
    assert!(message.contains(":2: bad token '\\0"), "{message}");
}

fn matrices() -> impl Strategy<Value = Csr> {
    let value = prop_oneof![
        Just(1.0f32),
        (0u32..2_000_000).prop_map(|n| n as f32 / 1e6),
        any::<f32>().prop_filter("finite", |value| value.is_finite()),
    ];
    (prop_oneof![Just(1usize), 2usize..9, Just(2_000_000)]).prop_flat_map(move |n_cols| {
        let row = prop::collection::btree_map(0..n_cols as i32, value.clone(), 0..n_cols.min(9));
        prop::collection::vec(row, 0..9).prop_map(move |rows| {
            let mut csr = Csr { n_cols, indptr: vec![0], indices: vec![], data: vec![] };
            for row in rows {
                csr.indices.extend(row.keys());
                csr.data.extend(row.values());
                csr.indptr.push(csr.indices.len() as i64);
            }
            csr
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_matrix_round_trips_in_any_format(csr in matrices(), which in 0usize..4) {
        let (_folder, path) = in_folder(NAMES[which]);
        save(&path, &csr);
        let loaded = load_labels(&path, options()).unwrap();
        prop_assert_eq!(&loaded, &csr);
        let mut text = Vec::new();
        write_labels(loaded.view("y").unwrap(), &mut text).unwrap();
        prop_assert_eq!(parse_labels("y", &text, options()).unwrap(), csr);
    }
}
