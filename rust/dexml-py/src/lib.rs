//! `dexml._rust`: the functions of `xmc-core` on numpy arrays.
//!
//! This crate converts and delegates; `python/dexml/_rust.pyi` is its face.

#![expect(clippy::needless_pass_by_value, reason = "PyO3 hands arguments over by value")]

mod arrays;
mod bilinear;
mod border;
mod evaluator;
mod favour;
mod features;
mod files;
mod lexical;
mod pool;
mod ranker;
mod ranking;
mod sampling;
mod statistics;
mod stop_words;
mod tree;
mod votes;

use pyo3::pymodule;

#[pymodule(gil_used = false)]
mod _rust {
    #[pymodule_export]
    use super::bilinear::{PyBilinear, refine_support, select_support};
    #[pymodule_export]
    use super::evaluator::{PyEvaluator, parse_metrics};
    #[pymodule_export]
    use super::favour::{favour, gains_given};
    #[pymodule_export]
    use super::features::{feature_texts, not_a_feature};
    #[pymodule_export]
    use super::files::{
        check_csr, inv_propensity, json_columns, label_counts, load_bow, load_bytes, load_labels,
        load_pairs, load_scores, plain_inv_propensity, plain_label_counts, save_bow, save_labels,
        save_npz, save_pairs,
    };
    #[pymodule_export]
    use super::lexical::{
        PyInvertedIndex, PyTokenizer, PyVocabulary, join_rows, label_centroids, mix_rows,
        pair_scores, vote_sums,
    };
    #[pymodule_export]
    use super::pool::{default_threads, set_default_threads};
    #[pymodule_export]
    use super::ranker::{fit_ranker, score_ranker};
    #[pymodule_export]
    use super::ranking::{
        drop_pairs_csr, drop_pairs_ids, merge_topk, ranks_in_rows, topk_csr, topk_dense,
    };
    #[pymodule_export]
    use super::sampling::{PyNegativeSampler, co_occurrence, random_walk};
    #[pymodule_export]
    use super::statistics::{PyResampler, interval, p_value};
    #[pymodule_export]
    use super::stop_words::{stop_word_languages, stop_words_of};
    #[pymodule_export]
    use super::tree::{PyLabelTree, fit_tree};
    #[pymodule_export]
    use super::votes::mix_votes;
}
