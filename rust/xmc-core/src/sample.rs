//! Negatives for points: labels that are neither positive nor excluded.

mod alias;
mod row;
mod sources;

use rayon::prelude::*;

use crate::bitmap::Bitmap;
use crate::csr::{CsrPattern, CsrView};
use crate::error::{Error, Fault, Result};
use crate::memory::{collected, with_room, zeroed};
use crate::positives::Rows;
use alias::Alias;
use row::Scratch;
use sources::{Edges, Lists, split};
pub use sources::{Shortlists, Source};

/// Rows handed to a thread at a time.
const ROWS_PER_TASK: usize = 256;

/// What to draw; see [`NegativeSampler`].
#[derive(Debug, Clone, Copy)]
pub struct Negatives<'a> {
    /// Negatives a row.
    pub n_negatives: usize,
    /// Sources and their shares.
    pub sources: &'a [(Source, f64)],
    /// Pairs that are never drawn, shape of the truth.
    pub exclude: Option<CsrPattern<'a>>,
    /// Whether each label may be drawn at all.
    pub candidates: Option<&'a [bool]>,
    /// `Frequency` draws label l by `(n(l) + smoothing)^alpha`, of n(l) positives.
    pub alpha: f64,
    /// Added to each frequency. At 0, labels without positives are never drawn by `Frequency`.
    pub smoothing: f64,
    /// Edges from labels to labels, for `Graph`. Their values are weights.
    pub graph: Option<CsrView<'a>>,
    /// Whether `Graph` counts all edges alike.
    pub even_edges: bool,
    /// Labels given for each point, for `Shortlist`.
    pub shortlists: Option<Shortlists<'a>>,
}

impl Default for Negatives<'_> {
    fn default() -> Self {
        Self {
            n_negatives: 1,
            sources: &[(Source::Uniform, 1.0)],
            exclude: None,
            candidates: None,
            alpha: 0.75,
            smoothing: 0.0,
            graph: None,
            even_edges: false,
            shortlists: None,
        }
    }
}

/// Draws negatives for points of a training matrix.
///
/// A row holds distinct labels, none of them a positive or an excluded pair of its point, none
/// outside the candidates. Each source gives its count, drawn without replacement (one after the
/// other, each in proportion to its weight among those left); a source with fewer labels gives all
/// it has, and the rest is drawn evenly from what is left. A row with fewer labels left than asked
/// for gets all of them and is padded with -1.
///
/// Everything is prepared once and owned: a draw costs nothing for the size of the matrix.
#[derive(Debug, Clone)]
pub struct NegativeSampler {
    n_negatives: usize,
    n_labels: usize,
    mixture: Vec<(Source, usize)>,
    positives: Rows,
    exclude: Option<Rows>,
    candidates: Option<Candidates>,
    /// Weight of each label, and the table that draws by it.
    frequency: Option<(Vec<f64>, Alias)>,
    edges: Option<Edges>,
    lists: Option<Lists>,
}

/// The labels that may be drawn.
#[derive(Debug, Clone)]
struct Candidates {
    mask: Vec<bool>,
    labels: Vec<u32>,
}

impl NegativeSampler {
    /// Prepares draws for the points of `y`, whose values above 0 are positives.
    ///
    /// # Errors
    /// [`Error::Parameter`] for shares, `alpha` or `smoothing` out of range; [`Error::MissingInput`]
    /// for a source without its graph or shortlists; [`Error::Length`] if shapes disagree;
    /// [`Error::Content`] for bad values, edges or shortlists.
    pub fn new(y: CsrView<'_>, wanted: &Negatives<'_>) -> Result<Self> {
        let n_labels = y.n_cols();
        let mixture = split(wanted.n_negatives, wanted.sources)?;
        let positives = Rows::of_positives(y, usize::MAX)?;
        let exclude = wanted.exclude.map(|exclude| {
            exclude.check_shape(y.n_rows(), n_labels)?;
            Rows::of_pattern(exclude)
        });
        let candidates = wanted.candidates.map(|mask| Candidates::new(mask, n_labels));
        let mut sampler = Self {
            n_negatives: wanted.n_negatives,
            n_labels,
            mixture,
            positives,
            exclude: exclude.transpose()?,
            candidates: candidates.transpose()?,
            frequency: None,
            edges: None,
            lists: None,
        };
        for &(source, _) in wanted.sources {
            let missing = |what| Error::MissingInput { name: source.name(), what };
            match source {
                Source::Uniform => {}
                Source::Frequency => {
                    let weights = sampler.label_weights(wanted.alpha, wanted.smoothing)?;
                    sampler.frequency = Alias::new(&weights)?.map(|table| (weights, table));
                }
                Source::Graph => {
                    let graph = wanted.graph.ok_or_else(|| missing("a label graph"))?;
                    let is_candidate = |label: u32| sampler.is_candidate(label);
                    let edges = Edges::new(graph, n_labels, wanted.even_edges, is_candidate)?;
                    sampler.edges = Some(edges);
                }
                Source::Shortlist => {
                    let lists = wanted.shortlists.ok_or_else(|| missing("shortlists"))?;
                    sampler.lists = Some(Lists::new(lists, y.n_rows(), n_labels)?);
                }
            }
        }
        Ok(sampler)
    }

