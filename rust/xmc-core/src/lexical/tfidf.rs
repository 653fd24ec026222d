//! Texts as weighted rows.

use super::BLOCK_ROWS;
use super::tokens::{Buffer, Documents, Grams, Tokenizer};
use super::vocabulary::Vocabulary;
use crate::csr::{Csr, csr_from_parts};
use crate::error::{Error, Fault, Result};
use crate::memory::reserve;

/// How a token that occurs `tf` times in a text is weighted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weights<'a> {
    /// `1 + ln(tf)` instead of `tf`. The value of a feature stands for its `tf`; below 1 it is kept.
    pub sublinear: bool,
    /// A factor for each token, such as [`Vocabulary::smooth_idf`].
    pub idf: Option<&'a [f32]>,
    /// Whether rows are divided by their Euclidean length.
    pub unit: bool,
}

impl Default for Weights<'_> {
    /// `1 + ln(tf)` and rows of length 1, without idf.
    fn default() -> Self {
        Self { sublinear: true, idf: None, unit: true }
    }
}

impl Vocabulary {
    /// The smooth inverse document frequency of each token: `1 + ln((1 + n) / (1 + df))` for n texts.
    #[must_use]
    pub fn smooth_idf(&self) -> Vec<f32> {
        let n = self.n_texts() as f64;
        let idf = |&df: &i64| (1.0 + ((1.0 + n) / (1.0 + df as f64)).ln()) as f32;
        self.df().iter().map(idf).collect()
    }

    /// A row for each text, (texts x tokens), sorted by token. Unknown tokens are passed over; a text
    /// without a known token has an empty row.
    ///
    /// Weights are computed in `f64` and rounded once. `keep_going` is called before each block.
    ///
    /// # Errors
    /// [`Error::Length`] if `idf` is not a number for each token, [`Error::Content`] if that of a token
    /// that occurs is not finite;
    /// [`Error::Interrupted`]; [`Error::OutOfMemory`].
    pub fn rows<S: AsRef<str> + Sync>(
        &self,
        tokenizer: &Tokenizer,
        texts: Documents<'_, S>,
        weights: &Weights<'_>,
        keep_going: &(dyn Fn() -> bool + Sync),
    ) -> Result<Csr> {
        if let Some(idf) = weights.idf {
            if idf.len() != self.len() {
                let (name, what, found) = ("idf".to_owned(), "values", idf.len());
                return Err(Error::Length { name, what, expected: self.len(), found });
            }
        }
        if let (Grams::Features, Documents::Texts(texts)) = (tokenizer.options().grams, texts) {
            return self.feature_rows(tokenizer, texts, weights, keep_going);
        }
        let scratch = || Ok((Buffer::default(), Vec::new(), Vec::new()));
        csr_from_parts(
            (texts.len(), self.len()),
            BLOCK_ROWS,
            keep_going,
            scratch,
            |(buffer, ids, row), block, part| {
                for at in block {
                    ids.clear();
                    tokenizer.for_each(texts, at, buffer, |token| {
                        if let Some(id) = self.tokens.get(token) {
                            reserve(ids, 1)?;
                            ids.push(id);
                        }
                        Ok(())
                    })?;
                    weigh(ids, weights, row)?;
                    part.push_row(row.iter().map(|&(id, weight)| (id, weight as f32)))?;
                }
                Ok(())
            },
        )
    }
}

impl Vocabulary {
    /// As [`rows`](Self::rows), from the values of features. Values of one name are added up; what adds
    /// up to 0 is left out.
    fn feature_rows<S: AsRef<str> + Sync>(
        &self,
        tokenizer: &Tokenizer,
        texts: &[S],
        weights: &Weights<'_>,
        keep_going: &(dyn Fn() -> bool + Sync),
    ) -> Result<Csr> {
        let (shape, scratch) = ((texts.len(), self.len()), || Ok((Vec::new(), Vec::new())));
        csr_from_parts(shape, BLOCK_ROWS, keep_going, scratch, |(found, row), block, part| {
            for at in block {
                found.clear();
                for (name, value) in tokenizer.features(texts[at].as_ref()) {
                    if let Some(id) = self.tokens.get(name) {
                        reserve(found, 1)?;
                        found.push((id, value));
                    }
                }
                found.sort_by_key(|&(id, _): &(u32, f32)| id); // stable: sums are in text order
                row.clear();
                for run in found.chunk_by(|a, b| a.0 == b.0) {
                    let sum = run.iter().map(|&(_, value)| f64::from(value)).sum();
                    if sum != 0.0 {
                        row.push((run[0].0 as i32, weights.of(run[0].0, sum)?));
                    }
                }
                if weights.unit {
                    make_unit(row);
                }
                if let Some(&(feature, _)) = row.iter().find(|(_, w)| !(*w as f32).is_finite()) {
                    return Err(Error::at_row("texts", at, Fault::FeatureNotFinite { feature }));
                }
                part.push_row(row.iter().map(|&(id, weight)| (id, weight as f32)))?;
            }
            Ok(())
        })
    }
}

/// The weights of a text with these tokens.
fn weigh(ids: &mut [u32], weights: &Weights<'_>, row: &mut Vec<(i32, f64)>) -> Result<()> {
    ids.sort_unstable();
    row.clear();
    for run in ids.chunk_by(|a, b| a == b) {
        row.push((run[0] as i32, weights.of(run[0], run.len() as f64)?));
    }
    if weights.unit {
        make_unit(row);
    }
    Ok(())
}

