/*
 * Scores a prediction file against a truth file, both in the label text format.
 *
 *     evaluate PRED TRUTH [--train TRUTH_OF_TRAINING] [--filter PAIRS]
 *
 * Prints a table of fractions. With --train, the propensity-scored metrics as well (a = 0.55, b = 1.5).
 * One line on stderr and exit status 1 for bad data, 2 for wrong usage.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "xmc.h"

static const int KS[] = {1, 3, 5};
enum { N_KS = 3 };

/* Everything that must be freed; null until it is made. */
typedef struct {
    xmc_pool *pool;
    xmc_matrix *pred, *truth, *train, *filter;
    double *weights;
    xmc_evaluator *evaluator;
} job;

static void job_free(job *j) {
    xmc_evaluator_free(j->evaluator);
    free(j->weights);
    xmc_matrix_free(j->filter);
    xmc_matrix_free(j->train);
    xmc_matrix_free(j->truth);
    xmc_matrix_free(j->pred);
    xmc_pool_free(j->pool);
}

/* Runs a call and leaves the function with its status unless all went well. */
#define TRY(call)                                  \
    do {                                           \
        xmc_status status_ = (call);               \
        if (status_ != XMC_STATUS_OK) return status_; \
    } while (0)

static xmc_status load_weights(job *j, const char *path, xmc_options *options) {
    xmc_csr train;
    TRY(xmc_load_labels(j->pool, path, NULL, &j->train));
    TRY(xmc_matrix_view(j->train, &train));
    j->weights = malloc((size_t)train.n_cols * sizeof *j->weights + 1);
    if (j->weights == NULL) return XMC_STATUS_MEMORY;
    TRY(xmc_inv_propensity(&train, 0.55, 1.5, j->weights, train.n_cols));
    options->inv_propensity = j->weights;
    options->n_inv_propensity = train.n_cols;
    return XMC_STATUS_OK;
}

static xmc_status score(job *j, const char *pred_path, const char *truth_path, const char *train_path,
                        const char *filter_path) {
    xmc_csr pred, truth, filter;
    xmc_options options = XMC_OPTIONS_INIT;
    const char *names = train_path ? "P@5,nDCG@5,PSP@5" : "P@5,nDCG@5";

    TRY(xmc_pool_new(0, &j->pool));
    TRY(xmc_load_labels(j->pool, pred_path, NULL, &j->pred));
    TRY(xmc_load_labels(j->pool, truth_path, NULL, &j->truth));
    TRY(xmc_matrix_view(j->pred, &pred));
    TRY(xmc_matrix_view(j->truth, &truth));
    if (train_path != NULL) TRY(load_weights(j, train_path, &options));
    if (filter_path != NULL) {
        TRY(xmc_load_pairs(filter_path, truth.n_rows, truth.n_cols, &j->filter, NULL));
        TRY(xmc_matrix_view(j->filter, &filter));
    }
    TRY(xmc_evaluator_new(truth.n_cols, names, &options, &j->evaluator));
    return xmc_evaluator_update_scores(j->evaluator, j->pool, &truth, &pred,
                                       filter_path ? &filter : NULL);
}

static xmc_status print_table(const xmc_evaluator *evaluator, int with_weights) {
    static const char *const kinds[] = {"P", "nDCG", "PSP"};
    xmc_counts counts = XMC_COUNTS_INIT;

    TRY(xmc_evaluator_counts(evaluator, &counts));
    printf("%-6s", "");
    for (int i = 0; i < N_KS; i++) printf("        @%d", KS[i]);
    for (int kind = 0; kind < (with_weights ? 3 : 2); kind++) {
        printf("\n%-6s", kinds[kind]);
        for (int i = 0; i < N_KS; i++) {
            char name[32];
            double value;
            snprintf(name, sizeof name, "%s@%d", kinds[kind], KS[i]);
            TRY(xmc_evaluator_value(evaluator, name, &value));
            printf("  %.6f", value);
        }
    }
    printf("\n%lld points, %lld without positives, %lld predictions excluded, %lld of them right\n",
           (long long)counts.n_rows, (long long)counts.n_empty, (long long)counts.n_excluded,
           (long long)counts.n_excluded_positives);
    return XMC_STATUS_OK;
}

int main(int argc, char **argv) {
    const char *train = NULL, *filter = NULL;
    job j = {0};
    xmc_status status;

    for (int i = 3; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--train") == 0) {
            train = argv[i + 1];
        } else if (strcmp(argv[i], "--filter") == 0) {
            filter = argv[i + 1];
        } else {
            argc = 0;
        }
    }
    if (argc < 3 || argc % 2 == 0) {
        fprintf(stderr, "usage: evaluate PRED TRUTH [--train TRUTH_OF_TRAINING] [--filter PAIRS]\n");
        return 2;
    }
    status = score(&j, argv[1], argv[2], train, filter);
    if (status == XMC_STATUS_OK) status = print_table(j.evaluator, train != NULL);
    if (status != XMC_STATUS_OK) fprintf(stderr, "evaluate: %s\n", xmc_last_error());
    job_free(&j);
    return status == XMC_STATUS_OK ? 0 : 1;
}
