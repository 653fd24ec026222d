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

/// Which of two labels with equal scores ranks first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ties {
    /// The smaller id.
    #[default]
    Smaller,
    /// The larger id, as pyxclib does in rows of up to 15 entries.
    Larger,
}

/// Labels in groups, each of which is scored as if the truth held its labels only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grouping {
    /// What the groups are made by, for messages.
    pub name: String,
    /// Number of groups.
    pub n_groups: usize,
    /// Group of each label, -1 for none.
    pub of_label: Vec<i32>,
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

impl FromStr for Ties {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "smaller" => Ok(Self::Smaller),
            "larger" => Ok(Self::Larger),
            _ => Err(choice("ties", "must be 'smaller' or 'larger'", text)),
        }
    }
}

fn choice(name: &'static str, rule: &'static str, text: &str) -> Error {
    Error::Parameter { name, rule, value: format!("'{text}'") }
}

/// Settings of an [`Evaluator`](super::Evaluator).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options {
    /// Inverse propensity of each label; needed by the PS metrics. Computed with in multiples of a
    /// 2^-50th of the power of two above the largest.
    pub inv_propensity: Option<Vec<f64>>,
    /// Treatment of rows without positives.
    pub empty_rows: EmptyRows,
    /// Kind of `PSnDCG`.
    pub psndcg: PsNdcg,
    /// Order of equal scores.
    pub ties: Ties,
    /// Groups of labels to score one by one beside the whole.
    pub groupings: Vec<Grouping>,
    /// Keep the value of each metric for each row.
    pub keep_rows: bool,
}
