// xmc: label files, exact top-k and evaluation metrics of extreme multi-label classification.
//
// Written by cbindgen from rust/xmc-capi/src; do not edit. Formulas and conventions: docs/metrics.md.
//
// Status      Functions that can fail return xmc_status; XMC_STATUS_OK is 0. The message of the last failure
//             of the thread is in xmc_last_error(). A failing call has changed nothing but the results it
//             was to write, which then hold anything. No call ends the process because of bad data, and no
//             panic or exception leaves the library. (Files are mapped: as with every mapped file, cutting
//             one short while it is loaded does end the process.)
// Checks      Null pointers, misaligned pointers, negative or wrong lengths, texts that are not UTF-8,
//             and arrays with bad content are errors. What cannot be checked is the caller's: a pointer that
//             is not null is valid for the length stated, a handle is used with its own functions until it
//             is freed, and arrays do not change during a call.
// Ownership   A handle (xmc_pool, xmc_matrix, xmc_evaluator) belongs to the caller from the call that
//             made it until its xmc_*_free. Arrays given to a call are borrowed for that call and not
//             written to, unless the function says that they receive results. Nothing is kept of them.
//             Only xmc_matrix_view lends memory of the library.
// Threads     Every function may be called from any thread, and handles may be shared: calls that change an
//             evaluator wait for each other. Only freeing a handle needs the caller to know that no
//             other call uses it. Work is done in the threads of the xmc_pool given; the library starts no others.
// fork()      A child process makes its own pools; inherited ones give an error. Matrices stay usable, and so do
//             evaluators that no other thread was using at the fork.
// Versions    Functions, fields and values are added, never changed. Structures that may grow start with
//             their size.


#ifndef XMC_H
#define XMC_H

#include <stddef.h>
#include <stdint.h>

// Initial values: the size, and defaults.
#define XMC_OPTIONS_INIT { sizeof(xmc_options), NULL, 0, 0, 0, 0, 0 }
#define XMC_COUNTS_INIT { sizeof(xmc_counts), 0, 0, 0, 0 }


// What a function returns. Numbers do not change their meaning; later versions may add some.
typedef enum {
    // The call did what it says.
    XMC_STATUS_OK = 0,
    // The operating system refused: a file, or a thread.
    XMC_STATUS_IO = 1,
    // Bad content of a file or an array; the message names the line or the row.
    XMC_STATUS_CONTENT = 2,
    // A bad argument: a null pointer, a wrong length, an unknown name, a number out of range.
    XMC_STATUS_PARAMETER = 3,
    // The metric has no value: there are no rows to average over, or its denominator is 0.
    XMC_STATUS_UNDEFINED = 4,
    // The system has no memory for a file or a result. A failing allocation elsewhere ends the
    // process, as in any Rust program.
    XMC_STATUS_MEMORY = 5,
    // A fault of this library; please report the message.
    XMC_STATUS_INTERNAL = 6,
} xmc_status;

// What a row without positives means for P, nDCG, R and MRR.
typedef enum {
    // It counts as 0.
    XMC_EMPTY_ROWS_ZERO = 0,
    // It is left out of the mean.
    XMC_EMPTY_ROWS_SKIP = 1,
} xmc_empty_rows;

// Which PSnDCG is meant where a row has fewer than k positives.
typedef enum {
    // Row terms divided by the ideal of min(k, n) hits, as pyxclib does.
    XMC_PSNDCG_XCLIB = 0,
    // Row terms undivided, as the benchmark's Matlab scripts do.
    XMC_PSNDCG_MATLAB = 1,
} xmc_psndcg;

// Which of two labels with equal scores ranks first.
typedef enum {
    // The smaller label.
    XMC_TIES_SMALLER = 0,
    // The larger label, as pyxclib does in rows of up to 15 entries.
    XMC_TIES_LARGER = 1,
} xmc_ties;

// A bilinear model (ZestXML) with its words and labels. It never changes: threads may share it.
typedef struct xmc_bilinear xmc_bilinear;

// Scores rankings against the truth, block of rows by block of rows, in constant memory.
//
// Every kind of metric asked for is summed at every k up to the largest. Values are fractions, the
// same to the last bit for any number of threads and however the rows are cut into updates.
typedef struct xmc_evaluator xmc_evaluator;

// A sparse matrix that the library has loaded and owns. It never changes.
typedef struct xmc_matrix xmc_matrix;

// Threads that calls compute in. Any number of threads may use one pool at the same time.
//
// The results are the same to the last bit for any number of threads.
//
// A pool belongs to the process that made it: after fork(), the child gets XMC_STATUS_PARAMETER from
// calls with an inherited pool, never a hang, and makes its own.
typedef struct xmc_pool xmc_pool;

