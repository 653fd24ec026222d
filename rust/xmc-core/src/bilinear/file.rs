//! One file with all that answers texts: words, weights and labels.
//!
//! Little-endian: the line `xmc bilinear 1`, the number of bytes that follow before the checksum, sections
//! (each its number of bytes and its bytes), and a checksum of 8 bytes over the sections.

use std::path::Path;

use bytemuck::Pod;

use super::{Bilinear, BilinearParts, Labels, Loss};
use crate::csr::{Csr, CsrPattern};
use crate::error::{Error, Result};
use crate::file::{load_bytes, replace};
use crate::lexical::{Documents, Grams, Tokenizer, TokenizerOptions, Vocabulary, Weights};
use crate::memory::with_room;
use crate::rng::mix;
use crate::text::ParseOptions;
use crate::topk::TopK;

const HEAD: &[u8] = b"xmc bilinear 1\n";
const N_SECTIONS: usize = 13;
/// Whole numbers of the first section.
const N_NUMBERS: usize = 11;

/// A bilinear model that answers texts, without anything else.
#[derive(Debug)]
pub struct TextModel {
    tokenizer: Tokenizer,
    vocabulary: Vocabulary,
    idf: Vec<f32>,
    sublinear: bool,
    model: Bilinear,
    labels: Labels,
}

impl TextModel {
    /// Puts a model together. Rows of texts are tf-idf with smooth idf, of unit length.
    ///
    /// # Errors
    /// [`Error::Length`] if the parts do not fit together.
    pub fn new(
        tokenizer: Tokenizer,
        vocabulary: Vocabulary,
        sublinear: bool,
        model: Bilinear,
        labels: Labels,
    ) -> Result<Self> {
        super::length("vocabulary", "tokens", model.n_features(), vocabulary.len())?;
        super::length("labels", "features", model.n_label_features(), labels.rows().n_cols)?;
        let idf = vocabulary.smooth_idf();
        Ok(Self { tokenizer, vocabulary, idf, sublinear, model, labels })
    }

    /// Number of labels; removed ones are never found.
    #[must_use]
    pub fn n_labels(&self) -> usize {
        self.labels.rows().n_rows()
    }

