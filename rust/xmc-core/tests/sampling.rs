//! Label graphs, negatives and merged rankings against slow, obvious twins.
#![allow(clippy::unwrap_used, clippy::float_cmp)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use xmc_core::rayon::ThreadPoolBuilder;
use xmc_core::{
    Bipartite, CoOccurrence, Csr, CsrPattern, DegreeCaps, Error, NegativeSampler, Negatives,
    Normalise, RandomWalk, Ranked, Shortlists, Source, merge_topk,
};

const N_LABELS: usize = 11;

type Points = Vec<BTreeSet<i32>>;

fn points() -> impl Strategy<Value = Points> {
    prop::collection::vec(prop::collection::btree_set(0..N_LABELS as i32, 0..6), 0..12)
}

fn matrix(points: &Points, n_cols: usize) -> Csr {
    let mut csr = Csr { n_cols, indptr: vec![0], indices: vec![], data: vec![] };
    for row in points {
        csr.indices.extend(row);
        csr.indptr.push(csr.indices.len() as i64);
    }
    csr.data = vec![1.0; csr.indices.len()];
    csr
}

fn in_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn co_occurrence_counts_common_points(points in points(), top in 1usize..12, max in 0usize..7) {
        let y = matrix(&points, N_LABELS);
        let caps = DegreeCaps { max_point_labels: Some(max), max_label_points: None };
        let graph = Bipartite::new(y.view("y").unwrap(), caps).unwrap();
        let options = CoOccurrence { top, normalise: Normalise::Count, ..CoOccurrence::default() };
        let found = graph.co_occurrence(&options, &|| true).unwrap();
        let found = found.view("graph").unwrap();
        for label in 0..N_LABELS as i32 {
            let mut counts = BTreeMap::<i32, i32>::new();
            for point in points.iter().filter(|p| p.len() <= max && p.contains(&label)) {
                point.iter().filter(|&&m| m != label).for_each(|&m| *counts.entry(m).or_default() += 1);
            }
            let mut best: Vec<(i32, i32)> = counts.iter().map(|(&m, &c)| (-c, m)).collect();
            best.sort_unstable();
            best.truncate(top);
            let mut expected: Vec<(i32, f32)> = best.iter().map(|&(c, m)| (m, -c as f32)).collect();
            expected.sort_by_key(|&(m, _)| m);
            let (ids, weights) = found.row(label as usize);
            let row: Vec<(i32, f32)> = ids.iter().copied().zip(weights.iter().copied()).collect();
            prop_assert_eq!(row, expected);
        }
    }

    #[test]
    fn walks_reach_labels_and_never_leave_the_component(points in points(), seed: u64) {
        let y = matrix(&points, N_LABELS);
        let graph = Bipartite::new(y.view("y").unwrap(), DegreeCaps::default()).unwrap();
        let walk = RandomWalk { n_steps: 30, keep_self: true, restart: 1.0, seed, ..RandomWalk::default() };
        let found = graph.random_walk(&walk, &|| true).unwrap();
        for label in 0..N_LABELS {
            // With a restart before every step, a walk visits labels of its own points only.
            let own = points.iter().filter(|p| p.contains(&(label as i32)));
            let near: BTreeSet<i32> = own.flatten().copied().collect();
            let (ids, visits) = found.view("graph").unwrap().row(label);
            prop_assert!(ids.iter().all(|id| near.contains(id)));
            prop_assert_eq!(visits.iter().sum::<f32>(), if near.is_empty() { 0.0 } else { 30.0 });
        }
    }

    #[test]
    fn negatives_keep_their_promises(
        points in points(),
        excluded in points(),
        listed in prop::collection::vec(Just((0..N_LABELS as i32).collect::<Vec<_>>()).prop_shuffle(), 12),
        mask in prop::option::of(prop::collection::vec(any::<bool>(), N_LABELS)),
        shares in prop::collection::vec(0.0f64..2.0, 4),
        n_negatives in 0usize..14,
        seed: u64,
    ) {
        let y = matrix(&points, N_LABELS);
        let mut excluded = excluded;
        excluded.resize(points.len(), BTreeSet::new());
        let pairs = matrix(&excluded, N_LABELS);
        let bipartite = Bipartite::new(y.view("y").unwrap(), DegreeCaps::default()).unwrap();
        let graph = bipartite.co_occurrence(&CoOccurrence::default(), &|| true).unwrap();
        let ids: Vec<i32> = listed[..points.len()].iter().flat_map(|row| row[..3].to_vec()).collect();
        let sources: Vec<(Source, f64)> = Source::ALL.into_iter().zip(shares).collect();
        let wanted = Negatives {
            n_negatives,
            sources: &sources,
            exclude: Some(pairs.view("exclude").unwrap().pattern()),
            candidates: mask.as_deref(),
            graph: Some(graph.view("graph").unwrap()),
            shortlists: Some(Shortlists::Ids { width: 3, ids: &ids }),
            ..Negatives::default()
        };
        let sampler = NegativeSampler::new(y.view("y").unwrap(), &wanted).unwrap();
        let rows: Vec<i64> = (0..points.len() as i64).rev().collect();
        let drawn = sampler.draw(&rows, seed, 1).unwrap();
        prop_assert_eq!(drawn.len(), n_negatives * points.len());
        for (&point, row) in rows.iter().zip(drawn.chunks(n_negatives.max(1))) {
            let point = point as usize;
            let allowed: BTreeSet<i32> = (0..N_LABELS as i32)
                .filter(|l| !points[point].contains(l) && !excluded[point].contains(l))
                .filter(|&l| mask.as_ref().is_none_or(|mask| mask[l as usize]))
                .collect();
            let n = n_negatives.min(allowed.len());
            let taken: BTreeSet<i32> = row[..n].iter().copied().collect();
            prop_assert_eq!(taken.len(), n);
            prop_assert!(taken.is_subset(&allowed));
            prop_assert!(row[n..].iter().all(|&id| id == -1));
        }
    }

    #[test]
    fn merged_shards_equal_sorting(
        rows in prop::collection::vec(prop::collection::btree_map(0i32..60, -3i8..4, 0..40), 0..5),
        n_shards in 1usize..20,
        k in 1usize..30,
    ) {
        let best = |row: &BTreeMap<i32, i8>, shard: Option<usize>| {
            let labels = row.iter().filter(|(l, _)| shard.is_none_or(|s| **l as usize % n_shards == s));
            let mut keys: Vec<(i8, i32)> = labels.map(|(&label, &score)| (-score, label)).collect();
            keys.sort_unstable();
            keys.resize(40, (0, -1));
            keys
        };
        let shards: Vec<(Vec<i32>, Vec<f32>)> = (0..n_shards)
            .map(|shard| {
                let keys = rows.iter().flat_map(|row| best(row, Some(shard)));
                keys.map(|(score, label)| (label, f32::from(-score))).unzip()
            })
            .collect();
        let ranked: Vec<Ranked<'_>> =
            shards.iter().map(|(i, s)| Ranked::new(rows.len(), 40, i, s).unwrap()).collect();
        let merged = merge_topk(rows.len(), &ranked, k).unwrap();
        for (row, ids) in rows.iter().zip(merged.ids.chunks(k)) {
            let expected: Vec<i32> = best(row, None).iter().map(|&(_, label)| label).take(k).collect();
            prop_assert_eq!(ids, expected);
        }
        prop_assert_eq!(in_threads(3, || merge_topk(rows.len(), &ranked, k).unwrap()), merged);
    }
}

