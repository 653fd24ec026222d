//! Label scores mixed with the votes of the nearest training points.

mod tally;

use tally::Tally;
pub use tally::vote_sums;

use crate::csr::CsrPattern;
use crate::error::{Error, Fault, Result};
use crate::rank::{Excluded, Score, keep_best};
use crate::topk::{Ranked, TopK};

/// Partial sums of a dot product: added in one fixed order, and enough of them to vectorise.
const LANES: usize = 16;

/// The votes of training points: who votes, for what, and how much it counts.
#[derive(Debug, Clone, Copy)]
pub struct Votes<'a> {
    /// The nearest points of each query and the weight of each one's vote, padded with point -1.
    pub neighbours: Ranked<'a>,
    /// The labels of all points, (`n_points`, at most `n_labels`): every stored entry is a positive.
    pub y: CsrPattern<'a>,
    /// What a vote of weight 1 adds to the score of a label, finite and >= 0.
    pub weight: f32,
}

/// Vectors for scoring a label that is missing in the plain ranking: row-major, `dim` wide.
#[derive(Debug, Clone, Copy)]
pub struct Vectors<'a> {
    /// One for each query.
    pub queries: &'a [f32],
    /// One for each label.
    pub labels: &'a [f32],
    /// Their length.
    pub dim: usize,
}

/// Ranks by `score + weight * votes`, where a label's votes are the summed vote weights of those
/// nearest points that have it.
///
/// `plain` holds for each query the best labels by score alone, with the same `exclude` and `only`:
/// at least k of them, or all that there are. Their scores are taken as they stand; of voted labels
/// that are not among them the dot product is computed here.
///
/// The result is that of ranking all labels. A label without a vote that is missing in `plain` has k
/// labels before it there. Votes and `weight` are not negative and rounding keeps order, so that each
/// of these keeps at least its score, and where a mixed score ties, it still has the smaller id.
///
/// For the same reason a missing label's dot product is only computed if its votes could bring the
/// last score of `plain` among the k best: `plain` is taken at its word, also where it came from an
/// approximate search.
///
/// Votes are summed in `f64`, dot products in `f32` as a matrix product is, both in a fixed order.
/// `only` holds for each label whether it may be found.
///
/// # Errors
/// [`Error::Parameter`] for `k = 0` or a `weight` that is negative or not finite; [`Error::Length`] if
/// arrays do not fit together, or `plain` is narrower than k and than the labels; [`Error::Content`]
/// for a point or label out of range, a vote that is negative or not finite, a NaN score that comes up,
/// or a label that stands twice in a row of `plain` or of a voting point.
pub fn mix_votes(
    votes: &Votes<'_>,
    plain: Ranked<'_>,
    vectors: &Vectors<'_>,
    k: usize,
    exclude: Option<CsrPattern<'_>>,
    only: Option<&[bool]>,
) -> Result<TopK> {
    let mixer = Mixer::new(votes, plain, vectors, k, exclude, only)?;
    TopK::fill::<f32, Scratch, _>(mixer.n_rows, k, |row, keys, scratch| {
        mixer.rank(row, keys, scratch)
    })
}

/// Memory of one task.
#[derive(Default)]
struct Scratch {
    tally: Tally,
    /// Which of them are in the plain ranking.
    met: Vec<bool>,
    /// The labels of the plain ranking, sorted to find duplicates.
    seen: Vec<i32>,
    excluded: Excluded,
}

/// The arrays of a call, whose shapes fit.
struct Mixer<'a> {
    votes: Votes<'a>,
    plain: Ranked<'a>,
    vectors: Vectors<'a>,
    n_rows: usize,
    n_labels: usize,
    k: usize,
    exclude: Option<CsrPattern<'a>>,
    only: Option<&'a [bool]>,
}

