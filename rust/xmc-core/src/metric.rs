//! Names of metrics.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Largest k of a metric. Memory for sums grows with k, so a typo must not allocate gigabytes.
pub const MAX_K: usize = 1 << 16;

/// A family of metrics; the crate documentation gives the formulas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Precision.
    P,
    /// Normalised discounted cumulative gain.
    Ndcg,
    /// Recall.
    R,
    /// Mean reciprocal rank of the first hit.
    Mrr,
    /// Propensity-scored precision.
    Psp,
    /// Propensity-scored nDCG.
    PsNdcg,
    /// Propensity-scored recall.
    Psr,
    /// Share of rows with a hit.
    Success,
    /// Share of all labels that are a hit in some row.
    Coverage,
    /// Precision of each label, averaged over all labels.
    MacroP,
    /// Recall of each label, averaged over all labels.
    MacroR,
    /// Harmonic mean of both of each label, averaged over all labels.
    MacroF,
}

impl Kind {
    /// Every kind, in the order in which messages list them.
    pub const ALL: [Self; 12] = [
        Self::P,
        Self::Ndcg,
        Self::R,
        Self::Mrr,
        Self::Psp,
        Self::PsNdcg,
        Self::Psr,
        Self::Success,
        Self::Coverage,
        Self::MacroP,
        Self::MacroR,
        Self::MacroF,
    ];

    /// The name before the `@`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::P => "P",
            Self::Ndcg => "nDCG",
            Self::R => "R",
            Self::Mrr => "MRR",
            Self::Psp => "PSP",
            Self::PsNdcg => "PSnDCG",
            Self::Psr => "PSR",
            Self::Success => "Success",
            Self::Coverage => "Coverage",
            Self::MacroP => "macroP",
            Self::MacroR => "macroR",
            Self::MacroF => "macroF",
        }
    }

    /// Whether the metric is a ratio of sums weighted by inverse propensities.
    #[must_use]
    pub const fn is_weighted(self) -> bool {
        matches!(self, Self::Psp | Self::PsNdcg | Self::Psr)
    }

    /// Whether the metric is a mean over labels: it has no value for a row.
    #[must_use]
    pub const fn is_label_wise(self) -> bool {
        matches!(self, Self::Coverage | Self::MacroP | Self::MacroR | Self::MacroF)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A metric at a cut, written `nDCG@5`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Metric {
    kind: Kind,
    k: usize,
}

impl Metric {
    /// The metric `kind@k`.
    ///
    /// # Errors
    /// [`Error::BadK`] if `k` is 0 or larger than [`MAX_K`].
    pub fn new(kind: Kind, k: usize) -> Result<Self> {
        if (1..=MAX_K).contains(&k) {
            Ok(Self { kind, k })
        } else {
            Err(Error::BadK { name: format!("{kind}@{k}") })
        }
    }

    /// The family.
    #[must_use]
    pub const fn kind(self) -> Kind {
        self.kind
    }

    /// The cut, at least 1.
    #[must_use]
    pub const fn k(self) -> usize {
        self.k
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.kind, self.k)
    }
}

impl FromStr for Metric {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let unknown = || Error::UnknownMetric { name: name.to_owned() };
        let (family, k) = name.split_once('@').ok_or_else(unknown)?;
        let kind = Kind::ALL.into_iter().find(|kind| kind.name() == family).ok_or_else(unknown)?;
        // One spelling for each metric: no sign, no leading zero.
        let plain = k.bytes().all(|byte| byte.is_ascii_digit());
        if !plain || k.is_empty() || (k.len() > 1 && k.starts_with('0')) {
            return Err(unknown());
        }
        let bad_k = || Error::BadK { name: name.to_owned() };
        Self::new(kind, k.parse().map_err(|_| bad_k())?).map_err(|_| bad_k())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for kind in Kind::ALL {
            let metric = Metric::new(kind, 10).unwrap();
            assert_eq!(metric.to_string().parse::<Metric>().unwrap(), metric);
        }
    }

    #[test]
    fn bad_names_are_told_apart() {
        for name in ["", "P", "P@", "P@+5", "P@05", "ndcg@5", "P @5", "P@5 ", "@5", "AUC@5"] {
            let message = name.parse::<Metric>().unwrap_err().to_string();
            assert_eq!(
                message,
                format!(
                    "unknown metric '{name}' (known: P@k, nDCG@k, R@k, MRR@k, PSP@k, PSnDCG@k, PSR@k, \
                     Success@k, Coverage@k, macroP@k, macroR@k, macroF@k)"
                )
            );
        }
        for name in ["P@0", "P@65537", "P@123456789012345678901"] {
            let message = name.parse::<Metric>().unwrap_err().to_string();
            assert_eq!(message, format!("k must be in 1..=65536 in metric '{name}'"));
        }
    }
}
