//! Weights of the support, fitted on shortlists by dual coordinate descent.

use rayon::prelude::*;

use super::local::{Given, Local, ShortHit, scores_of};
use super::{check_ascending, length, parameter};
use crate::bitmap::Bitmap;
use crate::csr::{CsrPattern, CsrView};
use crate::error::{Error, Result};
use crate::lexical::{check_columns, check_rows};
use crate::memory::{filled, with_room, zeroed};
use crate::rng::Rng;

/// Points between two looks at `keep_going`, and pairs of a part of the objective.
const BLOCK: usize = 256;
/// Times that the pairs of a point are gone through while its weights are at hand.
const SWEEPS: usize = 2;
/// Memory for the entries of W that points look at, found once; the rest is looked for in each pass.
const KEPT_BYTES: usize = 256 << 20;
/// Newton steps for one pair of the logistic loss at most; two or three are usual.
const STEPS: usize = 50;

/// What a pair costs whose score f has the wrong sign or is small; t = 1 for positives, else -1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// `max(0, 1 - t f)^2`.
    SquaredHinge,
    /// `ln(1 + exp(-t f))`.
    Logistic,
}

impl Loss {
    fn of(self, margin: f64) -> f64 {
        match self {
            Self::SquaredHinge => (1.0 - margin).max(0.0).powi(2),
            // In this form nothing overflows.
            Self::Logistic => (-margin.abs()).exp().ln_1p() + (-margin).max(0.0),
        }
    }

    /// What a score says of a label, from 0 to 1: `exp(-max(0, 1 - f)^2)`, or the probability.
    #[must_use]
    pub fn belief(self, score: f64) -> f64 {
        match self {
            Self::SquaredHinge => (-(1.0 - score).max(0.0).powi(2)).exp(),
            Self::Logistic => 1.0 / (1.0 + (-score).exp()),
        }
    }
}

/// How the weights are fitted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RefineOptions {
    /// The loss.
    pub loss: Loss,
    /// What the loss of a pair weighs against the regulariser.
    pub cost: f64,
    /// That of a positive pair is multiplied by this.
    pub positive_weight: f64,
    /// The solver stops when projected gradients differ by less.
    pub tolerance: f64,
    /// Visits of each point at most; each goes twice through the point's pairs.
    pub max_passes: usize,
    /// Seed of the order of points and pairs.
    pub seed: u64,
}

impl Default for RefineOptions {
    fn default() -> Self {
        Self {
            loss: Loss::SquaredHinge,
            cost: 1.0,
            positive_weight: 1.0,
            tolerance: 0.01,
            max_passes: 20,
            seed: 0,
        }
    }
}

impl RefineOptions {
    fn check(&self) -> Result<()> {
        for (name, value) in [
            ("cost", self.cost),
            ("positive_weight", self.positive_weight),
            ("tolerance", self.tolerance),
        ] {
            if !(value.is_finite() && value > 0.0) {
                return Err(parameter(name, "must be finite and above 0", value));
            }
        }
        Ok(())
    }
}

/// Fitted weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Refined {
    /// A weight for each entry of the support, in its order.
    pub weights: Vec<f32>,
    /// Added to each score.
    pub bias: f32,
    /// `1/2 |w|^2 + 1/2 bias^2 + sum of cost * loss` of the weights before they were rounded.
    pub objective: f64,
    /// Passes that were made.
    pub n_passes: usize,
    /// Whether the tolerance was reached.
    pub converged: bool,
}

/// Dual variables: for each pair of the shortlists its own.
///
/// Squared hinge: `a >= 0`. Logistic: `a` in (0, cost), kept as the logit of `a / cost`, from -inf.
struct Dual {
    values: Vec<f64>,
    positive: Vec<bool>,
    /// Cost of a negative and of a positive.
    costs: [f64; 2],
}

/// How far the gradients of a pass lie apart.
struct Gradients {
    largest: f64,
    smallest: f64,
}

