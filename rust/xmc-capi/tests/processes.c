/* What a C program may do with handles: share them between threads, and fork. Exit status 0 if all held. */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "xmc.h"

enum { N_THREADS = 4, N_UPDATES = 50 };

#define REQUIRE(holds)                                                                       \
    do {                                                                                     \
        if (!(holds)) {                                                                      \
            fprintf(stderr, "line %d: %s (%s)\n", __LINE__, #holds, xmc_last_error());       \
            exit(1);                                                                         \
        }                                                                                    \
    } while (0)

static const int64_t INDPTR[] = {0, 1, 2};
static const int32_t LABELS[] = {2, 0};
static const float ONES[] = {1, 1};
static const xmc_csr Y_TRUE = {2, 3, 2, INDPTR, LABELS, ONES};
static const int32_t IDS[] = {2, 1};

static xmc_pool *pool;
static xmc_evaluator *evaluator;

static void *work(void *number) {
    char expected[64];
    xmc_pool *none = (xmc_pool *)&pool;
    for (int i = 0; i < N_UPDATES; i++) {
        REQUIRE(xmc_evaluator_update_ids(evaluator, pool, &Y_TRUE, IDS, 1, NULL) == XMC_STATUS_OK);
        /* Each thread sees its own message. */
        REQUIRE(xmc_pool_new(-1 - *(int *)number, &none) == XMC_STATUS_PARAMETER);
        REQUIRE(none == NULL);
        snprintf(expected, sizeof expected, "num_threads must not be negative, not %d", -1 - *(int *)number);
        REQUIRE(strcmp(xmc_last_error(), expected) == 0);
    }
    return NULL;
}

static void in_the_child(void) {
    double value;
    REQUIRE(xmc_evaluator_update_ids(evaluator, pool, &Y_TRUE, IDS, 1, NULL) == XMC_STATUS_PARAMETER);
    REQUIRE(strstr(xmc_last_error(), "made before fork()") != NULL);
    xmc_pool_free(pool);
    REQUIRE(xmc_pool_new(2, &pool) == XMC_STATUS_OK);
    REQUIRE(xmc_evaluator_update_ids(evaluator, pool, &Y_TRUE, IDS, 1, NULL) == XMC_STATUS_OK);
    REQUIRE(xmc_evaluator_value(evaluator, "P@1", &value) == XMC_STATUS_OK && value == 0.5);
    xmc_evaluator_free(evaluator);
    xmc_pool_free(pool);
}

int main(void) {
    pthread_t threads[N_THREADS];
    int numbers[N_THREADS], status;
    xmc_counts counts = XMC_COUNTS_INIT;
    pid_t child;

    REQUIRE(xmc_pool_new(2, &pool) == XMC_STATUS_OK);
    REQUIRE(xmc_evaluator_new(3, "P@1", NULL, &evaluator) == XMC_STATUS_OK);
    for (int i = 0; i < N_THREADS; i++) {
        numbers[i] = i;
        REQUIRE(pthread_create(&threads[i], NULL, work, &numbers[i]) == 0);
    }
    for (int i = 0; i < N_THREADS; i++) REQUIRE(pthread_join(threads[i], NULL) == 0);
    REQUIRE(xmc_evaluator_counts(evaluator, &counts) == XMC_STATUS_OK);
    REQUIRE(counts.n_rows == 2 * N_THREADS * N_UPDATES);

    child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        alarm(60);
        in_the_child();
        exit(0);
    }
    REQUIRE(waitpid(child, &status, 0) == child);
    REQUIRE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    /* The parent's handles are as before. */
    REQUIRE(xmc_evaluator_update_ids(evaluator, pool, &Y_TRUE, IDS, 1, NULL) == XMC_STATUS_OK);
    xmc_evaluator_free(evaluator);
    xmc_pool_free(pool);
    return 0;
}
