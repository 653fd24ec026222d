//! Words as evidence: tf-idf rows of texts, label centroids, and exact search over sparse rows.
//!
//! A [`Tokenizer`] cuts texts into word or character n-grams, a [`Vocabulary`] numbers those that
//! are frequent enough, and [`Vocabulary::rows`] turns texts into weighted CSR rows.
//! [`join_rows`] puts several such matrices side by side, [`label_centroids`] averages the rows of
//! a label's points, an [`InvertedIndex`] finds the nearest rows, and [`pair_scores`] scores given
//! pairs, and [`mix_rows`] adds up weighted rows. Rows of features that come from elsewhere are read and
//! written as texts: [`features()`], [`feature_text`].
//! The votes of the nearest points are summed by [`vote_sums`](crate::vote_sums).
//!
//! ```
//! use xmc_core::lexical::{Cut, Documents, InvertedIndex, Tokenizer, Vocabulary, Weights};
//!
//! fn main() -> xmc_core::Result<()> {
//!     let tokenizer = Tokenizer::default();
//!     let texts = Documents::Texts(&["a red fox", "a red box", "two boats"]);
//!     let vocabulary = Vocabulary::build(&tokenizer, texts, &Cut::default(), &|| true)?;
//!     let idf = vocabulary.smooth_idf();
//!     let weights = Weights { idf: Some(&idf), ..Weights::default() };
//!     let rows = vocabulary.rows(&tokenizer, texts, &weights, &|| true)?;
//!
//!     let index = InvertedIndex::new(rows.view("rows")?)?;
//!     let query = vocabulary.rows(&tokenizer, Documents::Texts(&["RED fox"]), &weights, &|| true)?;
//!     let top = index.search(query.view("queries")?, 3, None, None, None, None)?;
//!     assert_eq!(top.ids, [0, 1, -1]); // the third text shares no word with the query
//!     Ok(())
//! }
//! ```
//!
//! # Memory
//!
//! With V tokens of B bytes on average, N entries in the rows and T threads:
//!
//! | | bytes |
//! |---|---|
//! | building a vocabulary | T × (distinct tokens before the cut) × (B + 21), at most |
//! | a vocabulary | V × (B + 21) |
//! | rows | 8 × N + 8 × rows; T × 64 blocks of 256 rows more while they are computed |
//! | an inverted index | 8 × N + 9 × V + 4 × rows; (T + 2) × V × 8 more while it is built |
//! | an inverted index of blocks ([`IndexBuilder`]) | the same; each block may be freed when it was added |
//! | a search | 8 × (indexed rows) for each thread, which keeps up to 8 MiB of it between searches, and the result |
//! | label centroids | 8 × V for each thread, and the result |
//! | scores of pairs | 8,192 + 32 to 64 × (terms of the query) for each thread, (rows) / 8, and the result |

mod bounds;
mod build;
mod centroids;
mod features;
mod interner;
mod join;
mod lazy;
mod mix;
mod pairs;
mod search;
mod sums;
mod tfidf;
mod tokens;
mod vocabulary;

use rayon::prelude::*;

use crate::csr::CsrView;
use crate::error::{Error, Fault, Result};
pub use build::IndexBuilder;
pub use centroids::label_centroids;
pub use features::{feature_text, features, not_a_feature};
pub use join::join_rows;
pub use lazy::LazyRows;
pub use mix::mix_rows;
pub use pairs::pair_scores;
pub use search::{Also, InvertedIndex, Voted};
pub(crate) use sums::Sums;
pub use tfidf::Weights;
pub use tokens::{Documents, Grams, MAX_SIZE, Tokenizer, TokenizerOptions};
pub use vocabulary::{Cut, Vocabulary};

/// Rows handed to a thread at a time.
pub(crate) const BLOCK_ROWS: usize = 256;

/// Checks that rows have ascending columns, each once, and finite values.
///
/// Sums then run in one order whichever way they are computed, so that a search and
/// [`pair_scores`] agree bit for bit.
pub(crate) fn check_rows(rows: CsrView<'_>) -> Result<()> {
    let check = |row: usize| {
        let (columns, values) = rows.row(row);
        fault_of(columns, values)
            .map_or(Ok(()), |fault| Err(Error::at_row(rows.name(), row, fault)))
    };
    let blocks: Vec<Result<()>> = (0..rows.n_rows().div_ceil(BLOCK_ROWS))
        .into_par_iter()
        .map(|block| {
            let first = block * BLOCK_ROWS;
            (first..(first + BLOCK_ROWS).min(rows.n_rows())).try_for_each(check)
        })
        .collect();
    blocks.into_iter().collect()
}

/// What is wrong with a row, if anything.
#[allow(clippy::needless_bitwise_bool)]
fn fault_of(columns: &[i32], values: &[f32]) -> Option<Fault> {
    // Without a branch for each entry, so that the common case is fast.
    let ascending = columns.windows(2).fold(true, |all, pair| all & (pair[0] < pair[1]));
    if ascending && values.iter().fold(true, |all, value| all & value.is_finite()) {
        return None;
    }
    if let Some(pair) = columns.windows(2).find(|pair| pair[0] >= pair[1]) {
        return Some(Fault::NotAscending { column: pair[1] });
    }
    let at = values.iter().position(|value| !value.is_finite())?;
    Some(Fault::FeatureNotFinite { feature: columns[at] })
}

/// Checks that two matrices have the same columns.
pub(crate) fn check_columns(rows: CsrView<'_>, n_features: usize) -> Result<()> {
    if rows.n_cols() == n_features {
        return Ok(());
    }
    let (expected, found) = (n_features, rows.n_cols());
    Err(Error::Length { name: rows.name().to_owned(), what: "features", expected, found })
}
