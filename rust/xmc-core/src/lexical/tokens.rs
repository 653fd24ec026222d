//! Texts cut into words, and words into n-grams.

use std::collections::HashSet;
use std::fmt;

use rust_stemmers::{Algorithm, Stemmer};
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfkc_quick};
use unicode_segmentation::UnicodeSegmentation;

use super::features::features;
use crate::error::{Error, Result};

/// Largest size of an n-gram.
pub const MAX_SIZE: usize = 64;

const LANGUAGES: [(&str, Algorithm); 18] = [
    ("arabic", Algorithm::Arabic),
    ("danish", Algorithm::Danish),
    ("dutch", Algorithm::Dutch),
    ("english", Algorithm::English),
    ("finnish", Algorithm::Finnish),
    ("french", Algorithm::French),
    ("german", Algorithm::German),
    ("greek", Algorithm::Greek),
    ("hungarian", Algorithm::Hungarian),
    ("italian", Algorithm::Italian),
    ("norwegian", Algorithm::Norwegian),
    ("portuguese", Algorithm::Portuguese),
    ("romanian", Algorithm::Romanian),
    ("russian", Algorithm::Russian),
    ("spanish", Algorithm::Spanish),
    ("swedish", Algorithm::Swedish),
    ("tamil", Algorithm::Tamil),
    ("turkish", Algorithm::Turkish),
];

/// What the tokens of a text are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Grams {
    /// Runs of successive words, joined by a blank.
    #[default]
    Words,
    /// Runs of successive characters within a word.
    Chars,
    /// Names of [`features`](super::features()), whose values weigh them. They are taken as they stand:
    /// not normalised, cut or stemmed, and sizes do not matter.
    Features,
}

/// The texts of a call.
#[derive(Debug)]
pub enum Documents<'a, S> {
    /// Texts that the tokenizer cuts into words.
    Texts(&'a [S]),
    /// Words from a tokenizer of the caller, taken as they are. Only n-grams are made of them.
    Words(&'a [Vec<S>]),
}

// Derived, these would ask `S` to be `Copy`.
impl<S> Clone for Documents<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Documents<'_, S> {}

impl<S> Documents<'_, S> {
    /// Number of texts.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self {
            Self::Texts(texts) => texts.len(),
            Self::Words(lists) => lists.len(),
        }
    }

    /// Whether there is no text.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How to cut texts; see [`Tokenizer`].
#[derive(Debug, Clone)]
pub struct TokenizerOptions {
    /// What the tokens are.
    pub grams: Grams,
    /// Smallest and largest n-gram, in 1..=[`MAX_SIZE`].
    pub sizes: (usize, usize),
    /// Whether character n-grams see a blank before and after each word, so that `"ing "` at the
    /// end of a word is another token than `"ing"` within one.
    pub edges: bool,
    /// Language of a Snowball stemmer for the words, in lower case.
    pub stemmer: Option<String>,
    /// Words that are dropped before n-grams are made, as they are after lower-casing.
    pub stop_words: Vec<String>,
    /// Only so many characters of a text are read.
    pub max_chars: Option<usize>,
}

impl Default for TokenizerOptions {
    /// Single words.
    fn default() -> Self {
        Self {
            grams: Grams::Words,
            sizes: (1, 1),
            edges: true,
            stemmer: None,
            stop_words: Vec::new(),
            max_chars: None,
        }
    }
}

/// Cuts texts into words, and words into n-grams.
///
/// A text is brought into normal form NFKC and lower case and cut at the word boundaries of Unicode
/// (UAX #29); what holds no letter or digit is dropped. Words may then be dropped (stop words) and
/// stemmed.
///
/// Scripts without blanks (Chinese, Japanese, Thai, Lao, Khmer, Burmese) have no words there but
/// single characters, and Katakana runs. Such characters, where they follow each other, are joined
/// without a blank: word n-grams of sizes 1 to 2 are characters and character bigrams, and character
/// n-grams are taken from the whole run. Use sizes from 1 to 2 or more for such texts.
///
/// A word that is shorter than the smallest character n-gram is one token; a text with fewer words
/// than the smallest word n-gram has none.
#[derive(Default)]
pub struct Tokenizer {
    options: TokenizerOptions,
    stop_words: HashSet<String>,
    stemmer: Option<Stemmer>,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("options", &self.options).finish_non_exhaustive()
    }
}

