//! Files of a vocabulary: an error or tokens that are written and read again; and texts of any
//! characters, cut into tokens that a vocabulary then knows.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use xmc_core::lexical::{Cut, Documents, Grams, Tokenizer, TokenizerOptions, Vocabulary, Weights};

#[derive(Arbitrary, Debug)]
struct Input {
    file: Vec<u8>,
    df: Vec<i8>,
    n_texts: u8,
    texts: Vec<String>,
    grams: u8,
    edges: bool,
    sizes: (u8, u8),
    max_chars: Option<u8>,
}

fuzz_target!(|input: Input| {
    twins::on_this_thread();
    let n_texts = usize::from(input.n_texts);
    let lines = input.file.strip_suffix(b"\n").unwrap_or(&input.file);
    let n_lines = if lines.is_empty() { 0 } else { lines.split(|&byte| byte == b'\n').count() };
    let mut df: Vec<i64> = input.df.iter().copied().map(i64::from).collect();
    if n_texts.is_multiple_of(2) {
        df.resize(n_lines, 0); // or the lengths hardly ever fit
    }
    if let Ok(vocabulary) = Vocabulary::parse("tokens", &input.file, &df, n_texts) {
        assert_eq!(
            (vocabulary.len(), vocabulary.df(), vocabulary.n_texts()),
            (n_lines, &df[..], n_texts)
        );
        let text = vocabulary.to_text().expect("room");
        assert_eq!(text.strip_suffix('\n').unwrap_or(&text).as_bytes(), lines);
        for id in 0..vocabulary.len() {
            let token = vocabulary.token(id).expect("one for each id");
            assert_eq!(vocabulary.id(token), Some(id as i32));
        }
    }

    let options = TokenizerOptions {
        grams: [Grams::Words, Grams::Chars, Grams::Features][usize::from(input.grams % 3)],
        sizes: (usize::from(input.sizes.0 % 6), usize::from(input.sizes.1 % 6)),
        edges: input.edges,
        max_chars: input.max_chars.map(usize::from),
        ..TokenizerOptions::default()
    };
    let Ok(tokenizer) = Tokenizer::new(options) else { return };
    let texts = Documents::Texts(&input.texts);
    let vocabulary =
        Vocabulary::build(&tokenizer, texts, &Cut::default(), &|| true).expect("valid");
    let text = vocabulary.to_text().expect("room");
    let again = Vocabulary::parse("tokens", text.as_bytes(), vocabulary.df(), input.texts.len());
    assert_eq!(again.expect("our own").to_text().expect("room"), text);
    let idf = vocabulary.smooth_idf();
    let weights = Weights { idf: Some(&idf), ..Weights::default() };
    let rows = match vocabulary.rows(&tokenizer, texts, &weights, &|| true) {
        Ok(rows) => rows,
        Err(error) => {
            assert!(input.grams % 3 == 2 && error.to_string().contains("not finite"), "{error}");
            return;
        }
    };
    rows.view("rows").expect("valid");
    for (row, text) in input.texts.iter().enumerate() {
        let mut ids: Vec<i32> = tokenizer
            .grams(text)
            .iter()
            .map(|token| vocabulary.id(token).expect("it was counted"))
            .collect();
        ids.sort_unstable();
        ids.dedup();
        let span = rows.indptr[row] as usize..rows.indptr[row + 1] as usize;
        if input.grams % 3 < 2 {
            assert_eq!(rows.indices[span], ids);
        } else {
            assert!(rows.indices[span].iter().all(|id| ids.contains(id))); // less what adds up to 0
        }
    }
});
