//! Filter pairs: accepted and rejected as the slow parser does.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xmc_core::{CsrPattern, Error, Place, parse_pairs};

fuzz_target!(|input: (u8, u16, &[u8])| {
    let (n_rows, n_labels, text) = input;
    let expected = twins::pairs(text, n_rows.into(), n_labels.into());
    match parse_pairs("filter.txt", text, n_rows.into(), n_labels.into()) {
        Ok(pairs) => {
            let view = CsrPattern::new("filter", n_labels.into(), &pairs.indptr, &pairs.indices);
            let view = view.expect("what is parsed is valid");
            let found = (0..view.n_rows())
                .flat_map(|row| view.row(row).iter().map(move |&label| (row as u64, label as u64)))
                .collect();
            assert_eq!(Ok((found, pairs.n_repeated)), expected);
            assert_eq!(view.n_rows(), usize::from(n_rows));
        }
        Err(Error::Content { place: Place::Line { line, .. }, .. }) => {
            assert_eq!(expected.err(), Some(line));
        }
        Err(error) => panic!("{error}"),
    }
});
