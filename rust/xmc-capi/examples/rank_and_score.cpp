// Dense scores in two shards of labels -> top-k -> metrics, with handles that free themselves and errors
// that are exceptions. The wrapper is what most C++ projects need of one; copy it.
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "xmc.h"

namespace xmc {

struct Error : std::runtime_error {
    xmc_status status;
    explicit Error(xmc_status status) : std::runtime_error(xmc_last_error()), status(status) {}
};

inline void check(xmc_status status) {
    if (status != XMC_STATUS_OK) throw Error(status);
}

template <auto free>
struct Free {
    template <class T>
    void operator()(T *handle) const { free(handle); }
};
using Pool = std::unique_ptr<xmc_pool, Free<xmc_pool_free>>;
using Evaluator = std::unique_ptr<xmc_evaluator, Free<xmc_evaluator_free>>;

inline Pool pool(int num_threads = 0) {
    xmc_pool *handle = nullptr;
    check(xmc_pool_new(num_threads, &handle));
    return Pool(handle);
}

inline Evaluator evaluator(int64_t n_labels, const std::string &metrics) {
    xmc_evaluator *handle = nullptr;
    check(xmc_evaluator_new(n_labels, metrics.c_str(), nullptr, &handle));
    return Evaluator(handle);
}

struct Ranked {
    std::vector<int32_t> ids;
    std::vector<float> scores;
    int64_t n_rows, k;

    Ranked(int64_t n_rows, int64_t k) : ids(n_rows * k), scores(n_rows * k), n_rows(n_rows), k(k) {}
    xmc_ranked view() const { return {n_rows, k, ids.data(), scores.data()}; }
    int64_t size() const { return n_rows * k; }
};

}  // namespace xmc

int main() try {
    // Two points, four labels; the truth is {0, 3} and {1}.
    const int64_t indptr[] = {0, 2, 3};
    const int32_t labels[] = {0, 3, 1};
    const float ones[] = {1, 1, 1};
    const xmc_csr y_true = {2, 4, 3, indptr, labels, ones};
    // Scores of labels 0, 1 and of labels 2, 3.
    const float left[] = {0.9f, 0.1f, 0.5f, 0.2f}, right[] = {0.3f, 0.4f, 0.1f, 0.3f};

    const auto pool = xmc::pool();
    const int64_t k = 2;
    xmc::Ranked a(2, k), b(2, k), best(2, k);
    xmc::check(xmc_topk_dense(pool.get(), left, 2, 2, 0, k, nullptr, a.ids.data(), a.scores.data(), a.size()));
    xmc::check(xmc_topk_dense(pool.get(), right, 2, 2, 2, k, nullptr, b.ids.data(), b.scores.data(), b.size()));
    const xmc_ranked shards[] = {a.view(), b.view()};
    xmc::check(xmc_merge_topk(pool.get(), shards, 2, k, best.ids.data(), best.scores.data(), best.size()));

    const auto evaluator = xmc::evaluator(4, "P@1,P@2");
    xmc::check(xmc_evaluator_update_ids(evaluator.get(), pool.get(), &y_true, best.ids.data(), k, nullptr));
    for (const char *metric : {"P@1", "P@2"}) {
        double value = 0;
        xmc::check(xmc_evaluator_value(evaluator.get(), metric, &value));
        std::printf("%s %.4f\n", metric, value);
    }
    try {
        xmc::evaluator(4, "AUC@3");
    } catch (const xmc::Error &error) {
        std::printf("%s\n", error.what());
    }
} catch (const std::exception &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
