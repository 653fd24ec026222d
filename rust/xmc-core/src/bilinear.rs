//! A sparse bilinear model of points and labels: `score = x' W z`, for labels never seen in training too.
//!
//! The method is that of `ZestXML` (*Generalized Zero-Shot Extreme Multi-label Learning*, KDD 2021),
//! written from its description. Points have features x (C columns), labels have features z (D columns):
//! words of their texts, and for labels with training points one feature of their own. A score is a sum over
//! pairs of a point feature and a label feature that W holds, so a label that nobody has used is scored by
//! its words. Three steps:
//!
//! 1. [`select_support`] chooses the pairs that W may hold. Of the pairs that occur in positives it
//!    keeps, for each point feature and for each label feature, the K best by
//!    `M / (alpha (p + q - M) + (1 - alpha) a b)`: M counts positive pairs (point, label) with both
//!    features, p and q those with the one and with the other, a and b are document frequencies among points
//!    and labels. alpha mixes the Jaccard index with the precision. Pairs of features with the same name
//!    (*direct*) are added. The values are a first W.
//! 2. A shortlist of each point: the labels of largest `u' z` with `u = W' x`, exact, by
//!    [`InvertedIndex::search_product`](crate::lexical::InvertedIndex::search_product).
//! 3. [`refine`] fits the weights of the support on the shortlists, as one linear problem:
//!    `min 1/2 |w|^2 + cost * sum of loss(t f)`, with `f = x' W z + bias` and t = 1 for positives, else -1.
//!
//! [`Bilinear`] answers: it finds a shortlist by step 1's weights, scores it by step 3's, and adds the
//! *lexical term*, the inner product of the features that x and z share by name.
//!
//! [`TextModel`] is a model with its words and labels in one file, for programs without Python.
//!
//! **The solver** is dual coordinate descent (Hsieh et al., ICML 2008; for the logistic loss Yu et al., 2011).
//! The features of a pair, the products `x_c z_d` on the support, are never built. All pairs of a point
//! are solved together: with `u_d = sum over c of x_c w_cd` and `s_d = sum over c of x_c^2` (over the support),
//! the score of a label is `u' z`, its squared length is `sum of s_d z_d^2`, and a step for it
//! moves u by `s_d z_d`. So a pair costs as much as its label has features, and W is read and written
//! once a point.
//!
//! **Threads.** The support is computed in parallel, products and searches too. The solver is sequential, point
//! after point in an order drawn from the seed. So results are the same bits for any number of threads.
//!
//! **Memory**, with N points, L labels, P pairs in the shortlists and n pairs in the support: `4 (N C' + P')`
//! for the transposed positions while the support is computed (C' features a point, P' positives), and 20 P +
//! 8 n + 4 D while weights are fitted, and up to 256 MiB more for the entries of W that each point looks at: those that
//! do not fit in are looked for again in each pass, which gives the same bits.

mod file;
mod local;
mod model;
mod solve;
mod support;

pub use file::TextModel;
pub use model::{Bilinear, BilinearParts, Labels};
pub use solve::{Loss, RefineOptions, Refined, refine};
pub use support::{SupportOptions, select_support};

use crate::csr::CsrPattern;
use crate::error::{Error, Fault, Result};

fn parameter(name: &'static str, rule: &'static str, value: impl std::fmt::Display) -> Error {
    Error::Parameter { name, rule, value: value.to_string() }
}

fn length(name: &str, what: &'static str, expected: usize, found: usize) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(Error::Length { name: name.to_owned(), what, expected, found })
}

/// Checks that the rows of a pattern ascend, each column once.
fn check_ascending(pattern: CsrPattern<'_>) -> Result<()> {
    for row in 0..pattern.n_rows() {
        if let Some(pair) = pattern.row(row).windows(2).find(|pair| pair[0] >= pair[1]) {
            return Err(Error::at_row(
                pattern.name(),
                row,
                Fault::NotAscending { column: pair[1] },
            ));
        }
    }
    Ok(())
}

/// Checks the point features that label features share a name with.
fn check_direct(direct: &[i32], n_features: usize) -> Result<()> {
    match direct.iter().position(|&c| c != -1 && c as u32 as usize >= n_features) {
        None => Ok(()),
        Some(at) => {
            let (label, n_labels) = (direct[at].to_string(), n_features);
            Err(Error::at_row(
                "direct",
                at,
                Fault::LabelOutOfRange { label, n_labels }.of_feature(),
            ))
        }
    }
}
