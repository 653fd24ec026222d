//! A small network that ranks the candidates of a query from their features.
//!
//! The score of a candidate with standardised features x is
//!
//! ```text
//! f(x) = w . x + v . gelu(W x + b)
//! ```
//!
//! with a few hidden units, or none, which leaves the linear part. Features are standardised inside:
//! less their mean, over their deviation, clipped to +-5. GELU is the tanh form.
//!
//! **Loss.** Decoupled softmax over the candidates of a query, temperature 1. For query q with P
//! positives and N negatives among its candidates
//!
//! ```text
//! loss(q) = 1/|P| * sum over p in P of weight(p) * ln(1 + sum over n in N of exp(f(n) - f(p)))
//! ```
//!
//! A step takes the mean of loss(q) over its queries. A query without a positive or without a
//! negative is left out, because its loss is constant: it does not count in a step. Its features still
//! count for mean and deviation. Where some queries are chosen, the others count for nothing.
//!
//! **Training.** `AdamW` (betas 0.9 and 0.999, epsilon 1e-8, decay on every parameter) with a learning
//! rate that falls linearly to 0 over all steps. w and v start at 0, W and b even in +-1/sqrt(F).
//! Members of an ensemble differ in W, b and the order of queries; their scores are averaged.
//!
//! **Order of sums.** Scores and the gradient of one query are `f32`, summed over four candidates at a
//! time, in order. The loss, the sum over the queries of a step (in their order) and `AdamW` are `f64`.
//! A thread works on whole members and queries, so the number of threads does not change the result.

mod lessons;
mod model;
mod network;
mod standard;
mod train;

use std::ops::Range;

use rayon::prelude::*;

use crate::error::{Error, Fault, Result};
use crate::memory::zeroed;
pub use model::{Ranker, RankerView};
use network::{Network, TILE};
use standard::Standard;

/// Pairs that a thread scores at a time.
const PAIRS_PER_TASK: usize = 1024;

const MAX_MEMBERS: usize = 1024;

/// The candidates of some queries.
#[derive(Debug, Clone, Copy)]
pub struct Candidates<'a> {
    /// Features of each pair of query and candidate, row-major, `n_pairs * n_features`.
    pub features: &'a [f32],
    /// Features a pair.
    pub n_features: usize,
    /// The pairs of query q are `indptr[q]..indptr[q + 1]`; from 0 to `n_pairs`.
    pub indptr: &'a [i64],
    /// Whether the candidate is a positive of its query, `n_pairs`.
    pub positive: &'a [bool],
    /// What the loss term of a positive is multiplied by, `n_pairs`; negatives' are not read.
    pub weights: Option<&'a [f32]>,
    /// The queries to learn from, which mean and deviation are of as well; `None`: all. One that is named
    /// twice counts twice.
    pub queries: Option<&'a [i64]>,
}

/// How a ranker is trained.
#[derive(Debug, Clone, PartialEq)]
pub struct RankerOptions {
    /// Hidden units; 0 for the linear ranker.
    pub hidden: usize,
    /// Networks whose scores are averaged; at most 1024.
    pub n_members: usize,
    /// Passes over the queries; 0 returns the networks as they start.
    pub epochs: usize,
    /// Queries a step.
    pub batch: usize,
    /// Learning rate of the first step; it falls linearly to 0.
    pub learning_rate: f64,
    /// Decoupled weight decay.
    pub decay: f64,
    /// Whether negative weights are set to 0 after each step; only without hidden units.
    pub non_negative: bool,
    /// Whether, after the first epoch, negatives that hardly pull are taken by chance, a few at a time
    /// and so much heavier: nearly the same expected gradient for half of the time. Else all are
    /// taken in every epoch.
    pub sampled: bool,
    /// Seed of the starting weights and of the order of queries.
    pub seed: u64,
}

impl Default for RankerOptions {
    fn default() -> Self {
        Self {
            hidden: 16,
            n_members: 1,
            epochs: 15,
            batch: 32,
            learning_rate: 0.01,
            decay: 0.1,
            non_negative: false,
            sampled: false,
            seed: 0,
        }
    }
}

impl RankerOptions {
    fn check(&self) -> Result<()> {
        if !(1..=MAX_MEMBERS).contains(&self.n_members) {
            return Err(parameter("n_members", "must be in 1..=1024", self.n_members));
        }
        if self.batch == 0 {
            return Err(parameter("batch", "must be at least 1", 0));
        }
        let rate = self.learning_rate;
        if !(rate.is_finite() && rate > 0.0) {
            return Err(parameter("learning_rate", "must be finite and above 0", rate));
        }
        if !(self.decay.is_finite() && self.decay >= 0.0) {
            return Err(parameter("decay", "must be finite and at least 0", self.decay));
        }
        if self.non_negative && self.hidden > 0 {
            return Err(parameter("hidden", "must be 0 for non-negative weights", self.hidden));
        }
        Ok(())
    }
}

