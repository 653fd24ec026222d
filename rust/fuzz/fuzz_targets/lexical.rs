//! Sparse search over rows from wherever they come: an error, or what adding up finds; pairs too.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use twins::Sparse;
use xmc_core::lexical::{InvertedIndex, LazyRows, pair_scores};
use xmc_core::{CsrPattern, CsrView};

#[derive(Arbitrary, Debug)]
struct Input {
    n_columns: u8,
    rows: Sparse,
    queries: Sparse,
    /// Rows that are looked up while searching: mostly those that were indexed.
    lazy: Option<Sparse>,
    pairs: Vec<Vec<u8>>,
    only: Option<Vec<bool>>,
    k: u8,
    middle: u8,
}

type Row = Vec<(i32, f32)>;

fn row(arrays: &(Vec<i64>, Vec<i32>, Vec<f32>), row: usize) -> Row {
    let span = arrays.0[row] as usize..arrays.0[row + 1] as usize;
    arrays.1[span.clone()].iter().copied().zip(arrays.2[span].iter().copied()).collect()
}

/// The inner product, and whether a column other than 0 is in common.
fn product(query: &Row, other: &Row, n_columns: usize) -> (f32, bool) {
    let (mut sum, mut common) = (0.0, false);
    let terms = query.iter().filter(|term| (term.0 as usize) < n_columns && term.1 != 0.0);
    for &(column, value) in terms {
        for &(_, weight) in other.iter().filter(|term| term.0 == column && term.1 != 0.0) {
            sum += f64::from(weight) * f64::from(value);
            common = true;
        }
    }
    (sum as f32, common)
}

fuzz_target!(|input: Input| {
    twins::on_this_thread();
    let n_columns = usize::from(input.n_columns) + 1;
    let (n_rows, n_queries) = (input.rows.rows.len(), input.queries.rows.len());
    let rows = input.rows.arrays(n_rows, n_columns);
    let queries = input.queries.arrays(n_queries, n_columns);
    let lazy = input.lazy.as_ref().map(|lazy| lazy.arrays(n_rows, n_columns));
    let lazy = lazy.as_ref().unwrap_or(&rows);
    let lazy = LazyRows::new("rows", n_columns, &lazy.0, &lazy.1, &lazy.2).expect("lengths fit");
    let view = CsrView::of_features("rows", n_columns, &rows.0, &rows.1, &rows.2);
    let asked = CsrView::of_features("queries", n_columns, &queries.0, &queries.1, &queries.2);
    let Ok(asked) = asked else { return };

    let mut pairs = (vec![0i64], vec![]);
    for query in 0..n_queries {
        let named = input.pairs.get(query).map_or(&[][..], Vec::as_slice);
        pairs.1.extend(named.iter().map(|&row| i32::from(row) % n_rows.max(1) as i32));
        pairs.0.push(pairs.1.len() as i64);
    }
    let pattern = CsrPattern::new("pairs", n_rows, &pairs.0, &pairs.1);
    let Ok(pattern) = pattern else { return };
    let scores = pair_scores(asked, lazy, pattern);
    let _ = pair_scores(asked, lazy.trusted(), pattern);

    let Ok(index) = view.and_then(InvertedIndex::new) else { return };
    let mut only = input.only.clone();
    if let Some(only) = &mut only {
        only.resize(n_rows, true);
    }
    let (k, only) = (usize::from(input.k % 20), only.as_deref());
    let found = index.search(asked, k, Some(pattern), only, None, None);
    let Ok(found) = found else { return };
    let (width, middle) = (k, usize::from(input.middle));
    let both =
        index.search_both(asked, (k, k), middle, Some(pattern), only, None).expect("as before");
    for query in 0..n_queries {
        let terms = row(&queries, query);
        let dropped = &pairs.1[pairs.0[query] as usize..pairs.0[query + 1] as usize];
        for (columns, ids, scores) in [
            (
                n_columns,
                &found.ids[query * width..][..width],
                &found.scores[query * width..][..width],
            ),
            (
                n_columns,
                &both.ids[2 * query * width..][..width],
                &both.scores[2 * query * width..][..width],
            ),
            (
                middle,
                &both.ids[(2 * query + 1) * width..][..width],
                &both.scores[(2 * query + 1) * width..][..width],
            ),
        ] {
            let mut expected: Vec<(i32, f32)> = (0..n_rows)
                .filter(|&row| {
                    only.is_none_or(|only| only[row]) && !dropped.contains(&(row as i32))
                })
                .map(|other| (other as i32, product(&terms, &row(&rows, other), columns)))
                .filter(|(_, (_, common))| *common)
                .map(|(id, (score, _))| (id, score))
                .collect();
            expected.sort_by(twins::by_rank);
            expected.resize(expected.len().max(width), (-1, f32::NEG_INFINITY));
            expected.truncate(width);
            let given: Vec<_> = ids.iter().copied().zip(scores.iter().copied()).collect();
            assert_eq!(given, expected);
        }
    }
    if input.lazy.is_none() {
        let with_rows =
            index.search(asked, k, Some(pattern), only, None, Some(lazy)).expect("the same");
        assert_eq!(with_rows, found);
        let scores = scores.expect("valid");
        for query in 0..n_queries {
            let span = pairs.0[query] as usize..pairs.0[query + 1] as usize;
            for (&score, &other) in scores[span.clone()].iter().zip(&pairs.1[span]) {
                let other = row(&rows, other as usize);
                assert_eq!(score, product(&row(&queries, query), &other, n_columns).0);
            }
        }
    } else {
        let _ = index.search(asked, k, Some(pattern), only, None, Some(lazy));
    }
});
