//! Lexical evidence against slow, obvious twins.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use xmc_core::lexical::{
    Also, IndexBuilder, InvertedIndex, Voted, join_rows, label_centroids, pair_scores,
};
use xmc_core::rayon::ThreadPoolBuilder;
use xmc_core::{Csr, CsrPattern, CsrView, TopK};

const N_FEATURES: usize = 9;
const INF: f32 = f32::INFINITY;

type Row = BTreeMap<i32, f32>;

/// Values with ties, stored zeros and cancelling sums; mostly few of them.
fn row() -> impl Strategy<Value = Row> {
    let value = prop::sample::select(vec![-1.0f32, -0.5, 0.0, 0.5, 1.0, 1.0, 0.1, 3.0e-20]);
    prop::collection::btree_map(0..N_FEATURES as i32, value, 0..4)
}

fn rows(n: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Row>> {
    prop::collection::vec(row(), n)
}

fn csr(rows: &[Row], n_cols: usize) -> Csr {
    let mut csr = Csr { n_cols, indptr: vec![0], indices: vec![], data: vec![] };
    for row in rows {
        csr.indices.extend(row.keys());
        csr.data.extend(row.values());
        csr.indptr.push(csr.indices.len() as i64);
    }
    csr
}

fn features<'a>(name: &'a str, csr: &'a Csr) -> CsrView<'a> {
    CsrView::of_features(name, csr.n_cols, &csr.indptr, &csr.indices, &csr.data).unwrap()
}

/// The inner product, and whether there is a term in common.
fn product(a: &Row, b: &Row) -> (f32, bool) {
    let terms = a.iter().filter_map(|(column, &x)| b.get(column).map(|&y| (x, y)));
    let terms: Vec<_> = terms.filter(|&(x, y)| x != 0.0 && y != 0.0).collect();
    let sum: f64 = terms.iter().fold(0.0, |sum, &(x, y)| sum + f64::from(x) * f64::from(y));
    (sum as f32, !terms.is_empty())
}

fn slow_search(
    queries: &[Row],
    rows: &[Row],
    k: usize,
    exclude: &[Row],
    only: Option<&[bool]>,
) -> TopK {
    let mut top = TopK { k, ids: vec![], scores: vec![] };
    for (query, excluded) in queries.iter().zip(exclude) {
        let scored = rows.iter().enumerate().map(|(id, row)| (id, product(query, row)));
        let mut scored: Vec<(usize, f32)> = scored
            .filter(|&(id, (_, common))| {
                common && only.is_none_or(|only| only[id]) && !excluded.contains_key(&(id as i32))
            })
            .map(|(id, (score, _))| (id, score))
            .collect();
        scored.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        scored.resize(k.max(scored.len()), (usize::MAX, -INF));
        top.ids.extend(scored[..k].iter().map(|&(id, _)| id as i32));
        top.scores.extend(scored[..k].iter().map(|&(_, score)| score));
    }
    top
}

proptest! {
    #[test]
    fn search_is_exact_and_agrees_with_pair_scores(
        queries in rows(0..70),
        indexed in rows(0..150),
        k in 1usize..12,
        mask in prop::collection::vec(any::<bool>(), 150),
        masked in any::<bool>(),
        drops in prop::collection::vec(prop::collection::btree_set(0i32..150, 0..5), 70),
    ) {
        let n = indexed.len();
        let only = masked.then_some(&mask[..n]);
        let exclude: Vec<Row> = (0..queries.len())
            .map(|row| drops[row].iter().filter(|&&id| (id as usize) < n).map(|&id| (id, 1.0)).collect())
            .collect();
        let expected = slow_search(&queries, &indexed, k, &exclude, only);
        let (q, r, e) = (csr(&queries, N_FEATURES), csr(&indexed, N_FEATURES), csr(&exclude, n));
        let e = CsrPattern::new("exclude", n, &e.indptr, &e.indices).unwrap();
        for threads in [1, 2, 7] {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let top = pool.install(|| {
                let index = InvertedIndex::new(features("rows", &r)).unwrap();
                index.search(features("queries", &q), k, Some(e), only, None, None).unwrap()
            });
            prop_assert_eq!(&top.ids, &expected.ids);
            let bits = |scores: &[f32]| scores.iter().map(|&s| (s + 0.0).to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&top.scores), bits(&expected.scores));
        }
        let found = |row: usize| {
            let ids = &expected.ids[row * k..(row + 1) * k];
            ids.iter().filter(|&&id| id >= 0).map(|&id| (id, 1.0)).collect::<Row>()
        };
        let pairs: Vec<Row> = (0..queries.len()).map(found).collect();
        let p = csr(&pairs, n);
        let pattern = CsrPattern::new("pairs", n, &p.indptr, &p.indices).unwrap();
        let scores = pair_scores(features("queries", &q), features("rows", &r), pattern).unwrap();
        let twins = pairs.iter().zip(&queries).flat_map(|(ids, query)| {
            ids.keys().map(|&id| product(query, &indexed[id as usize]).0).collect::<Vec<_>>()
        });
        prop_assert_eq!(scores, twins.collect::<Vec<_>>());
    }

    #[test]
    fn a_search_with_bounds_is_the_same(
        (n, seed, k) in (40usize..200, 0u64..1000, 1usize..12),
        mask in prop::collection::vec(any::<bool>(), 200),
        masked in any::<bool>(),
        negative in prop::bool::weighted(0.1),
        blocked in prop::sample::select(vec![0usize, 1, 7, 64, 500]),
    ) {
        // The first columns are in most rows, the others in few; whole numbers make ties.
        let mut state = seed + 1;
        let mut draw = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        let mut sparse = |n_rows: usize, n_terms: u64| -> Vec<Row> {
            let cell = |column: i32, draw: &mut dyn FnMut(u64) -> u64| {
                let (often, unit) = if column < 30 { (1, 0.125) } else { (n_terms, 1.0) };
                (draw(often) == 0).then(|| (column, draw(3) as f32 * unit))
            };
            let row = |_| (0..40).filter_map(|column| cell(column, &mut draw)).collect();
            (0..n_rows).map(row).collect()
        };
        let (mut indexed, queries) = (sparse(n, 20), sparse(9, 4));
        if negative {
            indexed[n / 2].insert(39, -1.0);
        }
        let only = masked.then_some(&mask[..n]);
        let (q, r) = (csr(&queries, 40), csr(&indexed, 40));
        let index = if blocked == 0 {
            InvertedIndex::new(features("rows", &r)).unwrap()
        } else {
            let blocks: Vec<Csr> = indexed.chunks(blocked).map(|rows| csr(rows, 40)).collect();
            let mut builder = IndexBuilder::new(40).unwrap();
            for block in &blocks {
                builder.count(features("block", block)).unwrap();
            }
            for block in &blocks {
                builder.add(features("block", block)).unwrap();
            }
            builder.finish().unwrap()
        };
        let search = |rows| index.search(features("q", &q), k, None, only, None, rows).unwrap();
        let (plain, bounded) = (search(None), search(Some(features("rows", &r).into())));
        prop_assert_eq!(&plain, &slow_search(&queries, &indexed, k, &vec![Row::new(); 9], only));
        prop_assert_eq!(&bounded, &plain);
        // A second ranking, of the rows of another mask, is a search of its own.
        let others: Vec<bool> = mask[..n].iter().rev().copied().collect();
        let also = Some(Also { k: 4, only: &others });
        let second = slow_search(&queries, &indexed, 4, &vec![Row::new(); 9], Some(&others));
        for rows in [None, Some(features("rows", &r).into())] {
            let top = index.search(features("q", &q), k, None, only, also, rows).unwrap();
            prop_assert_eq!(top.k, k + 4);
            for row in 0..9 {
                let span = row * (k + 4)..(row + 1) * (k + 4);
                let (ids, scores) = (&top.ids[span.clone()], &top.scores[span]);
                prop_assert_eq!(&ids[..k], &plain.ids[row * k..(row + 1) * k]);
                prop_assert_eq!(&scores[..k], &plain.scores[row * k..(row + 1) * k]);
                prop_assert_eq!(&ids[k..], &second.ids[row * 4..(row + 1) * 4]);
                prop_assert_eq!(&scores[k..], &second.scores[row * 4..(row + 1) * 4]);
            }
        }

        let cut = |rows: &[Row]| -> Vec<Row> {
            rows.iter().map(|row| row.range(..34).map(|(&c, &v)| (c, v)).collect()).collect()
        };
        let (few, short) = (cut(&queries), cut(&indexed));
        let below = slow_search(&few, &short, 3, &vec![Row::new(); 9], only);
        let both = index.search_both(features("q", &q), (k, 3), 34, None, only, None).unwrap();
        prop_assert_eq!(both.k, k + 3);
        for row in 0..9 {
            let found = &both.ids[row * (k + 3)..(row + 1) * (k + 3)];
            prop_assert_eq!(&found[..k], &plain.ids[row * k..(row + 1) * k]);
            prop_assert_eq!(&found[k..], &below.ids[row * 3..(row + 1) * 3]);
            let scores = &both.scores[row * (k + 3)..(row + 1) * (k + 3)];
            prop_assert_eq!(&scores[..k], &plain.scores[row * k..(row + 1) * k]);
            prop_assert_eq!(&scores[k..], &below.scores[row * 3..(row + 1) * 3]);
        }

        // Votes count for every row, whether it shares a column with the query or not.
        let votes: Vec<Row> = (0..9)
            .map(|row| (0..n).filter(|id| (id + row) % 5 == 0).map(|id| (id as i32, (id % 3) as f32)).collect())
            .collect();
        let v = csr(&votes, n);
        let voted = Voted { votes: features("votes", &v), weight: 0.5 };
        let both = index.search_both(features("q", &q), (k, 3), 34, None, only, Some(voted)).unwrap();
        for row in 0..9 {
            let mut scored: Vec<(usize, f32)> = (0..n)
                .filter(|&id| only.is_none_or(|only| only[id]))
                .filter_map(|id| {
                    let (score, common) = product(&queries[row], &indexed[id]);
                    let vote = votes[row].get(&(id as i32)).copied().unwrap_or(0.0);
                    (common || vote > 0.0).then_some((id, score + 0.5 * vote))
                })
                .collect();
            scored.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            scored.resize(k.max(scored.len()), (usize::MAX, f32::NEG_INFINITY));
            let span = row * (k + 3)..(row + 1) * (k + 3);
            let (ids, scores) = (&both.ids[span.clone()], &both.scores[span]);
            let expected: Vec<i32> = scored[..k].iter().map(|&(id, _)| id as i32).collect();
            prop_assert_eq!(&ids[..k], &expected);
            let expected: Vec<f32> = scored[..k].iter().map(|&(_, score)| score).collect();
            prop_assert_eq!(&scores[..k], &expected);
            prop_assert_eq!(&ids[k..], &below.ids[row * 3..(row + 1) * 3]);
        }
    }

    #[test]
    fn centroids_are_cut_means(
        points in rows(1..30),
        y in prop::collection::vec(prop::collection::btree_set(0i32..5, 0..3), 30),
        max_terms in 1usize..6,
    ) {
        let y: Vec<Row> =
            y[..points.len()].iter().map(|set| set.iter().map(|&l| (l, 1.0)).collect()).collect();
        let (x, labels) = (csr(&points, N_FEATURES), csr(&y, 5));
        let mut expected = vec![];
        for label in 0..5 {
            let mut sums = BTreeMap::new();
            for (_, row) in y.iter().zip(&points).filter(|(y, _)| y.contains_key(&label)) {
                for (&column, &value) in row {
                    *sums.entry(column).or_insert(0.0) += f64::from(value);
                }
            }
            let norm = sums.values().map(|sum| sum * sum).sum::<f64>().sqrt();
            let mut kept: Vec<(i32, f32)> = sums.iter().map(|(&c, s)| (c, (s / norm) as f32)).collect();
            kept.retain(|&(_, weight)| weight != 0.0 && norm > 0.0);
            kept.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            kept.truncate(max_terms);
            expected.push(kept.into_iter().collect::<Row>());
        }
        let expected = csr(&expected, N_FEATURES);
        for threads in [1, 2, 7] {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let y = labels.view("y").unwrap();
            let found =
                pool.install(|| label_centroids(features("x", &x), y, max_terms, &|| true).unwrap());
            prop_assert_eq!(&found, &expected);
        }
    }

    #[test]
    fn joined_rows_hold_both(a in rows(5..6), b in rows(5..6), weight in -1.0f32..1.0) {
        let (x, z) = (csr(&a, N_FEATURES), csr(&b, N_FEATURES));
        let joined = join_rows(&[(features("a", &x), 1.0), (features("b", &z), weight)], false).unwrap();
        let unit = join_rows(&[(features("a", &x), 1.0), (features("b", &z), weight)], true).unwrap();
        for row in 0..5 {
            let (columns, values) = features("joined", &joined).row(row);
            let mut expected = a[row].clone();
            let right = b[row].iter();
            expected.extend(right.map(|(c, v)| (c + N_FEATURES as i32, (f64::from(weight) * f64::from(*v)) as f32)));
            let found: Row = columns.iter().copied().zip(values.iter().copied()).collect();
            prop_assert_eq!(&found, &expected);
            let norm: f64 = features("unit", &unit).row(row).1.iter().map(|&v| f64::from(v).powi(2)).sum();
            prop_assert!((norm - 1.0).abs() < 1e-6 || norm == 0.0);
        }
    }
}