    /// The rows of texts.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn rows<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<Csr> {
        let weights = Weights { sublinear: self.sublinear, idf: Some(&self.idf), unit: true };
        self.vocabulary.rows(&self.tokenizer, Documents::Texts(texts), &weights, &|| true)
    }

    /// The k best labels of each text: [`Bilinear::search`].
    ///
    /// # Errors
    /// As there.
    pub fn search<S: AsRef<str> + Sync>(&self, texts: &[S], k: usize) -> Result<TopK> {
        let rows = self.rows(texts)?;
        self.model.search(rows.view("texts")?, &self.labels, k, None, None)
    }

    /// The scores of pairs (texts x labels), in their order: [`Bilinear::score`].
    ///
    /// # Errors
    /// As there.
    pub fn score<S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
        pairs: CsrPattern<'_>,
    ) -> Result<Vec<f32>> {
        let rows = self.rows(texts)?;
        self.model.score(rows.view("texts")?, &self.labels, pairs)
    }

    /// Writes the file; it appears when it is complete.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::OutOfMemory`].
    pub fn save(&self, path: &Path) -> Result<()> {
        let body = self.body()?;
        let check = checksum(&body);
        replace(path, |out| {
            use std::io::Write as _;
            out.write_all(HEAD)?;
            out.write_all(&(body.len() as u64).to_le_bytes())?;
            out.write_all(&body)?;
            out.write_all(&check.to_le_bytes())
        })
    }

    fn body(&self) -> Result<Vec<u8>> {
        let options = self.tokenizer.options();
        let parts = self.model.parts();
        let labels = self.labels.rows();
        let numbers: [u64; N_NUMBERS] = [
            options.sizes.0 as u64,
            options.sizes.1 as u64,
            match options.grams {
                Grams::Words => 0,
                Grams::Chars => 1,
                Grams::Features => 2,
            },
            u64::from(options.edges),
            options.max_chars.map_or(0, |n| n as u64),
            self.vocabulary.n_texts() as u64,
            u64::from(self.sublinear),
            u64::from(parts.loss == Loss::Logistic),
            parts.shortlist as u64,
            u64::from(parts.bias.to_bits()),
            u64::from(parts.score_alpha.to_bits()),
        ];
        let words = self.vocabulary.to_text()?;
        let stemmer = options.stemmer.as_deref().unwrap_or_default();
        let stop_words = options.stop_words.join("\n");
        let sections: [&[u8]; N_SECTIONS] = [
            bytemuck::cast_slice(&numbers),
            stemmer.as_bytes(),
            stop_words.as_bytes(),
            words.as_bytes(),
            bytemuck::cast_slice(self.vocabulary.df()),
            bytemuck::cast_slice(&parts.support.indptr),
            bytemuck::cast_slice(&parts.support.indices),
            bytemuck::cast_slice(&parts.support.data),
            bytemuck::cast_slice(&parts.refined),
            bytemuck::cast_slice(&parts.direct),
            bytemuck::cast_slice(&labels.indptr),
            bytemuck::cast_slice(&labels.indices),
            bytemuck::cast_slice(&labels.data),
        ];
        let mut body = with_room(sections.iter().map(|section| 8 + section.len()).sum())?;
        for section in sections {
            body.extend_from_slice(&(section.len() as u64).to_le_bytes());
            body.extend_from_slice(section);
        }
        Ok(body)
    }

    /// Opens a file that [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Damaged`] if it is another file, or was changed or cut.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = load_bytes(path, ParseOptions::default())?;
        let damaged = |problem: &str| Error::Damaged {
            file: path.to_string_lossy().into_owned(),
            format: "bilinear model",
            what: problem.to_owned(),
        };
        let rest = bytes.strip_prefix(HEAD).ok_or_else(|| damaged("not a bilinear model"))?;
        let body = whole(rest).ok_or_else(|| damaged("cut, or its checksum differs"))?;
        Self::parse(path, body).map_err(|error| match error {
            Error::OutOfMemory { .. } => error,
            error => damaged(&error.to_string()),
        })
    }

    fn parse(path: &Path, body: &[u8]) -> Result<Self> {
        let mut rest = body;
        let mut next = || section(&mut rest).ok_or(Error::EmptyIndptr { name: "sections".into() });
        let numbers: Vec<u64> = self::numbers(next()?)?;
        let Ok(numbers) = <[u64; N_NUMBERS]>::try_from(numbers) else {
            return Err(super::parameter("numbers", "must be 11", "another number"));
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stemmer, stop_words) = (text(next()?), text(next()?));
        let options = TokenizerOptions {
            grams: match numbers[2] {
                1 => Grams::Chars,
                2 => Grams::Features,
                _ => Grams::Words,
            },
            sizes: (numbers[0] as usize, numbers[1] as usize),
            edges: numbers[3] == 1,
            stemmer: (!stemmer.is_empty()).then_some(stemmer),
            stop_words: stop_words.split('\n').filter(|w| !w.is_empty()).map(Into::into).collect(),
            max_chars: (numbers[4] > 0).then_some(numbers[4] as usize),
        };
        let words = next()?;
        let df: Vec<i64> = self::numbers(next()?)?;
        let vocabulary =
            Vocabulary::parse(&path.to_string_lossy(), words, &df, numbers[5] as usize)?;
        let support = (self::numbers(next()?)?, self::numbers(next()?)?, self::numbers(next()?)?);
        let (refined, direct): (_, Vec<i32>) = (self::numbers(next()?)?, self::numbers(next()?)?);
        let n_cols = direct.len();
        let csr = |(indptr, indices, data)| Csr { n_cols, indptr, indices, data };
        let model = Bilinear::new(BilinearParts {
            support: csr(support),
            refined,
            bias: f32::from_bits(numbers[9] as u32),
            direct,
            loss: if numbers[7] == 1 { Loss::Logistic } else { Loss::SquaredHinge },
            score_alpha: f32::from_bits(numbers[10] as u32),
            shortlist: numbers[8] as usize,
        })?;
        let rows = (self::numbers(next()?)?, self::numbers(next()?)?, self::numbers(next()?)?);
        let labels = Labels::new(csr(rows))?;
        Self::new(Tokenizer::new(options)?, vocabulary, numbers[6] == 1, model, labels)
    }
}

/// The sections, if the length and the checksum around them are right.
fn whole(rest: &[u8]) -> Option<&[u8]> {
    let (length, rest) = rest.split_first_chunk::<8>()?;
    let (body, check) =
        rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let check: [u8; 8] = check.try_into().ok()?;
    (checksum(body) == u64::from_le_bytes(check)).then_some(body)
}

/// The next section.
fn section<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<8>()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let (section, after) = after.split_at_checked(length)?;
    *rest = after;
    Some(section)
}

/// The numbers of a section, which may stand anywhere in memory.
fn numbers<T: Pod>(bytes: &[u8]) -> Result<Vec<T>> {
    let size = size_of::<T>();
    super::length("section", "bytes", bytes.len() / size * size, bytes.len())?;
    let mut numbers = with_room(bytes.len() / size)?;
    numbers.extend(bytes.chunks_exact(size).map(bytemuck::pod_read_unaligned::<T>));
    Ok(numbers)
}

/// Each word of 8 bytes changes every bit of what follows.
fn checksum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(8);
    let tail = words.remainder();
    let sum = words.map(bytemuck::pod_read_unaligned::<u64>);
    let sum = sum.fold(0x786d_6321, |sum, word| mix(sum ^ u64::from_le(word)));
    tail.iter().fold(mix(sum ^ bytes.len() as u64), |sum, &byte| mix(sum ^ u64::from(byte)))
}
