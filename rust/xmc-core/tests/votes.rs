//! Mixed rankings against their definition: every label scored, everything sorted.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use xmc_core::rayon::ThreadPoolBuilder;
use xmc_core::{CsrPattern, Ranked, Vectors, Votes, mix_votes, topk_dense};

/// Sets of columns as a pattern.
fn pattern(rows: &[Vec<bool>]) -> (Vec<i64>, Vec<i32>) {
    let (mut indptr, mut indices) = (vec![0], Vec::new());
    for row in rows {
        indices.extend((0..row.len() as i32).filter(|&column| row[column as usize]));
        indptr.push(indices.len() as i64);
    }
    (indptr, indices)
}

#[derive(Debug, Clone)]
struct Scene {
    n_labels: usize,
    k: usize,
    /// How many columns of `plain` there are beyond k.
    more: usize,
    y: Vec<Vec<bool>>,
    queries: Vec<[f32; 2]>,
    labels: Vec<[f32; 2]>,
    /// Of each query: points, some of them -1 and after those nothing counts, and votes.
    near: Vec<Vec<(i32, f32)>>,
    exclude: Vec<Vec<bool>>,
    only: Vec<bool>,
}

/// Multiples of 1/8, so that sums are exact and ties are ties.
fn eighths() -> impl Strategy<Value = f32> {
    (-8i8..9).prop_map(|n| f32::from(n) / 8.0)
}

fn scene() -> impl Strategy<Value = Scene> {
    let sizes = (1usize..9, 1usize..11, 0usize..3, 0usize..6, 0usize..70, 0usize..5);
    sizes.prop_flat_map(|(n_labels, k, more, n_points, n, b)| {
        let vector = || [eighths(), eighths()];
        let columns = |share| prop::collection::vec(prop::bool::weighted(share), n_labels);
        let point = (-1..n_points as i32, (0u8..9).prop_map(|n| f32::from(n) / 8.0));
        (
            prop::collection::vec(columns(0.4), n_points),
            prop::collection::vec(vector(), n),
            prop::collection::vec(vector(), n_labels),
            prop::collection::vec(prop::collection::vec(point, b), n),
            prop::collection::vec(columns(0.2), n),
            columns(0.8),
        )
            .prop_map(move |(y, queries, labels, mut near, exclude, only)| {
                for row in &mut near {
                    // A point votes once.
                    row.sort_by_key(|&(point, _)| std::cmp::Reverse(point));
                    row.dedup_by_key(|&mut (point, _)| point);
                    row.resize(b, (-1, 0.5));
                }
                Scene { n_labels, k, more, y, queries, labels, near, exclude, only }
            })
    })
}

proptest! {
    #[test]
    fn a_mixed_ranking_is_that_of_all_labels(scene in scene(), weight in (0u8..5).prop_map(f32::from)) {
        let Scene { n_labels, k, more, .. } = scene;
        let n = scene.queries.len();
        let (mut plain, mut mixed) = (Vec::new(), Vec::new());
        for (query, near) in scene.queries.iter().zip(&scene.near) {
            for (label, vector) in scene.labels.iter().enumerate() {
                let score = query[0] * vector[0] + query[1] * vector[1];
                let voters = near.iter().take_while(|(point, _)| *point >= 0);
                let votes = voters.filter(|(point, _)| scene.y[*point as usize][label]);
                plain.push(score);
                mixed.push(score + weight * votes.map(|(_, vote)| vote).sum::<f32>());
            }
        }
        let hidden: Vec<Vec<bool>> = scene.exclude.iter()
            .map(|row| row.iter().zip(&scene.only).map(|(&out, &may)| out || !may).collect())
            .collect();
        let (y, exclude, hidden) = (pattern(&scene.y), pattern(&scene.exclude), pattern(&hidden));
        let hidden = CsrPattern::new("hidden", n_labels, &hidden.0, &hidden.1)?;
        let plain = topk_dense(&plain, n, n_labels, k + more, Some(hidden), 0)?;
        let expected = topk_dense(&mixed, n, n_labels, k, Some(hidden), 0)?;

        let flat = |vectors: &[[f32; 2]]| vectors.iter().flatten().copied().collect::<Vec<f32>>();
        let (queries, labels) = (flat(&scene.queries), flat(&scene.labels));
        let (points, votes): (Vec<i32>, Vec<f32>) = scene.near.iter().flatten().copied().unzip();
        let b = scene.near.first().map_or(0, Vec::len);
        let votes = Votes {
            neighbours: Ranked::new(n, b, &points, &votes)?,
            y: CsrPattern::new("y", n_labels, &y.0, &y.1)?,
            weight,
        };
        let vectors = Vectors { queries: &queries, labels: &labels, dim: 2 };
        let exclude = CsrPattern::new("exclude", n_labels, &exclude.0, &exclude.1)?;
        let plain = Ranked::new(n, k + more, &plain.ids, &plain.scores)?;
        for n_threads in [1, 2, 7] {
            let pool = ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
            let only = Some(scene.only.as_slice());
            let top = pool.install(|| mix_votes(&votes, plain, &vectors, k, Some(exclude), only))?;
            prop_assert_eq!(&top, &expected);
        }
    }
}
