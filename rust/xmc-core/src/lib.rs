#![doc = include_str!("../README.md")]

mod bitmap;
mod csr;
mod error;
mod eval;
mod file;
mod graph;
mod labels;
mod metric;
mod pairs;
mod positives;
mod propensity;
mod rank;
mod rng;
mod sample;
mod token;
mod topk;

pub use rayon;

pub use csr::{Csr, CsrPattern, CsrView, check_matrix};
pub use error::{Error, Fault, Place, Result};
pub use eval::{EmptyRows, Evaluator, Options, PsNdcg, RowValues};
pub use file::{load_labels, load_pairs, save_labels};
pub use graph::{Bipartite, CoOccurrence, DegreeCaps, MAX_STEPS, Normalise, RandomWalk};
pub use labels::{ParseOptions, parse_labels, write_labels};
pub use metric::{Kind, MAX_K, Metric};
pub use pairs::{Pairs, parse_pairs};
pub use propensity::{inv_propensity, label_counts};
pub use rank::Score;
pub use sample::{NegativeSampler, Negatives, Shortlists, Source};
pub use topk::{Ranked, TopK, merge_topk, topk_csr, topk_dense};
