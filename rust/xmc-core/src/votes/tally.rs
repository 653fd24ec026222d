//! The votes of the nearest points, summed by label.

use crate::csr::{Csr, CsrPattern, csr_from_parts};
use crate::error::{Error, Fault, Result};
use crate::topk::Ranked;

/// Queries handed to a thread at a time.
const BLOCK_ROWS: usize = 256;

/// Sums the votes of the nearest points of each query by label: (queries x labels), sorted.
///
/// `neighbours` holds the nearest points of each query and how much each of them votes, padded with
/// point -1; `y` holds the labels of all points, every stored entry a positive. A point votes for
/// each of its labels. Votes are summed in `f64`, in the order of the neighbours, and rounded once; a
/// label whose votes are all 0 is left out.
///
/// For the best labels only, rank the result with [`topk_csr`](crate::topk_csr).
///
/// # Errors
/// [`Error::Content`] for a point out of range, a vote that is negative or not finite, or a label
/// that occurs twice in the row of a voting point; [`Error::Length`] if `neighbours` does not make
/// `n_rows` rows.
pub fn vote_sums(neighbours: Ranked<'_>, n_rows: usize, y: CsrPattern<'_>) -> Result<Csr> {
    let n_cells = n_rows.saturating_mul(neighbours.width());
    if neighbours.n_cells() != n_cells {
        let (name, what, found) = ("neighbours".to_owned(), "values", neighbours.n_cells());
        return Err(Error::Length { name, what, expected: n_cells, found });
    }
    csr_from_parts(
        (n_rows, y.n_cols()),
        BLOCK_ROWS,
        &|| true,
        || Ok((Tally::default(), Vec::new())),
        |(tally, row): &mut (Tally, Vec<(i32, f32)>), block, part| {
            for query in block {
                tally.count(neighbours, y, query)?;
                row.clear();
                row.extend(tally.sums().iter().map(|&(label, sum)| (label, sum as f32)));
                row.retain(|&(_, sum)| sum > 0.0);
                part.push_row(row.iter().copied())?;
            }
            Ok(())
        },
    )
}

/// The votes of one query at a time.
#[derive(Default)]
pub(super) struct Tally {
    /// Label and position of the neighbour for each single vote, packed; sorting groups them by label.
    cast: Vec<u64>,
    sums: Vec<(i32, f64)>,
}

impl Tally {
    /// The labels with a vote, ascending, and their votes.
    pub(super) fn sums(&self) -> &[(i32, f64)] {
        &self.sums
    }

    /// Sums the votes of a row by label, each label's in the order of the neighbours.
    pub(super) fn count(
        &mut self,
        neighbours: Ranked<'_>,
        y: CsrPattern<'_>,
        row: usize,
    ) -> Result<()> {
        let Self { cast, sums } = self;
        let (points, weights) = neighbours.cells(row);
        cast.clear();
        for (position, (&point, &weight)) in points.iter().zip(weights).enumerate() {
            if point == -1 {
                break;
            }
            if point as u32 as usize >= y.n_rows() {
                let fault = Fault::RowOutOfRange { row: point.to_string(), n_rows: y.n_rows() };
                return Err(Error::at_row("neighbours", row, fault));
            }
            if !(weight.is_finite() && weight >= 0.0) {
                let fault = Fault::BadVote { point, value: weight };
                return Err(Error::at_row("neighbours", row, fault));
            }
            let voted = y.row(point as usize);
            cast.extend(voted.iter().map(|&label| u64::from(label as u32) << 32 | position as u64));
        }
        cast.sort_unstable();
        sums.clear();
        let mut last = None;
        for &vote in cast.iter() {
            let (label, position) = ((vote >> 32) as i32, vote as u32 as usize);
            if last == Some(vote) {
                return Err(Error::at_row(y.name(), row, Fault::DuplicateLabel { label }));
            }
            last = Some(vote);
            let weight = f64::from(weights[position]);
            match sums.last_mut() {
                Some((of, sum)) if *of == label => *sum += weight,
                _ => sums.push((label, weight)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn sums_by_label() {
        // Points 0 {3, 0}, 1 {3}, 2 {}.
        let y = CsrPattern::new("y", 4, &[0, 2, 3, 3], &[3, 0, 3]).unwrap();
        let (ids, votes) =
            ([1, 0, 2, 0, 1, -1, -1, 9, 9], [0.5, 0.25, 9.0, 1.0, 0.0, 7.0, 1.0, 1.0, 1.0]);
        let near = Ranked::new(3, 3, &ids, &votes).unwrap();
        let sums = vote_sums(near, 3, y).unwrap();
        assert_eq!((sums.n_cols, sums.indptr), (4, vec![0, 2, 4, 4]));
        assert_eq!((sums.indices, sums.data), (vec![0, 3, 0, 3], vec![0.25, 0.75, 1.0, 1.0]));
        let zero = Ranked::new(1, 1, &[1], &[0.0]).unwrap();
        assert!(vote_sums(zero, 1, y).unwrap().indices.is_empty());
    }

    #[test]
    fn errors() {
        let y = CsrPattern::new("y", 4, &[0, 2], &[3, 3]).unwrap();
        let message = |ids: [i32; 1], votes: [f32; 1]| {
            vote_sums(Ranked::new(1, 1, &ids, &votes).unwrap(), 1, y).unwrap_err().to_string()
        };
        assert_eq!(message([1], [1.0]), "neighbours: row 0: row 1 out of range (n_rows = 1)");
        assert_eq!(message([0], [1.0]), "y: row 0: duplicate label 3");
        let vote = "neighbours: row 0: vote of point 0 must be finite and >= 0, not";
        assert_eq!(message([0], [-1.0]), format!("{vote} -1"));
        assert_eq!(message([0], [f32::NAN]), format!("{vote} NaN"));
        let near = Ranked::new(1, 1, &[0], &[1.0]).unwrap();
        let rows = vote_sums(near, 2, y).unwrap_err().to_string();
        assert_eq!(rows, "neighbours: 1 values, expected 2");
    }
}