/// A word in the buffer.
#[derive(Debug, Clone, Copy)]
struct Word {
    start: usize,
    end: usize,
    /// Whether it follows the word before without a blank.
    joined: bool,
}

/// Memory for one text at a time.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    normal: String,
    /// A blank, the words separated by blanks (unless joined), a blank: so that every n-gram is a
    /// slice of it.
    text: String,
    words: Vec<Word>,
    /// Where the characters of a run start, and its end.
    starts: Vec<usize>,
}

impl Buffer {
    fn clear(&mut self) {
        self.text.clear();
        self.words.clear();
    }

    fn push(&mut self, word: &str, joined: bool) {
        if !joined {
            self.text.push(' ');
        }
        let start = self.text.len();
        self.text.push_str(word);
        self.words.push(Word { start, end: self.text.len(), joined });
    }
}

impl Tokenizer {
    /// A tokenizer with the given options.
    ///
    /// # Errors
    /// [`Error::Parameter`] for sizes out of range, an unknown language, or `max_chars` of 0.
    pub fn new(options: TokenizerOptions) -> Result<Self> {
        let (min, max) = options.sizes;
        if !(1 <= min && min <= max && max <= MAX_SIZE) {
            let (name, rule) = ("sizes", "must be two numbers in 1..=64, the smaller one first");
            return Err(Error::Parameter { name, rule, value: format!("({min}, {max})") });
        }
        if options.max_chars == Some(0) {
            let (name, rule) = ("max_chars", "must be at least 1");
            return Err(Error::Parameter { name, rule, value: 0.to_string() });
        }
        let stemmer = match &options.stemmer {
            None => None,
            Some(language) => {
                let Some(&(_, algorithm)) = LANGUAGES.iter().find(|(name, _)| name == language)
                else {
                    let rule = "must be arabic, danish, dutch, english, finnish, french, german, \
                                greek, hungarian, italian, norwegian, portuguese, romanian, \
                                russian, spanish, swedish, tamil or turkish";
                    let value = format!("'{language}'");
                    return Err(Error::Parameter { name: "stemmer", rule, value });
                };
                Some(Stemmer::create(algorithm))
            }
        };
        let stop_words = options.stop_words.iter().cloned().collect();
        Ok(Self { options, stop_words, stemmer })
    }

    /// The options that it was made with.
    #[must_use]
    pub const fn options(&self) -> &TokenizerOptions {
        &self.options
    }

    /// The words of a text.
    #[must_use]
    pub fn words(&self, text: &str) -> Vec<String> {
        let mut buffer = Buffer::default();
        self.cut(text, &mut buffer);
        buffer.words.iter().map(|word| buffer.text[word.start..word.end].to_owned()).collect()
    }

    /// The tokens of a text, as often as they occur, sizes ascending for each place.
    #[must_use]
    pub fn grams(&self, text: &str) -> Vec<String> {
        let mut grams = Vec::new();
        let mut buffer = Buffer::default();
        self.cut(text, &mut buffer);
        // Nothing in here fails.
        let _: Result<()> = self.visit(&mut buffer, |gram| {
            grams.push(gram.to_owned());
            Ok(())
        });
        grams
    }

    /// Calls `visit` with each token of a text.
    pub(crate) fn for_each<S: AsRef<str>>(
        &self,
        documents: Documents<'_, S>,
        at: usize,
        buffer: &mut Buffer,
        visit: impl FnMut(&str) -> Result<()>,
    ) -> Result<()> {
        match documents {
            Documents::Texts(texts) => self.cut(texts[at].as_ref(), buffer),
            Documents::Words(lists) => {
                buffer.clear();
                for word in lists[at].iter().map(AsRef::as_ref).filter(|word| !word.is_empty()) {
                    buffer.push(word, false);
                }
            }
        }
        self.visit(buffer, visit)
    }

