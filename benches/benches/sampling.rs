//! `cargo bench -p xmc-benches --bench sampling`; throughput is steps, rows, labels and bytes. One
//! thread, so that the figures are those of a core.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use xmc_benches::{LARGE, Random, Size, Truth, scores, truth};
use xmc_core::rayon::{ThreadPool, ThreadPoolBuilder};
use xmc_core::{
    Bipartite, CoOccurrence, Csr, CsrView, DegreeCaps, NegativeSampler, Negatives, RandomWalk,
    Ranked, Shortlists, Source, merge_topk, topk_dense,
};

/// LF-AmazonTitles-131K: all its points.
const WALKED: Size =
    Size { name: "294805x131073", n_points: 294_805, n_labels: 131_073, positives: 2 };

fn view(truth: &Truth, size: Size) -> CsrView<'_> {
    CsrView::new("y", size.n_labels, &truth.indptr, &truth.indices, &truth.data).unwrap()
}

fn one_thread() -> ThreadPool {
    ThreadPoolBuilder::new().num_threads(1).build().unwrap()
}

fn graphs(criterion: &mut Criterion) {
    let truth = truth(WALKED);
    let mut group = criterion.benchmark_group("graph");
    group.sample_size(10);
    let pool = one_thread();
    let y = view(&truth, WALKED);
    group.throughput(Throughput::Elements(truth.indices.len() as u64));
    group.bench_function("both directions", |bencher| {
        bencher
            .iter(|| pool.install(|| Bipartite::new(black_box(y), DegreeCaps::default()).unwrap()));
    });
    let graph = Bipartite::new(y, DegreeCaps::default()).unwrap();
    let mut seen = vec![false; WALKED.n_labels];
    truth.indices.iter().for_each(|&label| seen[label as usize] = true);
    let n_seen = seen.iter().filter(|seen| **seen).count();
    for n_steps in [50, 400] {
        let walk = RandomWalk { n_steps, ..RandomWalk::default() };
        group.throughput(Throughput::Elements((n_seen * n_steps) as u64));
        group.bench_function(BenchmarkId::new("random_walk", n_steps), |bencher| {
            bencher.iter(|| pool.install(|| graph.random_walk(&walk, &|| true).unwrap()));
        });
    }
    let pairs = truth.indptr.windows(2).map(|span| (span[1] - span[0]).pow(2) as u64).sum();
    group.throughput(Throughput::Elements(pairs));
    group.bench_function("co_occurrence", |bencher| {
        bencher.iter(|| {
            pool.install(|| graph.co_occurrence(&CoOccurrence::default(), &|| true).unwrap())
        });
    });
    group.finish();
}

/// A graph of `degree` random neighbours for each label.
fn neighbours(n_labels: usize, degree: usize) -> Csr {
    let mut random = Random::new(5);
    let indices = (0..n_labels * degree).map(|_| random.label(n_labels)).collect();
    let data = (0..n_labels * degree).map(|_| 1.0 + random.uniform() as f32 * 50.0).collect();
    let indptr = (0..=n_labels).map(|label| (label * degree) as i64).collect();
    Csr { n_cols: n_labels, indptr, indices, data }
}

fn negatives(criterion: &mut Criterion) {
    const BATCH: usize = 16_384;
    let mut group = criterion.benchmark_group("negatives");
    group.sample_size(20).throughput(Throughput::Elements(BATCH as u64));
    // As many labels as the large size, points enough for some batches.
    let size = Size { n_points: 200_000, ..LARGE };
    let truth = truth(size);
    let y = view(&truth, size);
    let graph = neighbours(size.n_labels, 50);
    let mut random = Random::new(6);
    let mut ids = Vec::new();
    for _ in 0..size.n_points {
        let first = random.number() as usize % (size.n_labels - 500);
        ids.extend((0..100).map(|i| (first + 5 * i) as i32));
    }
    let rows: Vec<i64> =
        (0..BATCH).map(|_| (random.number() % size.n_points as u64) as i64).collect();
    let mixed = [(Source::Uniform, 0.5), (Source::Graph, 0.25), (Source::Shortlist, 0.25)];
    let alone = Source::ALL.map(|source| (source.name(), vec![(source, 1.0)]));
    let pool = one_thread();
    for (name, sources) in alone.into_iter().chain([("mixture", mixed.to_vec())]) {
        let wanted = Negatives {
            n_negatives: 64,
            sources: &sources,
            graph: Some(graph.view("graph").unwrap()),
            shortlists: Some(Shortlists::Ids { width: 100, ids: &ids }),
            ..Negatives::default()
        };
        let sampler = NegativeSampler::new(y, &wanted).unwrap();
        let mut epoch = 0;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                epoch += 1;
                pool.install(|| sampler.draw(black_box(&rows), 0, epoch).unwrap())
            });
        });
    }
    group.finish();
}

fn merge(criterion: &mut Criterion) {
    const SHARDS: usize = 10;
    const ROWS: usize = 50_000;
    const WIDTH: usize = 100;
    let mut group = criterion.benchmark_group("merge_topk");
    group.throughput(Throughput::Elements((ROWS * WIDTH) as u64)).sample_size(20);
    let mut random = Random::new(7);
    let shards: Vec<(Vec<i32>, Vec<f32>)> = (0..SHARDS)
        .map(|shard| {
            let mut ids = Vec::new();
            let mut scores = Vec::new();
            for _ in 0..ROWS {
                let mut row: Vec<f32> = (0..WIDTH).map(|_| random.uniform() as f32).collect();
                row.sort_by(|a, b| b.total_cmp(a));
                ids.extend((0..WIDTH).map(|i| (i * SHARDS + shard) as i32));
                scores.extend(row);
            }
            (ids, scores)
        })
        .collect();
    let pool = one_thread();
    let ranked: Vec<Ranked<'_>> =
        shards.iter().map(|(i, s)| Ranked::new(ROWS, WIDTH, i, s).unwrap()).collect();
    group.bench_function("10 shards", |bencher| {
        bencher.iter(|| pool.install(|| merge_topk(ROWS, black_box(&ranked), WIDTH).unwrap()));
    });
    group.finish();
}

/// Ranking against one pass over the same scores: what reading them costs at least.
fn dense(criterion: &mut Criterion) {
    const ROWS: usize = 128;
    let mut group = criterion.benchmark_group("dense");
    group.sample_size(10);
    let scores = scores(ROWS, LARGE.n_labels);
    group.throughput(Throughput::Bytes(4 * scores.len() as u64));
    let largest = |scores: &[f32]| {
        let lanes = scores.chunks_exact(64).fold([f32::MIN; 64], |mut best, lanes| {
            for (best, &score) in best.iter_mut().zip(lanes) {
                *best = if score > *best { score } else { *best };
            }
            best
        });
        lanes.into_iter().fold(f32::MIN, f32::max)
    };
    let pool = one_thread();
    group.bench_function("one pass (maximum)", |bencher| {
        bencher.iter(|| pool.install(|| largest(black_box(&scores))));
    });
    group.bench_function("topk_dense, k = 100", |bencher| {
        bencher.iter(|| {
            pool.install(|| {
                topk_dense(black_box(&scores), ROWS, LARGE.n_labels, 100, None, 0).unwrap()
            })
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .without_plots();
    targets = graphs, negatives, merge, dense
}
criterion_main!(benches);