impl Weights<'_> {
    /// The weight of a token that occurs `tf` times.
    fn of(&self, id: u32, tf: f64) -> Result<f64> {
        let tf = if self.sublinear && tf > 1.0 { 1.0 + tf.ln() } else { tf };
        let idf = self.idf.map_or(1.0, |idf| f64::from(idf[id as usize]));
        if !idf.is_finite() {
            let fault = Fault::FeatureNotFinite { feature: id as i32 };
            return Err(Error::at_row("idf", id as usize, fault));
        }
        Ok(tf * idf)
    }
}

/// Divides a row by its length, unless that is 0.
pub(super) fn make_unit(row: &mut [(i32, f64)]) {
    let norm = row.iter().map(|(_, weight)| weight * weight).sum::<f64>().sqrt();
    if norm > 0.0 {
        for (_, weight) in row {
            *weight /= norm;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::lexical::{Cut, TokenizerOptions};

    const TEXTS: [&str; 3] = ["b a a", "b c", ""];

    fn rows(weights: &Weights<'_>, texts: &[&str]) -> Result<Csr> {
        let tokenizer = Tokenizer::default();
        let fit = Documents::Texts(&TEXTS);
        let vocabulary = Vocabulary::build(&tokenizer, fit, &Cut::default(), &|| true)?;
        vocabulary.rows(&tokenizer, Documents::Texts(texts), weights, &|| true)
    }

    #[test]
    fn formulas() {
        // Ids: b 0, a 1, c 2.
        let plain = Weights { sublinear: false, idf: None, unit: false };
        let csr = rows(&plain, &["b x a b", "", "y"]).unwrap();
        assert_eq!(
            (csr.indptr, csr.indices, csr.data),
            (vec![0, 2, 2, 2], vec![0, 1], vec![2.0, 1.0])
        );
        let idf = [1.0, 2.0, 0.0];
        let weighted = Weights { sublinear: true, idf: Some(&idf), unit: false };
        let data = rows(&weighted, &["b a a c"]).unwrap().data;
        assert_eq!(data, [1.0, (2.0 * (1.0 + 2f64.ln())) as f32, 0.0]);
        let unit =
            rows(&Weights { sublinear: false, ..Weights::default() }, &["b a a c c"]).unwrap();
        assert_eq!(unit.data, [1.0 / 3.0, 2.0 / 3.0, 2.0 / 3.0]);
    }

    #[test]
    fn values_of_features_are_weights() {
        let options = TokenizerOptions { grams: Grams::Features, ..Default::default() };
        let tokenizer = Tokenizer::new(options).unwrap();
        let texts = ["7:0.5 3:2 7:1", "3:4 x 7:9", "5:1", "3:1 3:-1", ""];
        let cut = Cut { min_df: 2, ..Cut::default() };
        let fit = Documents::Texts(&texts);
        let vocabulary = Vocabulary::build(&tokenizer, fit, &cut, &|| true).unwrap();
        assert_eq!(vocabulary.to_text().unwrap(), "3\n"); // features end before x
        let all = Vocabulary::build(&tokenizer, fit, &Cut::default(), &|| true).unwrap();
        assert_eq!(all.to_text().unwrap(), "3\n5\n7\n");
        let rows = |weights| all.rows(&tokenizer, fit, &weights, &|| true).unwrap();
        let plain = rows(Weights { sublinear: false, idf: None, unit: false });
        assert_eq!(plain.indptr, [0, 2, 3, 4, 4, 4]);
        assert_eq!((plain.indices, plain.data), (vec![0, 2, 0, 1], vec![2.0, 1.5, 4.0, 1.0]));
        let idf = [2.0, 1.0, 1.0];
        let counts = rows(Weights { sublinear: true, idf: Some(&idf), unit: false });
        let ln = |x: f64| (1.0 + x.ln()) as f32;
        assert_eq!(counts.data, [2.0 * ln(2.0), ln(1.5), 2.0 * ln(4.0), 1.0]);
        assert_eq!(rows(Weights::default()).data[2..], [1.0, 1.0]);
        let huge = Documents::Texts(&["5:1", "3:3e38 3:3e38"]);
        let weights = Weights { sublinear: false, unit: false, ..Weights::default() };
        let error = all.rows(&tokenizer, huge, &weights, &|| true).unwrap_err().to_string();
        assert_eq!(error, "texts: row 1: value is not finite (feature 0)");
    }

    #[test]
    fn smooth_idf_of_known_frequencies() {
        let vocabulary = Vocabulary::parse("t", b"a\nb\n", &[3, 0], 3).unwrap();
        assert_eq!(vocabulary.smooth_idf(), [1.0, (1.0 + 4f64.ln()) as f32]);
    }

    #[test]
    fn errors() {
        let message = |idf: &[f32]| {
            rows(&Weights { idf: Some(idf), ..Weights::default() }, &["b a"])
                .unwrap_err()
                .to_string()
        };
        assert_eq!(message(&[1.0; 2]), "idf: 2 values, expected 3");
        let nan = message(&[1.0, f32::NAN, 1.0]);
        assert_eq!(nan, "idf: row 1: value is not finite (feature 1)");
    }
}
