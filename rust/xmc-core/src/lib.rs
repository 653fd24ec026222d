#![doc = include_str!("../README.md")]

#[cfg(feature = "lexical")]
pub mod bilinear;
mod bitmap;
mod bow;
mod csr;
mod error;
mod eval;
mod favour;
mod file;
mod frequencies;
mod graph;
mod ids;
#[cfg(feature = "json")]
mod json;
mod labels;
#[cfg(feature = "lexical")]
pub mod lexical;
mod memory;
mod metric;
#[cfg(feature = "compression")]
mod npy;
#[cfg(feature = "compression")]
mod npz;
mod pairs;
mod positives;
mod postings;
mod propensity;
mod rank;
mod ranker;
mod repair;
mod resample;
mod rng;
mod rows;
mod sample;
mod stream;
mod text;
mod token;
mod topk;
mod tree;
mod votes;
mod write;
#[cfg(feature = "compression")]
mod zip;

pub use rayon;

pub use bow::{Bow, parse_bow, parse_bow_repaired};
pub use csr::{Csr, CsrPattern, CsrView, check_matrix};
pub use error::{ArchiveFault, Error, Fault, Place, Result};
pub use eval::{EmptyRows, Evaluator, GroupCounts, Grouping, Options, PsNdcg, RowValues, Ties};
pub use favour::{Favoured, Together, Worth, favour, gains_given};
pub use file::{
    load_bow, load_bow_repaired, load_bytes, load_labels, load_labels_repaired, load_pairs,
    save_bow, save_labels, save_pairs,
};
#[cfg(feature = "compression")]
pub use file::{load_scores, save_npz};
pub use frequencies::Frequencies;
pub use graph::{Bipartite, CoOccurrence, DegreeCaps, MAX_STEPS, Normalise, RandomWalk};
pub use ids::Id;
#[cfg(feature = "json")]
pub use json::{JsonColumn, JsonColumns, StringLists, Strings, json_columns};
pub use labels::{parse_labels, parse_labels_repaired};
pub use metric::{Kind, MAX_K, Metric};
#[cfg(feature = "compression")]
pub use npz::{Scores, Value, write_npz};
pub use pairs::{Pairs, parse_pairs};
pub use propensity::{inv_propensity, label_counts};
pub use rank::{Score, ranks_in_rows};
pub use ranker::{Candidates, Ranker, RankerOptions, RankerView, fit_ranker, score_ranker};
pub use repair::Repairs;
pub use resample::{Difference, Interval, Resampler, Terms, interval, p_value};
pub use sample::{NegativeSampler, Negatives, Shortlists, Source};
pub use text::ParseOptions;
pub use topk::{
    Ranked, TopK, drop_pairs_csr, drop_pairs_ids, drop_pairs_into, merge_topk, topk_csr, topk_dense,
};
pub use tree::{
    LabelTree, TREE_FLOOR, TreeArrays, TreeOptions, fit_tree, rank_tree, reach_tree, score_tree,
};
pub use votes::{Vectors, Votes, mix_votes, vote_sums};
pub use write::{write_bow, write_labels, write_pairs};