impl<'a> Mixer<'a> {
    fn new(
        votes: &Votes<'a>,
        plain: Ranked<'a>,
        vectors: &Vectors<'a>,
        k: usize,
        exclude: Option<CsrPattern<'a>>,
        only: Option<&'a [bool]>,
    ) -> Result<Self> {
        let Vectors { queries, labels, dim } = *vectors;
        if !(votes.weight.is_finite() && votes.weight >= 0.0) {
            let rule = "must be finite and at least 0";
            return Err(Error::Parameter { name: "weight", rule, value: votes.weight.to_string() });
        }
        if dim == 0 {
            return Err(Error::Parameter {
                name: "dim",
                rule: "must be at least 1",
                value: 0.to_string(),
            });
        }
        let (n_rows, n_labels) = (queries.len() / dim, labels.len() / dim);
        let check = |name: &str, what, expected, found| {
            if expected == found {
                return Ok(());
            }
            Err(Error::Length { name: name.to_owned(), what, expected, found })
        };
        check("queries", "values", n_rows * dim, queries.len())?;
        check("vectors", "values", n_labels * dim, labels.len())?;
        for (name, ranked) in [("neighbours", votes.neighbours), ("plain", plain)] {
            check(name, "values", n_rows.saturating_mul(ranked.width()), ranked.n_cells())?;
        }
        if votes.y.n_cols() > n_labels {
            check("y", "labels", n_labels, votes.y.n_cols())?;
        }
        if let Some(exclude) = exclude {
            exclude.check_shape(n_rows, n_labels)?;
        }
        if let Some(only) = only {
            check("only", "labels", n_labels, only.len())?;
        }
        if plain.width() < k.min(n_labels) {
            check("plain", "columns", k.min(n_labels), plain.width())?;
        }
        let (votes, vectors) = (*votes, *vectors);
        Ok(Self { votes, plain, vectors, n_rows, n_labels, k, exclude, only })
    }

    /// Leaves the keys of a row, best first, in `keys`.
    fn rank(&self, row: usize, keys: &mut Vec<u64>, scratch: &mut Scratch) -> Result<()> {
        scratch.tally.count(self.votes.neighbours, self.votes.y, row)?;
        scratch.excluded.load(self.exclude, row);
        self.rank_plain(row, keys, scratch).map_err(|fault| Error::at_row("plain", row, fault))?;
        let ceiling = self.ceiling(row);
        let mut bar = f32::NEG_INFINITY;
        if keys.len() >= self.k {
            keep_best(keys, self.k);
            bar = keys.iter().max().map_or(bar, |&worst| f32::score(worst));
        }
        for (&(label, sum), &met) in scratch.tally.sums().iter().zip(&scratch.met) {
            let hopeless = self.mixed(ceiling, sum) < bar;
            if met || hopeless || self.drops(label, &scratch.excluded) {
                continue;
            }
            let score = self.mixed(self.score(row, label), sum);
            if score.is_nan() {
                return Err(Error::at_row("vectors", row, Fault::NanScore { label }));
            }
            keys.push(score.key(label));
        }
        keep_best(keys, self.k);
        keys.sort_unstable();
        Ok(())
    }

    /// An upper bound of the score of a label that is missing in a row of `plain`.
    fn ceiling(&self, row: usize) -> f32 {
        let (labels, scores) = self.plain.cells(row);
        if labels.contains(&-1) {
            return f32::INFINITY;
        }
        scores.iter().copied().reduce(f32::min).unwrap_or(f32::INFINITY)
    }