    /// Leaves the words of a text in the buffer.
    fn cut(&self, text: &str, buffer: &mut Buffer) {
        let text = match self.options.max_chars {
            Some(max) => text.char_indices().nth(max).map_or(text, |(end, _)| &text[..end]),
            None => text,
        };
        buffer.clear();
        if self.options.grams == Grams::Features {
            self.features(text).for_each(|(name, _)| buffer.push(name, false));
            return;
        }
        let mut normal = std::mem::take(&mut buffer.normal);
        normalise(text, &mut normal);
        // Where the word before ended, if a word of its script may follow without a blank.
        let mut open = None;
        for (start, word) in normal.unicode_word_indices() {
            let unspaced = word.chars().next().is_some_and(is_unspaced);
            let joined = unspaced && open == Some(start);
            open = None;
            if self.stop_words.contains(word) {
                continue;
            }
            match &self.stemmer {
                None => buffer.push(word, joined),
                Some(stemmer) => {
                    let stem = stemmer.stem(word);
                    buffer.push(if stem.is_empty() { word } else { &stem }, joined);
                }
            }
            open = unspaced.then_some(start + word.len());
        }
        buffer.normal = normal;
    }

    /// The features of a text, less stop words.
    pub(super) fn features<'a>(&'a self, text: &'a str) -> impl Iterator<Item = (&'a str, f32)> {
        features(text).filter(|(name, _)| !self.stop_words.contains(*name))
    }

    fn visit(&self, buffer: &mut Buffer, mut visit: impl FnMut(&str) -> Result<()>) -> Result<()> {
        let Buffer { text, words, starts, .. } = buffer;
        let (min, max) = match self.options.grams {
            Grams::Features => (1, 1),
            Grams::Words | Grams::Chars => self.options.sizes,
        };
        if self.options.grams != Grams::Chars {
            for (first, word) in words.iter().enumerate() {
                for last in &words[(first + min - 1).min(words.len())..words.len().min(first + max)]
                {
                    visit(&text[word.start..last.end])?;
                }
            }
            return Ok(());
        }
        text.push(' ');
        let mut at = 0;
        while at < words.len() {
            let first = at;
            at += 1;
            while at < words.len() && words[at].joined {
                at += 1;
            }
            // A blank stands on both sides of a run.
            let edge = usize::from(self.options.edges);
            let (start, end) = (words[first].start - edge, words[at - 1].end + edge);
            starts.clear();
            starts.extend(text[start..end].char_indices().map(|(offset, _)| start + offset));
            starts.push(end);
            let n_chars = starts.len() - 1;
            if n_chars < min {
                visit(&text[start..end])?;
            }
            for first in 0..n_chars {
                for last in first + min..=n_chars.min(first + max) {
                    visit(&text[starts[first]..starts[last]])?;
                }
            }
        }
        Ok(())
    }
}

/// NFKC and lower case. Lower-casing may leave the normal form, so that is looked after again.
fn normalise(text: &str, normal: &mut String) {
    normal.clear();
    if text.is_ascii() {
        normal.push_str(text);
        normal.make_ascii_lowercase();
        return;
    }
    let lower = if is_nfkc_quick(text.chars()) == IsNormalized::Yes {
        text.to_lowercase()
    } else {
        text.nfkc().collect::<String>().to_lowercase()
    };
    if is_nfkc_quick(lower.chars()) == IsNormalized::Yes {
        *normal = lower;
    } else {
        normal.extend(lower.nfkc());
    }
}