#[test]
fn threads_and_cuts_change_nothing() {
    let n_labels = 700;
    let points: Points = (0..900i32)
        .map(|point| (0..point % 9).map(|i| (point * 37 + i * i * 101) % n_labels).collect())
        .collect();
    let y = matrix(&points, n_labels as usize);
    let y = y.view("y").unwrap();
    let run = |threads| {
        in_threads(threads, || {
            let graph = Bipartite::new(y, DegreeCaps::default()).unwrap();
            let walk = graph.random_walk(&RandomWalk::default(), &|| true).unwrap();
            let exact = graph.co_occurrence(&CoOccurrence::default(), &|| true).unwrap();
            let sources = [(Source::Graph, 1.0), (Source::Frequency, 1.0), (Source::Uniform, 1.0)];
            let wanted = Negatives {
                n_negatives: 30,
                sources: &sources,
                graph: Some(walk.view("graph").unwrap()),
                ..Negatives::default()
            };
            let sampler = NegativeSampler::new(y, &wanted).unwrap();
            let rows: Vec<i64> = (0..900).collect();
            let whole = sampler.draw(&rows, 5, 2).unwrap();
            let parts: Vec<i32> =
                rows.chunks(77).flat_map(|part| sampler.draw(part, 5, 2).unwrap()).collect();
            assert_eq!(parts, whole);
            (walk, exact, whole)
        })
    };
    let one = run(1);
    assert!(one.0.n_rows() == 700 && !one.0.indices.is_empty());
    assert_eq!(run(2), one);
    assert_eq!(run(7), one);
}

#[test]
fn errors() {
    let y = matrix(&vec![BTreeSet::from([0, 1]), BTreeSet::new()], 3);
    let y = y.view("y").unwrap();
    let graph = Bipartite::new(y, DegreeCaps::default()).unwrap();
    let stopped = graph.random_walk(&RandomWalk::default(), &|| false);
    assert!(matches!(stopped, Err(Error::Interrupted)));
    let walk = RandomWalk { n_steps: 0, ..RandomWalk::default() };
    let message = graph.random_walk(&walk, &|| true).unwrap_err().to_string();
    assert_eq!(message, "n_steps must be in 1..=65536, not 0");
    let new = |wanted: &Negatives<'_>| NegativeSampler::new(y, wanted).unwrap_err().to_string();
    let sources = [(Source::Shortlist, 1.0)];
    let wanted = Negatives { sources: &sources, ..Negatives::default() };
    assert_eq!(new(&wanted), "source 'shortlist' needs shortlists");
    let lists = CsrPattern::new("shortlist", 3, &[0, 1], &[2]).unwrap();
    let lists = Some(Shortlists::Csr(lists));
    assert_eq!(new(&Negatives { shortlists: lists, ..wanted }), "shortlist: 1 rows, expected 2");
    let lists = Some(Shortlists::Ids { width: 2, ids: &[0; 3] });
    assert_eq!(new(&Negatives { shortlists: lists, ..wanted }), "shortlist: 3 labels, expected 4");
    let mask = Some(&[true; 2][..]);
    assert_eq!(
        new(&Negatives { candidates: mask, ..Negatives::default() }),
        "candidates: 2 labels, expected 3"
    );
    let sampler = NegativeSampler::new(y, &Negatives::default()).unwrap();
    let message = sampler.draw(&[0, -1], 0, 0).unwrap_err().to_string();
    assert_eq!(message, "rows: row 1: row -1 out of range (n_rows = 2)");
}
