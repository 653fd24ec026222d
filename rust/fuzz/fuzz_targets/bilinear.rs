//! Files of a bilinear model, with the right checksum: an error, or one that answers texts, with the
//! same scores by search and by pairs, and that is saved and opened again.
#![no_main]

use std::fs;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use twins::mix;
use xmc_core::CsrPattern;
use xmc_core::bilinear::TextModel;

/// A file around sections of any bytes.
fn file(body: &[u8]) -> Vec<u8> {
    let words = body.chunks_exact(8);
    let tail = words.remainder();
    let sum = words.fold(0x786d_6321, |sum, word| {
        mix(sum ^ u64::from_le_bytes(word.try_into().expect("8 bytes")))
    });
    let sum =
        tail.iter().fold(mix(sum ^ body.len() as u64), |sum, &byte| mix(sum ^ u64::from(byte)));
    let length = (body.len() as u64).to_le_bytes();
    [b"xmc bilinear 1\n", &length[..], body, &sum.to_le_bytes()].concat()
}

fuzz_target!(|body: &[u8]| {
    twins::on_this_thread();
    let folder =
        if Path::new("/dev/shm").is_dir() { "/dev/shm".into() } else { std::env::temp_dir() };
    let path = folder.join(format!("xmc-fuzz-bilinear-{}", std::process::id()));
    fs::write(&path, body).expect("room");
    let _ = TextModel::open(&path);
    fs::write(&path, file(body)).expect("room");
    let Ok(model) = TextModel::open(&path) else { return };
    let texts = ["", "kernel driver", "music player kernel", "\u{1F600} c++"];
    let found = model.search(&texts, 3).expect("texts are fine");
    let mut indptr = vec![0i64];
    let mut indices = Vec::new();
    let mut scores = Vec::new();
    for (ids, values) in found.ids.chunks(found.k).zip(found.scores.chunks(3)) {
        let mut row: Vec<_> = ids.iter().zip(values).filter(|&(&id, _)| id >= 0).collect();
        row.sort_unstable_by_key(|&(&id, _)| id);
        indices.extend(row.iter().map(|&(&id, _)| id));
        scores.extend(row.iter().map(|&(_, value)| value.to_bits()));
        indptr.push(indices.len() as i64);
    }
    let pairs = CsrPattern::new("pairs", model.n_labels(), &indptr, &indices).expect("as found");
    let again = model.score(&texts, pairs).expect("as found");
    assert_eq!(again.iter().map(|score| score.to_bits()).collect::<Vec<_>>(), scores);
    model.save(&path).expect("room");
    TextModel::open(&path).expect("our own");
});
