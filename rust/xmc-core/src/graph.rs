//! Related labels: the neighbours of each label in the bipartite graph of points and labels.

mod cooccur;
mod walk;

use std::ops::Range;

use crate::csr::{Csr, CsrView, Part, csr_from_parts};
use crate::error::{Error, Result};
use crate::memory::collected;
use crate::positives::Rows;
use crate::rank::{Score, keep_best};
pub use cooccur::{CoOccurrence, Normalise};
pub use walk::{MAX_STEPS, RandomWalk};

/// Labels handed to a thread at a time.
const BLOCK_LABELS: usize = 256;

/// Limits above which points and labels are too common to be informative.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DegreeCaps {
    /// Points with more labels than this are left out, as if they were not in the matrix.
    pub max_point_labels: Option<usize>,
    /// Labels with more of the remaining points than this are nobody's neighbour. They still have
    /// neighbours of their own.
    pub max_label_points: Option<usize>,
}

/// The positives of a training matrix, by point and by label.
///
/// Built once, in parallel; neighbours are then found by [`random_walk`](Self::random_walk) or
/// [`co_occurrence`](Self::co_occurrence). Both give a CSR matrix of labels by labels whose rows are
/// sorted by label; a label without points has an empty row. The result depends on neither the
/// number of threads nor, for walks, on other labels' rows: a walk is a function of (seed, label).
#[derive(Debug, Clone)]
pub struct Bipartite {
    /// Labels of each point that may be visited.
    labels: Rows,
    /// Points of each label that lead to a label.
    points: Rows,
    /// Points of each label that are not left out.
    counts: Vec<u32>,
}

impl Bipartite {
    /// Takes the values above 0 of `y` as edges.
    ///
    /// # Errors
    /// [`Error::Content`] for a negative or NaN value or a label stored twice in a row;
    /// [`Error::Length`] for 2^32 positives or more.
    pub fn new(y: CsrView<'_>, caps: DegreeCaps) -> Result<Self> {
        let labels = Rows::of_positives(y, caps.max_point_labels.unwrap_or(usize::MAX))?;
        let points = labels.transposed(y.n_cols())?;
        let counts = collected(points.starts.windows(2).map(|pair| pair[1] - pair[0]))?;
        let max =
            caps.max_label_points.map_or(u32::MAX, |max| u32::try_from(max).unwrap_or(u32::MAX));
        if counts.iter().all(|&count| count <= max) {
            return Ok(Self { labels, points, counts });
        }
        let labels = labels.filtered(|label| counts[label as usize] <= max)?;
        let points = points.filtered(|point| !labels.row(point as usize).is_empty())?;
        Ok(Self { labels, points, counts })
    }

    /// Number of points.
    #[must_use]
    pub fn n_points(&self) -> usize {
        self.labels.len()
    }

    /// Number of labels.
    #[must_use]
    pub fn n_labels(&self) -> usize {
        self.points.len()
    }

    /// Neighbours of all labels: `find` pushes the rows of a block of labels to a part.
    ///
    /// `keep_going` is called before each block.
    fn neighbours<S: Send>(
        &self,
        keep_going: &(dyn Fn() -> bool + Sync),
        scratch: impl Fn() -> Result<S> + Sync + Send,
        find: impl Fn(&mut S, Range<usize>, &mut Part) -> Result<()> + Sync + Send,
    ) -> Result<Csr> {
        let shape = (self.n_labels(), self.n_labels());
        csr_from_parts(shape, BLOCK_LABELS, keep_going, scratch, find)
    }
}

/// Adds a row: the `top` best of `keys`, sorted by label.
fn push_best(part: &mut Part, keys: &mut Vec<u64>, top: usize) -> Result<()> {
    keep_best(keys, top);
    keys.sort_unstable_by_key(|&key| f32::label(key));
    part.push_row(keys.iter().map(|&key| (f32::label(key), f32::score(key))))
}

fn check_top(top: usize) -> Result<()> {
    if top == 0 {
        let (name, rule) = ("top", "must be at least 1");
        return Err(Error::Parameter { name, rule, value: top.to_string() });
    }
    Ok(())
}