#[test]
fn index_errors_and_empty_sides() {
    let empty = csr(&[], N_FEATURES);
    let one = csr(&[Row::from([(2, 1.0)])], N_FEATURES);
    let index = InvertedIndex::new(features("rows", &empty)).unwrap();
    assert_eq!((index.n_rows(), index.n_features(), index.n_postings()), (0, 9, 0));
    assert_eq!(index.search(features("q", &one), 2, None, None, None, None).unwrap().ids, [-1, -1]);
    let index = InvertedIndex::new(features("rows", &one)).unwrap();
    assert!(index.search(features("q", &empty), 2, None, None, None, None).unwrap().ids.is_empty());

    let message = |queries: &Csr, k, only| {
        index.search(features("q", queries), k, None, only, None, None).unwrap_err().to_string()
    };
    assert_eq!(message(&one, 0, None), "k must be at least 1, not 0");
    assert_eq!(message(&csr(&[], 3), 1, None), "q: 3 features, expected 9");
    assert_eq!(message(&one, 1, Some(&[true; 2])), "only: 2 rows, expected 1");
    let nan = csr(&[Row::new(), Row::from([(4, f32::NAN)])], N_FEATURES);
    assert_eq!(message(&nan, 1, None), "q: row 1: value is not finite (feature 4)");
    let unsorted = CsrView::of_features("rows", 9, &[0, 2], &[4, 3], &[1.0; 2]).unwrap();
    let fault = InvertedIndex::new(unsorted).unwrap_err().to_string();
    assert_eq!(fault, "rows: row 0: column 3 is not in ascending order");
    let pattern = CsrPattern::new("exclude", 2, &[0, 0], &[]).unwrap();
    let shape = index.search(features("q", &one), 1, Some(pattern), None, None, None).unwrap_err();
    assert_eq!(shape.to_string(), "exclude: 2 labels, expected 1");

    let also = |k, only| {
        let also = Some(Also { k, only });
        index.search(features("q", &one), 1, None, None, also, None).unwrap_err().to_string()
    };
    assert_eq!(also(0, &[true]), "k must be at least 1, not 0");
    assert_eq!(also(1, &[true; 3]), "only: 3 rows, expected 1");
    let refused = |votes| {
        let voted = Some(Voted { votes, weight: 1.0 });
        index
            .search_both(features("q", &one), (1, 1), 3, None, None, voted)
            .unwrap_err()
            .to_string()
    };
    let given = CsrView::of_features("votes", 2, &[0, 0], &[], &[]).unwrap();
    assert_eq!(refused(given), "votes: 2 features, expected 1");
    let given = CsrView::of_features("votes", 1, &[0], &[], &[]).unwrap();
    assert_eq!(refused(given), "votes: 0 rows, expected 1");
}