impl Dual {
    /// One step for the squared hinge: the change of the weights, or `None` if the pair may be set aside.
    fn hinge(
        &mut self,
        pair: usize,
        (score, square): (f64, f64),
        ceiling: f64,
        seen: &mut Gradients,
    ) -> Option<f64> {
        let positive = self.positive[pair];
        let sign = if positive { 1.0 } else { -1.0 };
        let ridge = 0.5 / self.costs[usize::from(positive)];
        let dual = self.values[pair];
        let gradient = sign * score - 1.0 + ridge * dual;
        let at_zero = !(dual > 0.0);
        if at_zero && gradient > ceiling {
            return None;
        }
        let projected = if at_zero { gradient.min(0.0) } else { gradient };
        seen.largest = seen.largest.max(projected);
        seen.smallest = seen.smallest.min(projected);
        if projected.abs() <= 1e-12 {
            return Some(0.0);
        }
        let new = (dual - gradient / (square + ridge)).max(0.0);
        self.values[pair] = new;
        Some((new - dual) * sign)
    }

    /// One step for the logistic loss: the root of `h(q) = square (cost sigma(q) - a) + margin + q`, which rises
    /// by 1 at least.
    fn logistic(&mut self, pair: usize, (score, square): (f64, f64), seen: &mut Gradients) -> f64 {
        let positive = self.positive[pair];
        let sign = if positive { 1.0 } else { -1.0 };
        let cost = self.costs[usize::from(positive)];
        let sigma = |q: f64| 1.0 / (1.0 + (-q).exp());
        let old = self.values[pair];
        let dual = cost * sigma(old);
        let margin = sign * score;
        let gradient = margin + old;
        seen.largest = seen.largest.max(gradient.abs());
        seen.smallest = 0.0;
        let (mut low, mut high) = (square * (dual - cost) - margin, square * dual - margin);
        let mut q = if old.is_finite() { old.clamp(low, high) } else { 0.5 * (low + high) };
        for _ in 0..STEPS {
            let share = sigma(q);
            let height = square * (cost * share - dual) + margin + q;
            if height.abs() < 1e-12 {
                break;
            }
            if height > 0.0 {
                high = q;
            } else {
                low = q;
            }
            let newton = q - height / (1.0 + square * cost * share * (1.0 - share));
            q = if newton > low && newton < high { newton } else { 0.5 * (low + high) };
        }
        self.values[pair] = q;
        (cost * sigma(q) - dual) * sign
    }
}

