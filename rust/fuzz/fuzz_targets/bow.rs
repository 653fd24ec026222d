//! Bag-of-words text: accepted and rejected as the slow parser does, and what is written is read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xmc_core::{Csr, Error, ParseOptions, Place, parse_bow, parse_bow_repaired, write_bow};

fn rows(csr: &Csr) -> Vec<twins::Row> {
    let view = csr.view("m").expect("what is parsed is valid");
    let row = |row| {
        let (labels, values) = view.row(row);
        labels.iter().map(|&l| l as u64).zip(values.iter().map(|v| v.to_bits())).collect()
    };
    (0..csr.n_rows()).map(row).collect()
}

fuzz_target!(|text: &[u8]| {
    twins::on_this_thread();
    let expected = twins::bow(text);
    let repaired = parse_bow_repaired("X.txt", text, ParseOptions::default());
    let bow = match parse_bow("X.txt", text, ParseOptions::default()) {
        Ok(bow) => bow,
        Err(Error::Content { place: Place::Line { line, .. }, .. }) => {
            assert!(expected.is_err_and(|lines| lines.contains(&line)));
            if let Ok((bow, repairs)) = repaired {
                assert!(repairs.n_entries() > 0);
                assert_eq!(rows(&bow.features).len(), rows(&bow.labels).len());
            }
            return;
        }
        Err(error) => panic!("{error}"),
    };
    assert_eq!(Ok((rows(&bow.features), rows(&bow.labels))), expected);
    let (same, repairs) = repaired.expect("nothing to mend");
    assert_eq!((&same, repairs.n_entries()), (&bow, 0));

    let (features, labels) = (bow.features.view("x"), bow.labels.view("y"));
    let mut written = Vec::new();
    write_bow(features.expect("valid"), labels.expect("valid").pattern(), &mut written)
        .expect("memory takes all");
    let again = parse_bow("X.txt", &written, ParseOptions::default()).expect("our own");
    assert_eq!(again, bow);
});