// A sparse matrix in the caller's memory: the labels and values of row i are entries
// `indptr[i]` to `indptr[i + 1] - 1` of `indices` and `data`.
//
// A function that takes one borrows the arrays for the time of the call, checks them (row pointers
// do not decrease and stay within the entries, every label is in `0..n_cols`) and never writes to
// them. `indptr` may be a window of a larger one, so that taking some rows copies nothing.
typedef struct {
    // Rows: points.
    int64_t n_rows;
    // Columns: labels. Below 2^31.
    int64_t n_cols;
    // Length of `indices` and `data`.
    int64_t n_entries;
    // Row pointers, `n_rows + 1` of them.
    const int64_t *indptr;
    // Labels from 0.
    const int32_t *indices;
    // Values. May be null where only the positions count, as in `exclude`.
    const float *data;
} xmc_csr;

// Settings of an evaluator. Start from `xmc_options options = XMC_OPTIONS_INIT;`, in which all fields
// but `size` are 0 and stand for the defaults.
//
// `size` lets programs and libraries of different versions meet: fields that a program does not know
// keep their defaults, and a field that the library does not know must be 0.
typedef struct {
    // sizeof(xmc_options).
    size_t size;
    // Inverse propensity of each label, needed by the PS metrics; copied. Null: none.
    const double *inv_propensity;
    // Length of `inv_propensity`: the number of labels, or 0.
    int64_t n_inv_propensity;
    // A value of xmc_empty_rows.
    uint32_t empty_rows;
    // A value of xmc_psndcg.
    uint32_t psndcg;
    // 1 keeps the value of each metric for each row, for xmc_evaluator_row_values.
    uint32_t keep_rows;
    // A value of xmc_ties.
    uint32_t ties;
} xmc_options;

// xmc_csr with values of type double: scores that must not be rounded, since rounding makes ties.
typedef struct {
    // Rows: points.
    int64_t n_rows;
    // Columns: labels. Below 2^31.
    int64_t n_cols;
    // Length of `indices` and `data`.
    int64_t n_entries;
    // Row pointers, `n_rows + 1` of them.
    const int64_t *indptr;
    // Labels from 0.
    const int32_t *indices;
    // Values.
    const double *data;
} xmc_csr_f64;

// Numbers of rows and pairs that an evaluator has met. Start from `xmc_counts counts = XMC_COUNTS_INIT;`.
typedef struct {
    // sizeof(xmc_counts).
    size_t size;
    // Rows so far.
    int64_t n_rows;
    // Rows without positives.
    int64_t n_empty;
    // Entries dropped from rankings because their pair was excluded.
    int64_t n_excluded;
    // Positives whose pair was excluded, each a sure miss.
    int64_t n_excluded_positives;
} xmc_counts;

// Ranked rows in the caller's memory: row after row, best first, padded with label -1.
typedef struct {
    // Rows.
    int64_t n_rows;
    // Labels a row.
    int64_t width;
    // Labels, `n_rows * width`.
    const int32_t *ids;
    // Their scores, `n_rows * width`.
    const float *scores;
} xmc_ranked;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The message of the last call of this thread that failed: UTF-8, one line, never null.
//
// The library owns the text; it is valid until the next call on the same thread, and empty before the
// first failure. A call that succeeds does not clear it: look at the status first.
const char *xmc_last_error(void);

// The version of the library, such as "0.1.0". The text lives as long as the program.
const char *xmc_version(void);

// Starts `num_threads` threads, 1 to 1024; 0 means one for each available core.
//
// On success `*pool` is the caller's, to be ended with xmc_pool_free; on failure it is null.
xmc_status xmc_pool_new(int64_t num_threads, xmc_pool **pool);

// Ends a pool that no call is using, and waits for its threads, so that the library may be unloaded;
// null is fine. In a forked child this does nothing: the threads of an inherited pool are not there.
void xmc_pool_free(xmc_pool *pool);

// Loads label text: a line "rows labels", then a line of "label:value" tokens for each row.
//
// Rows come out sorted by label. A label without a value is an error if `missing_value` is null, else
// it gets the value there. Bad content gives XMC_STATUS_CONTENT and a message that names file and line.
//
// On success `*matrix` is the caller's, to be ended with xmc_matrix_free; on failure it is null.
xmc_status xmc_load_labels(const xmc_pool *pool,
                           const char *path,
                           const float *missing_value,
                           xmc_matrix **matrix);

// Loads filter pairs, a line "row label" each, for a matrix of the given shape. An empty file has none.
//
// The result holds each pair once; `n_repeated`, unless null, gets the number of repetitions dropped.
//
// On success `*matrix` is the caller's, to be ended with xmc_matrix_free; on failure it is null.
xmc_status xmc_load_pairs(const char *path,
                          int64_t n_rows,
                          int64_t n_labels,
                          xmc_matrix **matrix,
                          int64_t *n_repeated);