/// Fits the weights of the support on the pairs of the shortlists.
///
/// `x` (points x point features), `z` (labels x label features), `support` (point features x label features),
/// `shortlist` and `y` (points x labels): a pair of the shortlist that is stored in `y` is a positive. Solved
/// sequentially, so that threads do not matter; `keep_going` is asked now and then. With `max_passes = 0` all
/// weights are 0.
///
/// # Errors
/// [`Error::Length`] if shapes disagree; [`Error::Content`] for a row that is not ascending or a value that is not
/// finite; [`Error::Parameter`] for an option out of range, and for 2^32 - 1 pairs or entries of the support
/// or more; [`Error::OutOfMemory`]; [`Error::Interrupted`].
pub fn refine(
    x: CsrView<'_>,
    z: CsrView<'_>,
    y: CsrPattern<'_>,
    support: CsrView<'_>,
    shortlist: CsrPattern<'_>,
    options: &RefineOptions,
    keep_going: &(dyn Fn() -> bool + Sync),
) -> Result<Refined> {
    options.check()?;
    check_columns(x, support.n_rows())?;
    length(z.name(), "features", support.n_cols(), z.n_cols())?;
    y.check_shape(x.n_rows(), z.n_rows())?;
    shortlist.check_shape(x.n_rows(), z.n_rows())?;
    check_rows(x)?;
    check_rows(z)?;
    check_ascending(y)?;
    check_rows(support)?;
    let n_points = x.n_rows();
    let n_weights = (0..support.n_rows()).map(|row| support.row(row).0.len()).sum::<usize>();
    let n_pairs = (0..n_points).map(|point| shortlist.row(point).len()).sum::<usize>();
    for (name, n) in [("support", n_weights), ("shortlist", n_pairs)] {
        if n >= u32::MAX as usize {
            return Err(parameter(name, "must have fewer than 2^32 - 1 entries", n));
        }
    }
    let given = Given { x, z: z.into(), support: support.into() };
    let mut dual = Dual {
        values: filled(
            n_pairs,
            if options.loss == Loss::Logistic { f64::NEG_INFINITY } else { 0.0 },
        )?,
        positive: positives(y, shortlist, n_pairs)?,
        costs: [options.cost, options.cost * options.positive_weight],
    };
    let mut starts: Vec<u32> = with_room(n_points + 1)?;
    starts.push(0);
    let mut end = 0;
    for point in 0..n_points {
        end += shortlist.row(point).len() as u32;
        starts.push(end);
    }
    let mut solver = Solver {
        given,
        shortlist,
        loss: options.loss,
        starts: &starts,
        active: crate::memory::collected(0..n_pairs as u32)?,
        n_active: crate::memory::collected(starts.windows(2).map(|pair| pair[1] - pair[0]))?,
        weights: zeroed(n_weights)?,
        bias: 0.0,
        local: Local::new(z.n_cols())?,
        kept: Kept { starts: filled(n_points, NOT_KEPT)?, ..Kept::default() },
        dropped: Vec::new(),
    };
    let mut order: Vec<u32> = crate::memory::collected(0..n_points as u32)?;
    let (mut n_passes, mut converged, mut ceiling) = (0, n_pairs == 0, f64::INFINITY);
    while n_passes < options.max_passes && !converged {
        let mut rng = Rng::new(options.seed, &[0xB1, n_passes as u64]);
        shuffle(&mut order, &mut rng);
        let mut seen = Gradients { largest: f64::NEG_INFINITY, smallest: f64::INFINITY };
        for (at, &point) in order.iter().enumerate() {
            if at % BLOCK == 0 && !keep_going() {
                return Err(Error::Interrupted);
            }
            solver.visit(point as usize, &mut dual, ceiling, &mut seen, &mut rng)?;
        }
        n_passes += 1;
        if seen.largest - seen.smallest <= options.tolerance || seen.largest < seen.smallest {
            let whole = solver.n_active.iter().zip(starts.windows(2));
            converged = whole.fold(true, |all, (&n, pair)| all && n == pair[1] - pair[0]);
            // Converged on the active pairs: look at all of them again.
            for (n, pair) in solver.n_active.iter_mut().zip(starts.windows(2)) {
                *n = pair[1] - pair[0];
            }
            ceiling = f64::INFINITY;
        } else {
            ceiling = if seen.largest > 0.0 { seen.largest } else { f64::INFINITY };
        }
    }
    let Solver { weights, bias, .. } = solver;
    let objective = objective(&given, shortlist, options.loss, &dual, &weights, bias)?;
    let weights = crate::memory::collected(weights.iter().map(|&weight| weight as f32))?;
    Ok(Refined { weights, bias: bias as f32, objective, n_passes, converged })
}

/// Where the entries of a point would begin that are not kept.
const NOT_KEPT: (usize, usize) = (usize::MAX, usize::MAX);

/// Entries of W that points look at.
#[derive(Default)]
struct Kept {
    /// Of each point: where its entries begin in `hits`, and in `ends` where those of a feature end.
    starts: Vec<(usize, usize)>,
    hits: Vec<ShortHit>,
    ends: Vec<u32>,
}

/// Where the solver stands.
struct Solver<'a> {
    given: Given<'a>,
    /// Labels of each point.
    shortlist: CsrPattern<'a>,
    loss: Loss,
    /// Where the pairs of each point start, and the end.
    starts: &'a [u32],
    /// Pairs by point, those that are solved first.
    active: Vec<u32>,
    n_active: Vec<u32>,
    weights: Vec<f64>,
    bias: f64,
    local: Local,
    kept: Kept,
    /// Of the pairs of a point, those that are set aside.
    dropped: Vec<bool>,
}

