#![doc = include_str!("../README.md")]

mod bitmap;
mod csr;
mod error;
mod eval;
mod file;
mod labels;
mod metric;
mod pairs;
mod propensity;
mod rank;
mod resample;
#[allow(dead_code)]
mod rng;
mod token;
mod topk;

pub use rayon;

pub use csr::{Csr, CsrPattern, CsrView, check_matrix};
pub use error::{Error, Fault, Place, Result};
pub use eval::{EmptyRows, Evaluator, GroupCounts, Grouping, Id, Options, PsNdcg, RowValues, Ties};
pub use file::{load_labels, load_pairs, save_labels};
pub use labels::{ParseOptions, parse_labels, write_labels};
pub use metric::{Kind, MAX_K, Metric};
pub use pairs::{Pairs, parse_pairs};
pub use propensity::{inv_propensity, label_counts};
pub use rank::Score;
pub use resample::{Difference, Interval, Resampler, Terms, interval, p_value};
pub use topk::{Ranked, TopK, merge_topk, topk_csr, topk_dense};