    /// Adds the keys of the plain ranking's labels, and notes which voted labels are among them.
    fn rank_plain(
        &self,
        row: usize,
        keys: &mut Vec<u64>,
        scratch: &mut Scratch,
    ) -> std::result::Result<(), Fault> {
        let Scratch { tally, met, seen, excluded, .. } = scratch;
        let tally = tally.sums();
        let (labels, scores) = self.plain.cells(row);
        met.clear();
        met.resize(tally.len(), false);
        seen.clear();
        for (&label, &score) in labels.iter().zip(scores) {
            if label == -1 {
                break;
            }
            if label as u32 as usize >= self.n_labels {
                let (label, n_labels) = (label.to_string(), self.n_labels);
                return Err(Fault::LabelOutOfRange { label, n_labels });
            }
            if score.is_nan() {
                return Err(Fault::NanScore { label });
            }
            seen.push(label);
            if self.drops(label, excluded) {
                continue;
            }
            let found = tally.binary_search_by_key(&label, |&(label, _)| label);
            let sum = found.map_or(0.0, |at| {
                met[at] = true;
                tally[at].1
            });
            keys.push(self.mixed(score, sum).key(label));
        }
        seen.sort_unstable();
        match seen.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Fault::DuplicateLabel { label: pair[0] }),
            None => Ok(()),
        }
    }

    /// The mixed score; without votes the plain one to the bit.
    #[inline]
    fn mixed(&self, score: f32, votes: f64) -> f32 {
        (f64::from(score) + f64::from(self.votes.weight) * votes) as f32
    }

    #[inline]
    fn drops(&self, label: i32, excluded: &Excluded) -> bool {
        self.only.is_some_and(|only| !only[label as usize]) || excluded.contains(label)
    }

    /// The plain score of a label.
    fn score(&self, row: usize, label: i32) -> f32 {
        let Vectors { queries, labels, dim } = self.vectors;
        let query = &queries[row * dim..(row + 1) * dim];
        let vector = &labels[label as usize * dim..(label as usize + 1) * dim];
        let mut lanes = [0f32; LANES];
        let (queries, vectors) = (query.chunks_exact(LANES), vector.chunks_exact(LANES));
        let rest = queries.remainder().iter().zip(vectors.remainder());
        let rest: f64 = rest.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
        for (a, b) in queries.zip(vectors) {
            for ((lane, &a), &b) in lanes.iter_mut().zip(a).zip(b) {
                *lane += a * b;
            }
        }
        (lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>() + rest) as f32
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const INF: f32 = f32::INFINITY;
    const QUERIES: [f32; 2] = [1.0, 2.0];
    const LABELS: [f32; 4] = [0.5, 0.25, 0.25, -1.0];

    /// Two queries, four labels of one dimension, three points with labels {0, 3}, {3}, {}.
    fn mix(
        neighbours: (&[i32], &[f32]),
        plain: (&[i32], &[f32]),
        weight: f32,
        k: usize,
        only: Option<&[bool]>,
    ) -> Result<TopK> {
        let ranked = |(ids, scores): (&'static [i32], &'static [f32])| {
            Ranked::new(2, ids.len() / 2, ids, scores)
        };
        let leak = |(ids, scores): (&[i32], &[f32])| {
            (&*Box::leak(ids.to_vec().into()), &*Box::leak(scores.to_vec().into()))
        };
        let y = CsrPattern::new("y", 4, &[0, 2, 3, 3], &[0, 3, 3])?;
        let votes = Votes { neighbours: ranked(leak(neighbours))?, y, weight };
        let vectors = Vectors { queries: &QUERIES, labels: &LABELS, dim: 1 };
        let exclude = CsrPattern::new("exclude", 4, &[0, 0, 1], &[0])?;
        mix_votes(&votes, ranked(leak(plain))?, &vectors, k, Some(exclude), only)
    }

    const PLAIN: (&[i32], &[f32]) = (&[0, 1, 1, 2], &[0.5, 0.25, 0.5, 0.5]);
    const NEAR: (&[i32], &[f32]) = (&[1, 0, 0, -1], &[0.75, 0.25, 1.0, 9.0]);

    #[test]
    fn votes_bring_labels_in_and_excluded_pairs_stay_out() {
        let top = mix(NEAR, PLAIN, 2.0, 2, None).unwrap();
        assert_eq!((top.ids, top.scores), (vec![0, 3, 1, 2], vec![1.0, 1.0, 0.5, 0.5]));
        let top = mix(NEAR, PLAIN, 4.0, 2, None).unwrap();
        assert_eq!((top.ids, top.scores), (vec![3, 0, 3, 1], vec![3.0, 1.5, 2.0, 0.5]));
        let only = [true, true, true, false];
        let top = mix(NEAR, PLAIN, 4.0, 2, Some(&only)).unwrap();
        assert_eq!((top.ids, top.scores), (vec![0, 1, 1, 2], vec![1.5, 0.25, 0.5, 0.5]));
    }

    #[test]
    fn without_weight_or_voters_the_plain_ranking_stays() {
        for top in [mix(NEAR, PLAIN, 0.0, 2, None), mix((&[], &[]), PLAIN, 2.0, 2, None)] {
            let top = top.unwrap();
            assert_eq!((top.ids, top.scores), (PLAIN.0.to_vec(), PLAIN.1.to_vec()));
        }
        let padded =
            mix((&[2, 2], &[1.0; 2]), (&[0, -1, -1, -1], &[0.5, -INF, -INF, -INF]), 2.0, 2, None);
        assert_eq!(padded.unwrap().ids, [0, -1, -1, -1]);
    }

    #[test]
    fn errors() {
        let message = |result: Result<TopK>| result.unwrap_err().to_string();
        assert_eq!(
            message(mix(NEAR, PLAIN, -1.0, 2, None)),
            "weight must be finite and at least 0, not -1"
        );
        assert_eq!(
            message(mix(NEAR, PLAIN, INF, 2, None)),
            "weight must be finite and at least 0, not inf"
        );
        assert_eq!(message(mix(NEAR, PLAIN, 1.0, 0, None)), "k must be at least 1, not 0");
        assert_eq!(message(mix(NEAR, PLAIN, 1.0, 3, None)), "plain: 2 columns, expected 3");
        assert_eq!(message(mix(NEAR, PLAIN, 1.0, 2, Some(&[true]))), "only: 1 labels, expected 4");
        let near =
            |ids: [i32; 2], votes: [f32; 2]| message(mix((&ids, &votes), PLAIN, 1.0, 2, None));
        assert_eq!(near([0, 3], [1.0; 2]), "neighbours: row 1: row 3 out of range (n_rows = 3)");
        assert_eq!(near([0, -2], [1.0; 2]), "neighbours: row 1: row -2 out of range (n_rows = 3)");
        let vote = "neighbours: row 0: vote of point 0 must be finite and >= 0, not";
        assert_eq!(near([0, 1], [-0.5, 1.0]), format!("{vote} -0.5"));
        assert_eq!(near([0, 1], [f32::NAN, 1.0]), format!("{vote} NaN"));
        let plain = |ids: &[i32], scores: &[f32]| message(mix(NEAR, (ids, scores), 1.0, 2, None));
        let range = "plain: row 0: label 4 out of range (n_labels = 4)";
        assert_eq!(plain(&[0, 4, 0, 1], &[0.0; 4]), range);
        assert_eq!(plain(&[0, 1, 1, 1], &[0.0; 4]), "plain: row 1: duplicate label 1");
        let nan = plain(&[0, 1, 1, 2], &[0.0, f32::NAN, 0.0, 0.0]);
        assert_eq!(nan, "plain: row 0: score of label 1 is NaN");

        let (neighbours, plain) =
            (Ranked::new(1, 1, &[0], &[1.0]), Ranked::new(1, 1, &[0], &[1.0]));
        let (neighbours, plain) = (neighbours.unwrap(), plain.unwrap());
        let call = |y, queries, labels, dim| {
            let votes = Votes { neighbours, y, weight: 1.0 };
            message(mix_votes(&votes, plain, &Vectors { queries, labels, dim }, 1, None, None))
        };
        let twice = CsrPattern::new("y", 2, &[0, 2], &[1, 1]).unwrap();
        assert_eq!(call(twice, &[1.0], &[1.0; 2], 1), "y: row 0: duplicate label 1");
        assert_eq!(call(twice, &[1.0], &[1.0], 1), "y: 2 labels, expected 1");
        assert_eq!(call(twice, &[1.0], &[1.0], 0), "dim must be at least 1, not 0");
        assert_eq!(call(twice, &[1.0; 3], &[1.0; 2], 2), "queries: 3 values, expected 2");
        assert_eq!(call(twice, &[1.0; 2], &[1.0; 3], 2), "vectors: 3 values, expected 2");
        assert_eq!(call(twice, &[1.0; 2], &[1.0; 2], 1), "neighbours: 1 values, expected 2");
        let one = CsrPattern::new("y", 2, &[0, 1], &[1]).unwrap();
        assert_eq!(
            call(one, &[1.0], &[1.0, f32::NAN], 1),
            "vectors: row 0: score of label 1 is NaN"
        );
    }
}