impl Candidates<'_> {
    /// The pairs of each query to learn from.
    fn spans(&self) -> impl Iterator<Item = Range<usize>> + Clone + '_ {
        let all = if self.queries.is_none() { self.indptr.len() - 1 } else { 0 };
        let chosen = self.queries.unwrap_or_default().iter().map(|&query| query as usize);
        let queries = (0..all).chain(chosen);
        queries.map(|query| self.indptr[query] as usize..self.indptr[query + 1] as usize)
    }

    /// Checks shapes, row pointers, numbers of queries and weights; features are checked where they are read.
    fn check(&self) -> Result<()> {
        let n_pairs = self.positive.len();
        check_features(self.features, self.n_features, n_pairs)?;
        let Some((&first, &last)) = self.indptr.first().zip(self.indptr.last()) else {
            return Err(Error::EmptyIndptr { name: "candidates".to_owned() });
        };
        let falls = self.indptr.windows(2).position(|pair| pair[0] > pair[1]);
        if let Some(row) = falls.or((first != 0).then_some(0)) {
            return Err(Error::at_row("candidates", row, Fault::BadIndptr { n_entries: n_pairs }));
        }
        check_length("positive", "pairs", last as usize, n_pairs)?;
        let known = 0..self.indptr.len() as i64 - 1;
        let mut queries = self.queries.unwrap_or_default().iter();
        if let Some(unknown) = queries.find(|query| !known.contains(query)) {
            return Err(parameter("queries", "must be queries of the candidates", unknown));
        }
        let Some(weights) = self.weights else { return Ok(()) };
        check_length("weights", "pairs", n_pairs, weights.len())?;
        let bad = |pair: &usize| !(weights[*pair].is_finite() && weights[*pair] > 0.0);
        match (0..n_pairs).filter(|&pair| self.positive[pair]).find(bad) {
            Some(pair) => {
                let value = format!("{} (pair {pair})", weights[pair]);
                Err(Error::Parameter { name: "weights", rule: "must be finite and above 0", value })
            }
            None => Ok(()),
        }
    }
}

/// Trains a ranker. `keep_going` is asked before each step.
///
/// # Errors
/// [`Error::Length`] if shapes disagree; [`Error::Content`] for row pointers that do not ascend from 0
/// and for a feature that is not finite; [`Error::Parameter`] for an option out of range, a weight
/// that is not finite and positive, a query to learn from that there is not, none of them with both a
/// positive and a negative, or a learning rate that makes the network overflow; [`Error::OutOfMemory`]; [`Error::Interrupted`].
pub fn fit_ranker(
    candidates: &Candidates<'_>,
    options: &RankerOptions,
    keep_going: &(dyn Fn() -> bool + Sync),
) -> Result<Ranker> {
    options.check()?;
    candidates.check()?;
    let standard = Standard::of(candidates.features, candidates.n_features, candidates.spans())?;
    let lessons = lessons::Lessons::new(candidates, &standard)?;
    let members: Vec<Result<Network>> = (0..options.n_members)
        .into_par_iter()
        .map(|member| train::member(&lessons, options, member as u64, keep_going))
        .collect();
    let members = members.into_iter().collect::<Result<Vec<_>>>()?;
    Ranker::new(standard, options.hidden, &members)
}

/// The scores of pairs, `features.len() / n_features` of them: the mean of the members' outputs.
///
/// The score of a pair depends on its features alone, not on the pairs around it.
///
/// # Errors
/// [`Error::Length`] if `features` is not a whole number of rows; [`Error::Content`] for a feature that
/// is not finite; [`Error::OutOfMemory`].
pub fn score_ranker(ranker: &RankerView<'_>, features: &[f32]) -> Result<Vec<f32>> {
    let n_features = ranker.n_features();
    let n_pairs = features.len() / n_features;
    check_features(features, n_features, n_pairs)?;
    let members = ranker.networks()?;
    let standard = ranker.standard();
    let mut scores = zeroed::<f32>(n_pairs)?;
    let tasks: Vec<Result<()>> = scores
        .par_chunks_mut(PAIRS_PER_TASK)
        .enumerate()
        .map(|(task, scores)| {
            let mut tile = zeroed::<[f32; TILE]>(n_features)?;
            let start = task * PAIRS_PER_TASK;
            standard::check_finite(features, n_features, start..start + scores.len())?;
            for (i, scores) in scores.chunks_mut(TILE).enumerate() {
                let first = start + i * TILE;
                standard.fill(&mut tile, features, first..first + scores.len());
                let mut sums = [0f64; TILE];
                for member in &members {
                    let outputs = member.scores(&tile);
                    sums.iter_mut().zip(outputs).for_each(|(sum, s)| *sum += f64::from(s));
                }
                for (score, sum) in scores.iter_mut().zip(sums) {
                    *score = (sum / members.len() as f64) as f32;
                }
            }
            Ok(())
        })
        .collect();
    tasks.into_iter().collect::<Result<()>>()?;
    Ok(scores)
}

fn check_features(features: &[f32], n_features: usize, n_pairs: usize) -> Result<()> {
    if n_features == 0 {
        return Err(parameter("n_features", "must be at least 1", 0));
    }
    check_length("features", "values", n_pairs.saturating_mul(n_features), features.len())
}

fn check_length(name: &str, what: &'static str, expected: usize, found: usize) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(Error::Length { name: name.to_owned(), what, expected, found })
}

fn parameter(name: &'static str, rule: &'static str, value: impl std::fmt::Display) -> Error {
    Error::Parameter { name, rule, value: value.to_string() }
}
