//! The C interface of [`xmc_core`]: `include/xmc.h`, which is generated from these sources, states
//! its rules once, at the top, and what each function does where it is declared.
//!
//! Every function runs in `status::guard`: an error leaves its message for `xmc_last_error`, a panic
//! becomes a status. Arrays from C become slices in `arrays`, after the checks that are possible.

#![expect(unsafe_code, reason = "pointers come from C; every block states why it may read them")]
#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]
#![expect(clippy::missing_safety_doc, reason = "the header states what callers owe, once for all")]
#![expect(clippy::doc_markdown, reason = "the comments are those of the C header")]
#![expect(non_camel_case_types, reason = "types have the names that C sees")]

mod arrays;
mod bilinear;
mod evaluator;
mod matrix;
mod pool;
mod status;
mod topk;

pub use arrays::{xmc_csr, xmc_csr_f64};
pub use bilinear::{
    xmc_bilinear, xmc_bilinear_free, xmc_bilinear_n_labels, xmc_bilinear_open, xmc_bilinear_score,
    xmc_bilinear_search,
};
pub use evaluator::{
    xmc_counts, xmc_empty_rows, xmc_evaluator, xmc_evaluator_counts, xmc_evaluator_free,
    xmc_evaluator_merge, xmc_evaluator_new, xmc_evaluator_row_values, xmc_evaluator_update_ids,
    xmc_evaluator_update_ids_i64, xmc_evaluator_update_scores, xmc_evaluator_update_scores_f64,
    xmc_evaluator_value, xmc_options, xmc_psndcg, xmc_ties,
};
pub use matrix::{
    xmc_inv_propensity, xmc_load_labels, xmc_load_pairs, xmc_matrix, xmc_matrix_free,
    xmc_matrix_view, xmc_save_labels,
};
pub use pool::{xmc_pool, xmc_pool_free, xmc_pool_new};
pub use status::{xmc_last_error, xmc_status, xmc_version};
pub use topk::{xmc_merge_topk, xmc_ranked, xmc_topk_csr, xmc_topk_csr_f64, xmc_topk_dense};
