//! The sources of negatives, and how many come from each.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use rayon::prelude::*;

use super::alias::Builder;
use crate::csr::{CsrPattern, CsrView};
use crate::error::{Error, Fault, Result};
use crate::memory::{filled, with_room};

/// Rows of a graph handed to a thread at a time.
const BLOCK_LABELS: usize = 4096;

/// Where negatives come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The shortlist of the point, each label with equal probability.
    Shortlist,
    /// Neighbours of the point's positives in a label graph.
    Graph,
    /// All labels, by a power of their frequency.
    Frequency,
    /// All labels, with equal probability.
    Uniform,
}

impl Source {
    /// All sources, in the order in which a row draws from them: the scarce ones first.
    pub const ALL: [Self; 4] = [Self::Shortlist, Self::Graph, Self::Frequency, Self::Uniform];

    /// The name of the source.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Shortlist => "shortlist",
            Self::Graph => "graph",
            Self::Frequency => "frequency",
            Self::Uniform => "uniform",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Source {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|source| source.name() == name);
        known.ok_or_else(|| Error::Parameter {
            name: "source",
            rule: "must be 'uniform', 'frequency', 'graph' or 'shortlist'",
            value: format!("'{name}'"),
        })
    }
}

/// Splits `n` by shares: the whole part of each, and what is left to the largest fractions, of equal
/// ones to the first. Returned in the order of [`Source::ALL`].
///
/// # Errors
/// [`Error::Parameter`] for a share that is negative or not finite, a source named twice, or shares
/// that do not add up to more than 0.
pub(super) fn split(n: usize, shares: &[(Source, f64)]) -> Result<Vec<(Source, usize)>> {
    let bad = |rule, value| Err(Error::Parameter { name: "sources", rule, value });
    for (i, &(source, share)) in shares.iter().enumerate() {
        if !(share.is_finite() && share >= 0.0) {
            return bad("must have finite shares >= 0", format!("{source} = {share}"));
        }
        if shares[..i].iter().any(|&(other, _)| other == source) {
            return bad("must name each source once", format!("{source} twice"));
        }
    }
    let total = shares.iter().fold(0.0, |sum, &(_, share)| sum + share);
    if !(total > 0.0 && total.is_finite()) {
        return bad("must have shares that add up to more than 0", total.to_string());
    }
    let exact = |share: f64| n as f64 * (share / total);
    let mut counts: Vec<usize> = shares.iter().map(|&(_, s)| exact(s) as usize).collect();
    let mut by_fraction: Vec<usize> = (0..shares.len()).collect();
    by_fraction.sort_by(|&a, &b| {
        let fraction = |i: usize| exact(shares[i].1).fract();
        fraction(b).total_cmp(&fraction(a))
    });
    let left = n.saturating_sub(counts.iter().sum());
    for &i in by_fraction.iter().take(left) {
        counts[i] += 1;
    }
    let of = |source| shares.iter().position(|&(other, _)| other == source);
    let in_order = Source::ALL.into_iter().filter_map(|s| of(s).map(|i| (s, counts[i])));
    Ok(in_order.filter(|&(_, count)| count > 0).collect())
}

/// Label ids given for each point, such as the result of a search.
#[derive(Debug, Clone, Copy)]
pub enum Shortlists<'a> {
    /// The stored labels of each row.
    Csr(CsrPattern<'a>),
    /// Rows of `width` ids, row-major, padded with -1 at the end.
    Ids {
        /// Ids a row.
        width: usize,
        /// All rows.
        ids: &'a [i32],
    },
}

impl<'a> Shortlists<'a> {
    fn row(&self, point: usize) -> &'a [i32] {
        match self {
            Self::Csr(pattern) => pattern.row(point),
            Self::Ids { width, ids } => &ids[point * width..(point + 1) * width],
        }
    }
}

/// Owned shortlists: in range, no label twice in a row.
#[derive(Debug, Clone)]
pub(super) struct Lists {
    starts: Vec<usize>,
    ids: Vec<i32>,
}

impl Lists {
    pub(super) fn new(lists: Shortlists<'_>, n_points: usize, n_labels: usize) -> Result<Self> {
        match lists {
            Shortlists::Csr(pattern) => pattern.check_shape(n_points, n_labels)?,
            Shortlists::Ids { width, ids } => {
                let expected = n_points.saturating_mul(width);
                if ids.len() != expected {
                    let (name, what, found) = ("shortlist".to_owned(), "labels", ids.len());
                    return Err(Error::Length { name, what, expected, found });
                }
            }
        }
        let padded = matches!(lists, Shortlists::Ids { .. });
        let mut seen = filled(n_labels, u32::MAX)?;
        let mut owned = Self { starts: vec![0], ids: Vec::new() };
        for point in 0..n_points {
            let fault = |fault| Error::at_row("shortlist", point, fault);
            let given = lists.row(point);
            let end = given.iter().position(|&id| padded && id == -1).unwrap_or(given.len());
            for &label in &given[..end] {
                let out = || Fault::LabelOutOfRange { label: label.to_string(), n_labels };
                let mark = usize::try_from(label).ok().and_then(|label| seen.get_mut(label));
                let mark = mark.ok_or_else(|| fault(out()))?;
                if *mark == point as u32 {
                    return Err(fault(Fault::DuplicateLabel { label }));
                }
                *mark = point as u32;
            }
            if let Some(&label) = given[end..].iter().find(|&&id| id != -1) {
                return Err(fault(Fault::AfterPadding { label: label.into() }));
            }
            owned.ids.extend_from_slice(&given[..end]);
            owned.starts.push(owned.ids.len());
        }
        Ok(owned)
    }