    /// Negatives a row.
    #[must_use]
    pub const fn n_negatives(&self) -> usize {
        self.n_negatives
    }

    /// How many of them come from each source, in the order of a row.
    #[must_use]
    pub fn mixture(&self) -> &[(Source, usize)] {
        &self.mixture
    }

    /// Negatives of points: `rows.len()` rows of [`n_negatives`](Self::n_negatives) labels, row-major,
    /// in the order in which they were drawn, padded with -1.
    ///
    /// A row is a function of seed, epoch and point alone.
    ///
    /// # Errors
    /// [`Error::Content`] for a point that the matrix does not have; [`Error::Parameter`] if the
    /// result is too large for memory.
    pub fn draw(&self, points: &[i64], seed: u64, epoch: u64) -> Result<Vec<i32>> {
        let n_rows = self.positives.len();
        let bad = |point: i64| usize::try_from(point).map_or(true, |point| point >= n_rows);
        if let Some(at) = points.iter().position(|&point| bad(point)) {
            let fault = Fault::RowOutOfRange { row: points[at].to_string(), n_rows };
            return Err(Error::at_row("rows", at, fault));
        }
        let mut ids = Vec::new();
        let fits = points.len().checked_mul(self.n_negatives);
        if fits.is_none_or(|n| ids.try_reserve_exact(n).is_err()) {
            let (name, rule) = ("n_negatives", "is too large");
            return Err(Error::Parameter { name, rule, value: self.n_negatives.to_string() });
        }
        if self.n_negatives == 0 {
            return Ok(ids);
        }
        ids.resize(points.len() * self.n_negatives, -1);
        ids.par_chunks_mut(self.n_negatives * ROWS_PER_TASK)
            .zip(points.par_chunks(ROWS_PER_TASK))
            .try_for_each_init(
                || None,
                |slot, (ids, points)| {
                    let scratch = match slot {
                        Some(scratch) => scratch,
                        None => slot.insert(Scratch::new(self.n_labels)?),
                    };
                    for (ids, &point) in ids.chunks_exact_mut(self.n_negatives).zip(points) {
                        self.draw_row(point as usize, seed, epoch, scratch, ids);
                    }
                    Ok::<(), Error>(())
                },
            )?;
        Ok(ids)
    }

    #[inline]
    fn is_candidate(&self, label: u32) -> bool {
        self.candidates.as_ref().is_none_or(|candidates| candidates.mask[label as usize])
    }

    fn n_candidates(&self) -> usize {
        self.candidates.as_ref().map_or(self.n_labels, |candidates| candidates.labels.len())
    }

    /// The i-th candidate.
    #[inline]
    fn candidate(&self, i: u32) -> u32 {
        self.candidates.as_ref().map_or(i, |candidates| candidates.labels[i as usize])
    }

    fn label_weights(&self, alpha: f64, smoothing: f64) -> Result<Vec<f64>> {
        let rule = "must be finite and >= 0";
        for (name, value) in [("alpha", alpha), ("smoothing", smoothing)] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::Parameter { name, rule, value: value.to_string() });
            }
        }
        let mut counts: Vec<u32> = zeroed(self.n_labels)?;
        for &label in &self.positives.items {
            counts[label as usize] += 1;
        }
        let largest = f64::from(counts.iter().copied().max().unwrap_or(0)) + smoothing;
        let weight = |(label, &count): (usize, &u32)| {
            let frequency = f64::from(count) + smoothing;
            // Without the first test, alpha = 0 would draw labels without positives.
            if frequency == 0.0 || !self.is_candidate(label as u32) {
                return 0.0;
            }
            (frequency / largest).powf(alpha)
        };
        collected(counts.iter().enumerate().map(weight))
    }
}

impl Candidates {
    fn new(mask: &[bool], n_labels: usize) -> Result<Self> {
        if mask.len() != n_labels {
            let (name, what, found) = ("candidates".to_owned(), "labels", mask.len());
            return Err(Error::Length { name, what, expected: n_labels, found });
        }
        let mut labels = with_room(mask.iter().filter(|&&is_candidate| is_candidate).count())?;
        labels.extend((0..n_labels as u32).filter(|&label| mask[label as usize]));
        Ok(Self { mask: collected(mask.iter().copied())?, labels })
    }
}

/// Labels that a row may no longer take; remembers them, to be cleared one by one.
struct Blocked {
    bits: Bitmap,
    labels: Vec<u32>,
}

impl Blocked {
    /// Blocks a label; false if it was already.
    #[inline]
    fn insert(&mut self, label: u32) -> bool {
        let fresh = self.bits.insert(label as i32);
        if fresh {
            self.labels.push(label);
        }
        fresh
    }

    #[inline]
    fn contains(&self, label: u32) -> bool {
        self.bits.contains(label as i32)
    }

    fn clear(&mut self) {
        for label in self.labels.drain(..) {
            self.bits.remove(label as i32);
        }
    }
}