// Writes label text that xmc_load_labels reads back to the same matrix, and the same bytes each time.
//
// The file appears under its name when it is complete, in the place of an older one.
xmc_status xmc_save_labels(const char *path,
                           const xmc_csr *y);

// Fills `*view` with the arrays of a matrix; `data` is null for pairs.
//
// The matrix keeps the arrays: read them until xmc_matrix_free, and do not change or free them.
xmc_status xmc_matrix_view(const xmc_matrix *matrix, xmc_csr *view);

// Ends a matrix and every view of it; null is fine.
void xmc_matrix_free(xmc_matrix *matrix);

// Inverse propensities 1 + C (n_l + b)^-a with C = (ln N - 1) (b + 1)^a of a training matrix.
//
// n_l is the number of positives (values > 0) of label l, N the number of rows, at least 3. Usual
// constants: a = 0.55, b = 1.5; a = 0.6, b = 2.6 for the Amazon sets; a = 0.5, b = 0.4 for Wikipedia-500K.
// `weights` has room for `n_weights` numbers, which must be the number of labels.
xmc_status xmc_inv_propensity(const xmc_csr *y_train,
                              double a,
                              double b,
                              double *weights,
                              int64_t n_weights);

// Makes an evaluator for `n_labels` labels.
//
// `metrics` holds names separated by commas, such as "P@1,nDCG@5,PSP@5"; kinds are P, nDCG, R, MRR,
// PSP, PSnDCG, PSR, Success, Coverage, macroP, macroR, macroF, AP, RP; of the first k labels as a set:
// microP, microR, microF, sampleP, sampleR, sampleF, Hamming, Exact; of scores that are probabilities:
// Brier, NLL, ECE, ECEover, ECEunder, ACE. `options` may be null for the defaults.
//
// On success `*evaluator` is the caller's, to be ended with xmc_evaluator_free; on failure it is null.
xmc_status xmc_evaluator_new(int64_t n_labels,
                             const char *metrics,
                             const xmc_options *options,
                             xmc_evaluator **evaluator);

// Adds points with ranked labels.
//
// `y_true` holds the truth of `y_true->n_rows` points: a value > 0 is a positive. `y_pred` holds as many
// rows of `width` labels, row after row, best first, padded with -1 at the end of a row; `width` is at
// least the largest k. Pairs in `exclude`, if not null, leave the ranking before it is cut at k; its
// values are not looked at.
//
// A failing update changes nothing. Rows in its message count from the first row of this update.
xmc_status xmc_evaluator_update_ids(xmc_evaluator *evaluator,
                                    const xmc_pool *pool,
                                    const xmc_csr *y_true,
                                    const int32_t *y_pred,
                                    int64_t width,
                                    const xmc_csr *exclude);

// xmc_evaluator_update_ids for ids of 64 bits.
xmc_status xmc_evaluator_update_ids_i64(xmc_evaluator *evaluator,
                                        const xmc_pool *pool,
                                        const xmc_csr *y_true,
                                        const int64_t *y_pred,
                                        int64_t width,
                                        const xmc_csr *exclude);

// Adds points with scored labels: every stored entry of `y_pred` is ranked, larger scores first, equal
// scores by the smaller label. NaN is an error.
//
// `y_true` and `exclude` as in xmc_evaluator_update_ids.
xmc_status xmc_evaluator_update_scores(xmc_evaluator *evaluator,
                                       const xmc_pool *pool,
                                       const xmc_csr *y_true,
                                       const xmc_csr *y_pred,
                                       const xmc_csr *exclude);

// xmc_evaluator_update_scores for scores of type double.
xmc_status xmc_evaluator_update_scores_f64(xmc_evaluator *evaluator,
                                           const xmc_pool *pool,
                                           const xmc_csr *y_true,
                                           const xmc_csr_f64 *y_pred,
                                           const xmc_csr *exclude);

// Adds the rows of `other`, made with the same settings, after the rows of `evaluator`. `other` stays as
// it is and remains the caller's. The order of merges shows in the last bits of sums only.
xmc_status xmc_evaluator_merge(xmc_evaluator *evaluator,
                               const xmc_evaluator *other);

// The metric over all rows so far: any kind at any k up to the largest k of the list; means over labels,
// AP, RP, and metrics of sets and of probabilities at the k of the list only.
//
// XMC_STATUS_UNDEFINED if there are no rows, or no positives for a PS metric.
xmc_status xmc_evaluator_value(const xmc_evaluator *evaluator,
                               const char *metric,
                               double *value);

