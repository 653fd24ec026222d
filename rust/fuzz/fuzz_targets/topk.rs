//! The best labels of dense rows: as sorting finds them, also as CSR and merged from shards.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use xmc_core::{Csr, CsrPattern, Ranked, merge_topk, topk_csr, topk_dense};

#[derive(Arbitrary, Debug)]
struct Input {
    n_labels: u8,
    k: u8,
    cut: u8,
    excluded: Vec<(u8, u8)>,
    /// Few different scores make many ties; large floats are rarer.
    small: Vec<i8>,
    scores: Vec<f32>,
}

fuzz_target!(|input: Input| {
    twins::on_this_thread();
    let n_labels = usize::from(input.n_labels) + 1;
    let mut scores: Vec<f32> = input.small.iter().map(|&s| f32::from(s) / 4.0).collect();
    scores.extend(&input.scores);
    let n_rows = scores.len() / n_labels;
    scores.truncate(n_rows * n_labels);
    let k = usize::from(input.k);

    let mut excluded = vec![Vec::new(); n_rows];
    for &(row, label) in &input.excluded {
        if let Some(row) = excluded.get_mut(usize::from(row)) {
            row.push(i32::from(label) % n_labels as i32);
        }
    }
    let mut indptr = vec![0];
    indptr.extend(excluded.iter().scan(0, |end, row| {
        *end += row.len() as i64;
        Some(*end)
    }));
    let indices = excluded.concat();
    let exclude = CsrPattern::new("exclude", n_labels, &indptr, &indices).expect("in range");
    let exclude = (!indices.is_empty()).then_some(exclude);

    let best = topk_dense(&scores, n_rows, n_labels, k, exclude, 0);
    // A NaN that is excluded may pass in one form and fail in another; a valid caller has none.
    if k == 0 || scores.iter().any(|score| score.is_nan()) {
        assert!(best.is_err());
        return;
    }
    let best = best.expect("all is valid");
    for row in 0..n_rows {
        let values = &scores[row * n_labels..(row + 1) * n_labels];
        let labels = (0..n_labels as i32).zip(values.iter().copied());
        let mut ranked: Vec<_> =
            labels.filter(|(label, _)| !excluded[row].contains(label)).collect();
        ranked.sort_by(twins::by_rank);
        ranked.resize(ranked.len().max(k), (-1, f32::NEG_INFINITY));
        ranked.truncate(k);
        let cells = row * k..(row + 1) * k;
        let found: Vec<_> = best.ids[cells.clone()]
            .iter()
            .copied()
            .zip(best.scores[cells].iter().copied())
            .collect();
        assert_eq!(found, ranked);
    }

    let csr = Csr {
        n_cols: n_labels,
        indptr: (0..=n_rows).map(|row| (row * n_labels) as i64).collect(),
        indices: (0..n_rows).flat_map(|_| 0..n_labels as i32).collect(),
        data: scores.clone(),
    };
    assert_eq!(topk_csr(csr.view("y").expect("valid"), k, exclude).expect("valid"), best);

    let cut = usize::from(input.cut) % (n_labels + 1);
    let shard = |from: usize, to: usize| {
        let rows = scores.chunks(n_labels).flat_map(|row| &row[from..to]).copied();
        let rows: Vec<f32> = rows.collect();
        topk_dense(&rows, n_rows, to - from, k, exclude, from).expect("valid")
    };
    let (a, b) = (shard(0, cut), shard(cut, n_labels));
    let a = Ranked::new(n_rows, k, &a.ids, &a.scores).expect("as many");
    let b = Ranked::new(n_rows, k, &b.ids, &b.scores).expect("as many");
    assert_eq!(merge_topk(n_rows, &[a, b], k).expect("valid"), best);
});