    #[inline]
    pub(super) fn row(&self, point: usize) -> &[i32] {
        &self.ids[self.starts[point]..self.starts[point + 1]]
    }
}

/// A place of the alias table of a row: its own neighbour, with a probability of `threshold` of 2^32,
/// else the other one. A draw then reads one place of memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) own: u32,
    pub(super) other: u32,
    pub(super) threshold: u32,
}

/// The edges of a label graph, an alias table for each row.
#[derive(Debug, Clone)]
pub(super) struct Edges {
    /// First place of each row, and the weight of the row.
    rows: Vec<(usize, f64)>,
    places: Vec<Place>,
}

impl Edges {
    /// Takes the edges of weight above 0 to labels that are candidates.
    pub(super) fn new(
        graph: CsrView<'_>,
        n_labels: usize,
        even: bool,
        is_candidate: impl Fn(u32) -> bool + Sync,
    ) -> Result<Self> {
        graph.pattern().check_shape(n_labels, n_labels)?;
        let n_blocks = n_labels.div_ceil(BLOCK_LABELS);
        let mut blocks: Vec<Result<Self>> = with_room(n_blocks)?;
        (0..n_blocks)
            .into_par_iter()
            .map_init(Builder::default, |builder, block| {
                let first = block * BLOCK_LABELS;
                let rows = first..(first + BLOCK_LABELS).min(n_labels);
                Self::block(graph, rows, even, &is_candidate, builder)
            })
            .collect_into_vec(&mut blocks);
        let mut all = Self { rows: with_room(n_labels + 1)?, places: Vec::new() };
        for block in blocks {
            let block = block?;
            let base = all.places.len();
            all.rows.extend(block.rows.into_iter().map(|(start, weight)| (base + start, weight)));
            all.places.extend_from_slice(&block.places);
        }
        all.rows.push((all.places.len(), 0.0));
        Ok(all)
    }

    fn block(
        graph: CsrView<'_>,
        rows: Range<usize>,
        even: bool,
        is_candidate: impl Fn(u32) -> bool,
        builder: &mut Builder,
    ) -> Result<Self> {
        let mut block = Self { rows: with_room(rows.len())?, places: Vec::new() };
        let (mut ids, mut weights) = (Vec::new(), Vec::new());
        for row in rows {
            ids.clear();
            weights.clear();
            let (labels, values) = graph.row(row);
            for (&label, &weight) in labels.iter().zip(values) {
                if !(weight.is_finite() && weight >= 0.0) {
                    return Err(Error::at_row(graph.name(), row, Fault::BadEdge { label, weight }));
                }
                if weight > 0.0 && is_candidate(label as u32) {
                    ids.push(label as u32);
                    weights.push(if even { 1.0 } else { f64::from(weight) });
                }
            }
            block.rows.push((block.places.len(), weights.iter().sum()));
            if builder.build(&weights)? {
                let places = builder.places.iter().zip(&ids);
                block.places.extend(places.map(|(&(threshold, other), &own)| Place {
                    own,
                    other: ids[other as usize],
                    threshold,
                }));
            }
        }
        Ok(block)
    }

    /// Where the places of a row stand, and its weight.
    #[inline]
    pub(super) fn row(&self, label: usize) -> (Range<usize>, f64) {
        let (start, weight) = self.rows[label];
        (start..self.rows[label + 1].0, weight)
    }

    pub(super) fn places(&self, range: Range<usize>) -> &[Place] {
        &self.places[range]
    }

    /// The neighbour at a place that random bits choose.
    #[inline]
    pub(super) fn read(&self, place: usize, bits: u32) -> u32 {
        let Place { own, other, threshold } = self.places[place];
        if bits < threshold { own } else { other }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use Source::{Frequency, Graph, Shortlist, Uniform};

    #[test]
    fn shares_become_counts_by_largest_remainder() {
        let counts = |n, shares: &[(Source, f64)]| split(n, shares).unwrap();
        let mixed = [(Uniform, 0.5), (Graph, 0.25), (Shortlist, 0.25)];
        assert_eq!(counts(64, &mixed), [(Shortlist, 16), (Graph, 16), (Uniform, 32)]);
        assert_eq!(counts(1, &mixed), [(Uniform, 1)]);
        // 2.5, 1.25, 1.25: the half wins; of 0.75 and 0.75 the one named first.
        assert_eq!(counts(5, &mixed), [(Shortlist, 1), (Graph, 1), (Uniform, 3)]);
        assert_eq!(counts(3, &mixed), [(Shortlist, 1), (Graph, 1), (Uniform, 1)]);
        assert_eq!(counts(7, &[(Graph, 1.0), (Frequency, 1.0)]), [(Graph, 4), (Frequency, 3)]);
        assert_eq!(counts(7, &[(Graph, 0.0), (Frequency, 9.0)]), [(Frequency, 7)]);
        assert_eq!(counts(0, &mixed), []);
    }

    #[test]
    fn bad_shares_are_named() {
        let message = |shares: &[(Source, f64)]| split(4, shares).unwrap_err().to_string();
        assert_eq!(
            message(&[(Graph, -1.0)]),
            "sources must have finite shares >= 0, not graph = -1"
        );
        assert_eq!(
            message(&[(Graph, 1.0), (Graph, 1.0)]),
            "sources must name each source once, not graph twice"
        );
        let none = "sources must have shares that add up to more than 0, not 0";
        assert_eq!(message(&[(Graph, 0.0)]), none);
        assert_eq!(message(&[]), none);
        assert!("grph".parse::<Source>().unwrap_err().to_string().ends_with("not 'grph'"));
    }
}
