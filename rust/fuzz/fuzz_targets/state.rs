//! Saved evaluators of any bytes, with the right checksum: an error, or one that can be read, merged
//! and saved with the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use twins::mix;
use xmc_core::{Evaluator, Metric, Options};

/// Magic and version, as this version writes them.
fn head() -> [u8; 12] {
    let metrics = ["P@1".parse::<Metric>().expect("a metric")];
    let evaluator = Evaluator::new(1, &metrics, Options::default()).expect("valid");
    evaluator.to_bytes()[..12].try_into().expect("longer")
}

fuzz_target!(|body: &[u8]| {
    let _ = Evaluator::from_bytes(body);
    let mut bytes = [&head()[..], body].concat();
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
    let sum = bytes.chunks(8).fold(mix(bytes.len() as u64), |sum, part| mix(sum ^ word(part)));
    bytes.extend(sum.to_le_bytes());
    let Ok(mut evaluator) = Evaluator::from_bytes(&bytes) else { return };
    assert_eq!(evaluator.to_bytes(), bytes);
    for &metric in &evaluator.metrics().to_vec() {
        let _ = evaluator.value(metric);
        let _ = evaluator.row_values(metric);
    }
    let same = evaluator.clone();
    let _ = evaluator.merge(&same);
});
