//! Settings of an evaluator.

use std::str::FromStr;

use crate::error::{Error, Result};

/// What a row without positives means for P, nDCG, R and MRR. The PS metrics do not see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EmptyRows {
    /// It counts as 0.
    #[default]
    Zero,
    /// It is left out of the mean.
    Skip,
}

/// Which `PSnDCG` is meant where a row has fewer than k positives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PsNdcg {
    /// Row terms divided by the ideal of min(k, n) hits, as pyxclib does.
    #[default]
    Xclib,
    /// Row terms undivided, as the benchmark's Matlab scripts do.
    Matlab,
}

impl FromStr for EmptyRows {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "zero" => Ok(Self::Zero),
            "skip" => Ok(Self::Skip),
            _ => Err(choice("empty_rows", "must be 'zero' or 'skip'", text)),
        }
    }
}

impl FromStr for PsNdcg {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "xclib" => Ok(Self::Xclib),
            "matlab" => Ok(Self::Matlab),
            _ => Err(choice("psndcg", "must be 'xclib' or 'matlab'", text)),
        }
    }
}

fn choice(name: &'static str, rule: &'static str, text: &str) -> Error {
    Error::Parameter { name, rule, value: format!("'{text}'") }
}

/// Settings of an [`Evaluator`](super::Evaluator).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options {
    /// Inverse propensity of each label; needed by the PS metrics.
    pub inv_propensity: Option<Vec<f64>>,
    /// Treatment of rows without positives.
    pub empty_rows: EmptyRows,
    /// Kind of `PSnDCG`.
    pub psndcg: PsNdcg,
    /// Keep the value of each metric for each row.
    pub keep_rows: bool,
}