/// Whether a character is of a script that is written without blanks between words.
fn is_unspaced(c: char) -> bool {
    matches!(u32::from(c),
        0x0E00..=0x0EFF // Thai, Lao
        | 0x1000..=0x109F | 0xA9E0..=0xA9FF | 0xAA60..=0xAA7F // Burmese
        | 0x1780..=0x17FF // Khmer
        | 0x3005..=0x3007 // ideographic iteration mark and zero
        | 0x3040..=0x312F | 0x31A0..=0x31BF | 0x31F0..=0x31FF // Hiragana, Katakana, Bopomofo
        | 0x3400..=0x4DBF | 0x4E00..=0x9FFF | 0xF900..=0xFAFF // Han
        | 0x1_B000..=0x1_B16F // older Kana
        | 0x2_0000..=0x3_FFFF) // Han
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tokenizer(grams: Grams, sizes: (usize, usize), edges: bool) -> Tokenizer {
        Tokenizer::new(TokenizerOptions { grams, sizes, edges, ..TokenizerOptions::default() })
            .unwrap()
    }

    #[test]
    fn words_and_their_runs() {
        let words = tokenizer(Grams::Words, (1, 2), true);
        assert_eq!(
            words.words("The Ｆｏｘ's 2nd_box, or: 3.5!"),
            ["the", "fox's", "2nd_box", "or", "3.5"]
        );
        assert_eq!(words.grams("A fox; ran"), ["a", "a fox", "fox", "fox ran", "ran"]);
        assert!(words.grams("").is_empty() && words.grams("... \n !?").is_empty());
        assert!(tokenizer(Grams::Words, (2, 64), true).grams("fox").is_empty());
        assert_eq!(tokenizer(Grams::Words, (2, 64), true).grams("a b c"), ["a b", "a b c", "b c"]);
    }

    #[test]
    fn characters_within_words() {
        let chars = tokenizer(Grams::Chars, (2, 3), false);
        assert_eq!(chars.grams("Fox a"), ["fo", "fox", "ox", "a"]);
        let edges = tokenizer(Grams::Chars, (4, 5), true);
        assert_eq!(edges.grams("fox a"), [" fox", " fox ", "fox ", " a "]);
    }

    #[test]
    fn scripts() {
        let words = tokenizer(Grams::Words, (1, 1), true);
        assert_eq!(words.words("Красная ЛИСА"), ["красная", "лиса"]);
        assert_eq!(words.words("Η κόκκινη ΑΛΕΠΟΥΣ"), ["η", "κόκκινη", "αλεπους"]);
        assert_eq!(words.words("الثعلب الأحمر"), ["الثعلب", "الأحمر"]);
        assert_eq!(words.words("हिन्दी भाषा"), ["हिन्दी", "भाषा"]);
        assert_eq!(words.words("한국어 텍스트"), ["한국어", "텍스트"]);

        let pairs = tokenizer(Grams::Words, (1, 2), true);
        assert_eq!(pairs.grams("红狐狸"), ["红", "红狐", "狐", "狐狸", "狸"]);
        assert_eq!(pairs.grams("红。狐"), ["红", "红 狐", "狐"]);
        assert_eq!(
            pairs.grams("東京ﾀﾜｰへ"),
            ["東", "東京", "京", "京タワー", "タワー", "タワーへ", "へ"]
        );
        assert_eq!(pairs.grams("GPU版"), ["gpu", "gpu 版", "版"]);
        let chars = tokenizer(Grams::Chars, (2, 2), false);
        assert_eq!(chars.grams("红狐狸"), ["红狐", "狐狸"]);
        assert_eq!(chars.grams("红"), ["红"]);
        let thai = chars.grams("ภาษาไทย");
        assert_eq!((thai.len(), thai[0].as_str()), (6, "ภา"));
    }

    #[test]
    fn options() {
        let with = |options| Tokenizer::new(options).unwrap();
        let stems = with(TokenizerOptions {
            stemmer: Some("english".into()),
            stop_words: vec!["the".into()],
            sizes: (1, 2),
            ..TokenizerOptions::default()
        });
        assert_eq!(stems.grams("Foxes of THE boxes"), ["fox", "fox of", "of", "of box", "box"]);
        let short = with(TokenizerOptions { max_chars: Some(3), ..TokenizerOptions::default() });
        assert_eq!(short.words("éßa bc"), ["éßa"]);
        assert_eq!(short.words("ab"), ["ab"]);

        let message = |options| Tokenizer::new(options).unwrap_err().to_string();
        let sizes = |sizes| message(TokenizerOptions { sizes, ..TokenizerOptions::default() });
        let rule = "sizes must be two numbers in 1..=64, the smaller one first, not";
        assert_eq!(sizes((0, 1)), format!("{rule} (0, 1)"));
        assert_eq!(sizes((3, 2)), format!("{rule} (3, 2)"));
        assert_eq!(sizes((1, usize::MAX)), format!("{rule} (1, {})", usize::MAX));
        let stemmer = Some("klingon".to_owned());
        let unknown = message(TokenizerOptions { stemmer, ..TokenizerOptions::default() });
        assert!(unknown.starts_with("stemmer must be arabic, ") && unknown.ends_with("'klingon'"));
        let none = message(TokenizerOptions { max_chars: Some(0), ..TokenizerOptions::default() });
        assert_eq!(none, "max_chars must be at least 1, not 0");
    }

    #[test]
    fn words_of_the_caller_are_taken_as_they_are() {
        let lists = [vec!["New York", "", "THE"], vec![]];
        let mut buffer = Buffer::default();
        let mut seen = Vec::new();
        let words = tokenizer(Grams::Words, (1, 2), true);
        for at in 0..2 {
            words
                .for_each(Documents::Words(&lists), at, &mut buffer, |gram| {
                    seen.push(gram.to_owned());
                    Ok(())
                })
                .unwrap();
        }
        assert_eq!(seen, ["New York", "New York THE", "THE"]);
    }

    /// All windows of each size, the obvious way.
    fn slow(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
        let (min, max) = tokenizer.options.sizes;
        let mut grams = Vec::new();
        for word in tokenizer.words(text) {
            let word = if tokenizer.options.edges { format!(" {word} ") } else { word };
            let chars: Vec<char> = word.chars().collect();
            for size in min..=max {
                grams.extend(chars.windows(size).map(|window| window.iter().collect::<String>()));
            }
            if chars.len() < min {
                grams.push(word);
            }
        }
        grams.sort();
        grams
    }

    proptest! {
        #[test]
        fn no_text_panics_and_normal_form_is_final(text in any::<String>()) {
            for (language, _) in LANGUAGES {
                let stemmer = Some(language.to_owned());
                let options = TokenizerOptions { stemmer, ..TokenizerOptions::default() };
                let _ = Tokenizer::new(options).unwrap().words(&text);
            }
            let (mut once, mut twice) = (String::new(), String::new());
            normalise(&text, &mut once);
            normalise(&once, &mut twice);
            prop_assert_eq!(once, twice);
        }

        #[test]
        fn stemmers_take_any_word(
            word in prop_oneof![
                r"\p{Alphabetic}{1,12}",
                "[a-zäöüßåæøéèêçñığşőűășț']{1,16}",
                "[а-яё]{1,16}",
                "[α-ωάέήίόύώϊϋΐΰς]{1,16}",
                "[\u{0621}-\u{0652}]{1,12}",
                "[\u{0B85}-\u{0BCD}]{1,16}",
                "(quick|happ|ki|ies|ied|ying|fully|ational|izer|eux|ement|heit|ern|nya|lar){1,4}",
            ],
        ) {
            for (_, algorithm) in LANGUAGES {
                Stemmer::create(algorithm).stem(&word);
            }
        }

        #[test]
        fn character_grams_are_all_windows(
            text in "[a-céß' .]{0,20}", min in 1usize..5, more in 0usize..4, edges in any::<bool>(),
        ) {
            let tokenizer = tokenizer(Grams::Chars, (min, min + more), edges);
            let mut grams = tokenizer.grams(&text);
            grams.sort();
            prop_assert_eq!(grams, slow(&tokenizer, &text));
        }
    }
}