// Numbers of rows and pairs so far.
xmc_status xmc_evaluator_counts(const xmc_evaluator *evaluator, xmc_counts *counts);

// The terms of a metric of the list, one for each row so far, if `keep_rows` was set.
//
// The metric is the sum of `numerators` over the sum of `denominators`, rows with NaN (skipped ones)
// left out. Denominators are 1 but for the PS metrics, microP, microR, microF, Brier and NLL; only for
// those they may not be null. Both arrays
// have room for `n_values` numbers, which must be the number of rows.
xmc_status xmc_evaluator_row_values(const xmc_evaluator *evaluator,
                                    const char *metric,
                                    double *numerators,
                                    double *denominators,
                                    int64_t n_values);

// Ends an evaluator; null is fine.
void xmc_evaluator_free(xmc_evaluator *evaluator);

// The `k` best stored entries of each row of `y_pred`: larger scores first, equal scores by the smaller
// label. Pairs in `exclude`, if not null, are dropped before the cut.
//
// `ids` and `scores` have room for `n_values` numbers each, which must be `y_pred->n_rows * k`; short
// rows are padded with label -1 and score -infinity.
xmc_status xmc_topk_csr(const xmc_pool *pool,
                        const xmc_csr *y_pred,
                        int64_t k,
                        const xmc_csr *exclude,
                        int32_t *ids,
                        float *scores,
                        int64_t n_values);

// xmc_topk_csr for scores of type double, which are ranked as such and rounded in the result only.
xmc_status xmc_topk_csr_f64(const xmc_pool *pool,
                            const xmc_csr_f64 *y_pred,
                            int64_t k,
                            const xmc_csr *exclude,
                            int32_t *ids,
                            float *scores,
                            int64_t n_values);

// The `k` best of dense rows: `values` holds `n_rows` rows of `n_labels` scores, row after row, whose
// first column is label `first_label`.
//
// Large label sets are scored block by block: rank each block with its `first_label`, then join the
// results with xmc_merge_topk. Labels in `exclude` count from label 0. `ids`, `scores` and `n_values` as in
// xmc_topk_csr.
xmc_status xmc_topk_dense(const xmc_pool *pool,
                          const float *values,
                          int64_t n_rows,
                          int64_t n_labels,
                          int64_t first_label,
                          int64_t k,
                          const xmc_csr *exclude,
                          int32_t *ids,
                          float *scores,
                          int64_t n_values);

// Joins the best labels of disjoint sets of labels, row by row, into the `k` best of all.
//
// `shards` are `n_shards` results of the functions above, or of a search, of equally many rows: best first,
// equal scores by the smaller label. `ids`, `scores` and `n_values` as in xmc_topk_csr; they may be the
// memory of a shard.
xmc_status xmc_merge_topk(const xmc_pool *pool,
                          const xmc_ranked *shards,
                          int64_t n_shards,
                          int64_t k,
                          int32_t *ids,
                          float *scores,
                          int64_t n_values);

// Opens a file that `python -m dexml.zest export` wrote. Another file, or one that was changed or cut, gives
// XMC_STATUS_CONTENT.
//
// On success `*model` is the caller's, to be ended with xmc_bilinear_free; on failure it is null.
xmc_status xmc_bilinear_open(const xmc_pool *pool,
                             const char *path,
                             xmc_bilinear **model);

// Writes the number of labels to `*n_labels`: ids are below it. Labels that were removed are never found.
xmc_status xmc_bilinear_n_labels(const xmc_bilinear *model,
                                 int64_t *n_labels);

// The `k` best labels of each text: larger scores first, equal scores by the smaller label.
//
// `texts` are `n_texts` texts in UTF-8. `ids` and `scores` have room for `n_values` numbers each, which must be
// `n_texts * k`; short rows are padded with label -1 and score -infinity.
xmc_status xmc_bilinear_search(const xmc_pool *pool,
                               const xmc_bilinear *model,
                               const char *const *texts,
                               int64_t n_texts,
                               int64_t k,
                               int32_t *ids,
                               float *scores,
                               int64_t n_values);

// The score of each stored entry of `pairs` (texts x labels), in their order; -infinity for a label that was
// removed or has no feature. The values of `pairs` do not count.
//
// `scores` has room for `n_values` numbers, which must be the number of entries.
xmc_status xmc_bilinear_score(const xmc_pool *pool,
                              const xmc_bilinear *model,
                              const char *const *texts,
                              int64_t n_texts,
                              const xmc_csr *pairs,
                              float *scores,
                              int64_t n_values);

// Ends a model; null is fine.
void xmc_bilinear_free(xmc_bilinear *model);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* XMC_H */
