//! Label text: accepted and rejected as the slow parser does, and what is written is read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xmc_core::{Error, ParseOptions, Place, parse_labels, write_labels};

fuzz_target!(|text: &[u8]| {
    twins::on_this_thread();
    for missing_value in [None, Some(0.25)] {
        let options = ParseOptions { missing_value, ..ParseOptions::default() };
        let expected = twins::labels(text, missing_value);
        let csr = match parse_labels("Y.txt", text, options) {
            Ok(csr) => csr,
            Err(Error::Content { place: Place::Line { line, .. }, .. }) => {
                assert!(expected.is_err_and(|lines| lines.contains(&line)));
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        let view = csr.view("y").expect("what is parsed is valid");
        let row = |row| {
            let (labels, values) = view.row(row);
            labels.iter().map(|&l| l as u64).zip(values.iter().map(|v| v.to_bits())).collect()
        };
        let rows: Vec<twins::Row> = (0..csr.n_rows()).map(row).collect();
        assert_eq!(Ok((rows, csr.n_cols as u64)), expected);
        assert_eq!(csr.indptr.last(), Some(&(csr.indices.len() as i64)));

        let mut written = Vec::new();
        write_labels(view, &mut written).expect("memory takes all");
        let again = parse_labels("Y.txt", &written, ParseOptions::default()).expect("our own");
        assert_eq!(again, csr);
    }
});
