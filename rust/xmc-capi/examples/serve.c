/*
 * Labels texts with a bilinear model, without Python.
 *
 *     serve MODEL [K] < TEXTS
 *
 * MODEL is what "python -m dexml.zest export" wrote; a text a line. Prints a line "LABEL:SCORE ..." for each.
 * One line on stderr and exit status 1 for bad data, 2 for wrong usage.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "xmc.h"

enum { LINE = 1 << 16 };

static xmc_status answer(const xmc_pool *pool, const xmc_bilinear *model, long k, int32_t *ids, float *scores) {
    static char line[LINE];
    while (fgets(line, LINE, stdin) != NULL) {
        const char *text = line;
        line[strcspn(line, "\r\n")] = 0;
        xmc_status status = xmc_bilinear_search(pool, model, &text, 1, k, ids, scores, k);
        if (status != XMC_STATUS_OK) return status;
        for (long i = 0; i < k && ids[i] >= 0; i++) {
            printf("%s%d:%.4f", i ? " " : "", (int)ids[i], scores[i]);
        }
        printf("\n");
    }
    return XMC_STATUS_OK;
}

int main(int argc, char **argv) {
    long k = argc > 2 ? strtol(argv[2], NULL, 10) : 5;
    if (argc < 2 || argc > 3 || k < 1 || k > 10000) {
        fprintf(stderr, "usage: serve MODEL [K] < TEXTS\n");
        return 2;
    }
    xmc_pool *pool = NULL;
    xmc_bilinear *model = NULL;
    int32_t *ids = malloc((size_t)k * sizeof *ids);
    float *scores = malloc((size_t)k * sizeof *scores);
    xmc_status status = ids == NULL || scores == NULL ? XMC_STATUS_MEMORY : xmc_pool_new(1, &pool);
    if (status == XMC_STATUS_OK) status = xmc_bilinear_open(pool, argv[1], &model);
    if (status == XMC_STATUS_OK) status = answer(pool, model, k, ids, scores);
    if (status != XMC_STATUS_OK) fprintf(stderr, "error: %s\n", xmc_last_error());
    xmc_bilinear_free(model);
    xmc_pool_free(pool);
    free(scores);
    free(ids);
    return status == XMC_STATUS_OK ? 0 : 1;
}
