//! `cargo bench -p xmc-benches`; throughput is bytes of text, rows, and scores.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use xmc_benches::{bow_text, label_text, rankings, scores, sizes, truth};
use xmc_core::{
    CsrView, Evaluator, Grouping, Metric, Options, ParseOptions, inv_propensity, label_counts,
    load_labels as load_file, parse_bow, parse_labels, save_labels, save_npz, topk_dense,
};

fn load_labels(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("load_labels");
    for size in sizes() {
        let text = label_text(size, &truth(size)).unwrap();
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(size.name, |bencher| {
            bencher.iter(|| parse_labels("Y.txt", black_box(&text), ParseOptions::default()));
        });
    }
    group.finish();
}

fn load_bow(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("load_bow");
    for size in sizes() {
        let text = bow_text(size, &truth(size)).unwrap();
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(size.name, |bencher| {
            bencher.iter(|| parse_bow("X.txt", black_box(&text), ParseOptions::default()));
        });
    }
    group.finish();
}

/// Loading and saving the same matrix as a file of each kind; throughput is bytes of the file.
fn files(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    for size in sizes() {
        let truth = truth(size);
        let y =
            CsrView::new("y", size.n_labels, &truth.indptr, &truth.indices, &truth.data).unwrap();
        for name in ["y.txt", "y.txt.gz", "y.txt.zst", "y.npz", "stored.npz"] {
            let path = folder.path().join(name);
            let save = || match name {
                "y.npz" => save_npz(&path, y, true),
                "stored.npz" => save_npz(&path, y, false),
                _ => save_labels(&path, y),
            };
            save().unwrap();
            let bytes = std::fs::metadata(&path).unwrap().len();
            let mut group = criterion.benchmark_group("files");
            group.throughput(Throughput::Bytes(bytes));
            group.bench_function(BenchmarkId::new(format!("load {name}"), size.name), |bencher| {
                bencher.iter(|| load_file(black_box(&path), ParseOptions::default()).unwrap());
            });
            group.bench_function(BenchmarkId::new(format!("save {name}"), size.name), |bencher| {
                bencher.iter(|| save().unwrap());
            });
            group.finish();
        }
    }
}

/// The metrics of the benchmarks; a single one, which must not pay for the others; label groups in
/// the same pass; means over labels.
fn evaluate(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("evaluate");
    for size in sizes() {
        let truth = truth(size);
        let counts = label_counts(size.n_labels, &truth.indices, &truth.data).unwrap();
        let weights = inv_propensity(&counts, size.n_points, 0.55, 1.5).unwrap();
        let of_label = counts.iter().map(|&n| i32::from(n <= 100) + i32::from(n <= 10)).collect();
        let thirds = Grouping { name: "frequency".into(), n_groups: 3, of_label };
        let y_true =
            CsrView::new("y_true", size.n_labels, &truth.indptr, &truth.indices, &truth.data)
                .unwrap();
        let all = &["P", "nDCG", "PSP", "PSnDCG", "R"][..];
        let variants = [
            ("all", all, vec![]),
            ("P", &["P"], vec![]),
            ("groups", all, vec![thirds]),
            ("macro", &["macroF", "Coverage"], vec![]),
        ];
        for k in [5, 100] {
            let ids = rankings(size, &truth, k);
            for (variant, kinds, groupings) in &variants {
                let metrics: Vec<Metric> =
                    kinds.iter().map(|kind| format!("{kind}@{k}").parse().unwrap()).collect();
                let options = Options {
                    inv_propensity: Some(weights.clone()),
                    groupings: groupings.clone(),
                    ..Options::default()
                };
                let fresh = Evaluator::new(size.n_labels, &metrics, options).unwrap();
                group.throughput(Throughput::Elements(size.n_points as u64));
                let id = BenchmarkId::new(format!("{}/{variant}", size.name), k);
                group.bench_function(id, |bencher| {
                    bencher.iter(|| {
                        let mut evaluator = fresh.clone();
                        evaluator.update_ids(y_true, black_box(&ids), k, None).unwrap();
                        evaluator.value(metrics[0]).unwrap()
                    });
                });
            }
        }
    }
    group.finish();
}

fn topk(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("topk_dense");
    for size in sizes() {
        let scores = scores(64, size.n_labels);
        group.throughput(Throughput::Elements(scores.len() as u64));
        group.bench_function(size.name, |bencher| {
            bencher.iter(|| topk_dense(black_box(&scores), 64, size.n_labels, 100, None, 0));
        });
    }
    group.finish();
}

criterion_group! {
    name = core;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    targets = load_labels, load_bow, files, evaluate, topk
}
criterion_main!(core);
