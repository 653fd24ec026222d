//! Exact co-occurrence.

use std::str::FromStr;

use super::{Bipartite, check_top, push_best};
use crate::csr::Csr;
use crate::error::{Error, Result};
use crate::memory::zeroed;
use crate::rank::Score;

/// What the value of an edge from l to m is, of c points with both, n(l) and n(m) with each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Normalise {
    /// c.
    Count,
    /// c / sqrt(n(l) n(m)).
    #[default]
    Cosine,
    /// c / (n(l) + n(m) - c).
    Jaccard,
    /// c / n(l), the probability of m given l.
    Probability,
}

impl FromStr for Normalise {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Ok(match name {
            "count" => Self::Count,
            "cosine" => Self::Cosine,
            "jaccard" => Self::Jaccard,
            "probability" => Self::Probability,
            _ => {
                let rule = "must be 'count', 'cosine', 'jaccard' or 'probability'";
                let (name, value) = ("normalise", format!("'{name}'"));
                return Err(Error::Parameter { name, rule, value });
            }
        })
    }
}

impl Normalise {
    fn weight(self, both: u32, n: u32, m: u32) -> f32 {
        let (both, n, m) = (f64::from(both), f64::from(n), f64::from(m));
        let weight = match self {
            Self::Count => both,
            Self::Cosine => both / (n * m).sqrt(),
            Self::Jaccard => both / (n + m - both),
            Self::Probability => both / n,
        };
        weight as f32
    }
}

/// Which co-occurrences to keep; see [`Bipartite::co_occurrence`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoOccurrence {
    /// Neighbours kept for each label; of equal values the smaller labels.
    pub top: usize,
    /// The value of an edge.
    pub normalise: Normalise,
    /// Labels with fewer points in common are dropped.
    pub min_count: usize,
    /// Whether a label may be its own neighbour.
    pub keep_self: bool,
}

impl Default for CoOccurrence {
    fn default() -> Self {
        Self { top: 50, normalise: Normalise::default(), min_count: 1, keep_self: false }
    }
}

impl Bipartite {
    /// The labels that share most points with each label.
    ///
    /// Row after row, with a counter for each label in each thread (4 bytes) and nothing larger. A
    /// point with d labels costs d^2 steps: cap such points where they are many.
    ///
    /// # Errors
    /// [`Error::Parameter`] for `top = 0`; [`Error::Interrupted`] if `keep_going` turns false.
    pub fn co_occurrence(
        &self,
        options: &CoOccurrence,
        keep_going: &(dyn Fn() -> bool + Sync),
    ) -> Result<Csr> {
        check_top(options.top)?;
        self.neighbours(
            keep_going,
            || Ok((zeroed::<u32>(self.n_labels())?, Vec::new(), Vec::new())),
            |(both, touched, keys), block, part| {
                for label in block {
                    self.count_common(label, both, touched);
                    keys.clear();
                    for other in touched.drain(..) {
                        let common = std::mem::take(&mut both[other as usize]);
                        let is_self = other as usize == label;
                        if common as usize >= options.min_count && (options.keep_self || !is_self) {
                            let (n, m) = (self.counts[label], self.counts[other as usize]);
                            let weight = options.normalise.weight(common, n, m);
                            keys.push(weight.key(other as i32));
                        }
                    }
                    push_best(part, keys, options.top)?;
                }
                Ok(())
            },
        )
    }

    /// Counts the points that `label` shares with each other one.
    fn count_common(&self, label: usize, both: &mut [u32], touched: &mut Vec<u32>) {
        for &point in self.points.row(label) {
            for &other in self.labels.row(point as usize) {
                let count = &mut both[other as usize];
                if *count == 0 {
                    touched.push(other);
                }
                *count += 1;
            }
        }
    }
}