impl Solver<'_> {
    /// Solves the pairs of a point once more.
    fn visit(
        &mut self,
        point: usize,
        dual: &mut Dual,
        ceiling: f64,
        seen: &mut Gradients,
        rng: &mut Rng,
    ) -> Result<()> {
        let first = self.starts[point];
        let n_active = self.n_active[point] as usize;
        if n_active == 0 {
            return Ok(());
        }
        self.load(point)?;
        let Self { active, weights, bias, local, dropped, loss, .. } = self;
        let pairs = &mut active[first as usize..first as usize + n_active];
        shuffle(pairs, rng);
        dropped.clear();
        dropped.resize(n_active, false);
        let mut ignored = Gradients { largest: f64::NEG_INFINITY, smallest: f64::INFINITY };
        for sweep in 0..SWEEPS {
            let seen = if sweep == 0 { &mut *seen } else { &mut ignored };
            for (&pair, dropped) in pairs.iter().zip(&mut *dropped).filter(|(_, d)| !**d) {
                let label = (pair - first) as usize;
                let (score, square) = local.score(label);
                let now = (score + *bias, square + 1.0);
                let step = match loss {
                    Loss::SquaredHinge => dual.hinge(pair as usize, now, ceiling, seen),
                    Loss::Logistic => Some(dual.logistic(pair as usize, now, seen)),
                };
                match step {
                    Some(step) if step != 0.0 => {
                        local.step(label, step);
                        *bias += step;
                    }
                    Some(_) => {}
                    None => *dropped = true,
                }
            }
        }
        local.write(weights);
        // Those that were set aside go behind the others.
        let mut n_left = 0;
        for (at, _) in dropped.iter().enumerate().take(n_active).filter(|(_, dropped)| !**dropped) {
            pairs.swap(n_left, at);
            n_left += 1;
        }
        self.n_active[point] = n_left as u32;
        Ok(())
    }

    /// Reads the weights that a point and its labels look at.
    fn load(&mut self, point: usize) -> Result<()> {
        let Self { given, shortlist, local, kept, weights, .. } = self;
        local.place(given, shortlist.row(point))?;
        let start = kept.starts[point];
        if start == NOT_KEPT {
            local.find(given, point)?;
            let start = (kept.hits.len(), kept.ends.len());
            let fits = start.0 + local.n_hits() <= KEPT_BYTES / size_of::<ShortHit>();
            if fits && local.keep(given, point, &mut kept.hits, &mut kept.ends)? {
                kept.starts[point] = start;
            }
        } else {
            let ends = &kept.ends[start.1..start.1 + given.x.row(point).0.len()];
            let n_hits = ends.last().map_or(0, |&end| end as usize);
            local.take(given, point, &kept.hits[start.0..start.0 + n_hits], ends);
        }
        local.read(given, point, weights);
        Ok(())
    }
}

fn shuffle(items: &mut [u32], rng: &mut Rng) {
    for i in 0..items.len() {
        let other = i + rng.below((items.len() - i) as u32) as usize;
        items.swap(i, other);
    }
}

/// Which pairs of the shortlists are positives.
fn positives(y: CsrPattern<'_>, shortlist: CsrPattern<'_>, n_pairs: usize) -> Result<Vec<bool>> {
    let mut found = with_room(n_pairs)?;
    let mut known = Bitmap::new(y.n_cols())?;
    for point in 0..y.n_rows() {
        for &label in y.row(point) {
            known.insert(label);
        }
        found.extend(shortlist.row(point).iter().map(|&label| known.contains(label)));
        y.row(point).iter().for_each(|&label| known.remove(label));
    }
    Ok(found)
}

/// The primal objective; its parts are added in the order of points.
fn objective(
    given: &Given<'_>,
    shortlist: CsrPattern<'_>,
    loss: Loss,
    dual: &Dual,
    weights: &[f64],
    bias: f64,
) -> Result<f64> {
    let scores = scores_of(given, weights, shortlist)?;
    let losses = scores.par_chunks(BLOCK).zip(dual.positive.par_chunks(BLOCK));
    let parts: Vec<f64> = losses
        .map(|(scores, positive)| {
            let pairs = scores.iter().zip(positive);
            let cost = |(score, &positive): (&f64, &bool)| {
                let margin = if positive { score + bias } else { -(score + bias) };
                dual.costs[usize::from(positive)] * loss.of(margin)
            };
            pairs.map(cost).sum()
        })
        .collect();
    let squares = weights.iter().map(|w| w * w).sum::<f64>() + bias * bias;
    Ok(0.5 * squares + parts.iter().sum::<f64>())
}
