//! The negatives of one row.
//!
//! A draw without replacement takes labels one after the other, each in proportion to its weight
//! among those left. Rejecting a label that is blocked leaves exactly that distribution, so draws
//! begin with rejection, which is cheap while little is blocked. Where it is not cheap, what is left
//! is listed and drawn from: rejections say nothing about the next label, so changing over in the
//! middle of a row changes nothing either.

use std::ops::Range;

use super::alias::FULL;
use super::{Blocked, NegativeSampler, Source};
use crate::bitmap::Bitmap;
use crate::error::Result;
use crate::rng::Rng;

const STREAM: u64 = u64::from_le_bytes(*b"negative");

/// Labels drawn before any of them is checked.
const AHEAD: usize = 32;

/// Memory of one thread.
pub(super) struct Scratch {
    blocked: Blocked,
    /// Labels to choose from.
    pool: Vec<u32>,
    /// Labels to choose from by weight.
    weighted: Vec<(u32, f64)>,
    /// Edges of each positive, and the sum of weights up to and with them.
    sums: Vec<(f64, Range<usize>)>,
}

impl Scratch {
    pub(super) fn new(n_labels: usize) -> Result<Self> {
        let blocked = Blocked { bits: Bitmap::new(n_labels)?, labels: Vec::new() };
        Ok(Self { blocked, pool: Vec::new(), weighted: Vec::new(), sums: Vec::new() })
    }
}

impl NegativeSampler {
    /// Fills `ids` with the negatives of `point`.
    pub(super) fn draw_row(
        &self,
        point: usize,
        seed: u64,
        epoch: u64,
        scratch: &mut Scratch,
        ids: &mut [i32],
    ) {
        let mut rng = Rng::new(seed, &[STREAM, epoch, point as u64]);
        let positives = self.positives.row(point);
        let excluded = self.exclude.as_ref().map_or(&[][..], |exclude| exclude.row(point));
        let mut left = self.n_candidates();
        for &label in positives.iter().chain(excluded) {
            if scratch.blocked.insert(label) {
                left -= usize::from(self.is_candidate(label));
            }
        }
        let goal = ids.len().min(left);
        let mut n = 0;
        for &(source, count) in &self.mixture {
            let out = &mut ids[n..goal.min(n + count)];
            n += match source {
                Source::Uniform => self.draw_evenly(left - n, &mut rng, scratch, out),
                Source::Frequency => self.draw_frequent(&mut rng, scratch, out),
                Source::Graph => self.draw_neighbours(positives, &mut rng, scratch, out),
                Source::Shortlist => self.draw_listed(point, &mut rng, scratch, out),
            };
        }
        self.draw_evenly(left - n, &mut rng, scratch, &mut ids[n..goal]);
        ids[goal..].fill(-1);
        scratch.blocked.clear();
    }

    /// Draws from all candidates alike, `left` of which are not blocked: as many as asked for.
    fn draw_evenly(
        &self,
        left: usize,
        rng: &mut Rng,
        scratch: &mut Scratch,
        out: &mut [i32],
    ) -> usize {
        let Scratch { blocked, pool, .. } = scratch;
        let n_candidates = self.n_candidates();
        // Up to the last draw, every second try succeeds.
        if 2 * (left - out.len()) >= n_candidates {
            for id in &mut *out {
                loop {
                    let label = self.candidate(rng.below(n_candidates as u32));
                    if blocked.insert(label) {
                        *id = label as i32;
                        break;
                    }
                }
            }
            return out.len();
        }
        if out.is_empty() {
            return 0;
        }
        pool.clear();
        let all = (0..n_candidates as u32).map(|i| self.candidate(i));
        pool.extend(all.filter(|&label| !blocked.contains(label)));
        choose(pool, rng, blocked, out)
    }

    /// Draws by frequency.
    fn draw_frequent(&self, rng: &mut Rng, scratch: &mut Scratch, out: &mut [i32]) -> usize {
        let Some((weights, table)) = &self.frequency else {
            return 0;
        };
        let Scratch { blocked, weighted, .. } = scratch;
        let tries = 256 + 32 * out.len();
        let n =
            reject(tries, blocked, out, || table.draw(rng), |place, bits| table.read(place, bits));
        if n < out.len() {
            weighted.clear();
            let left = weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0);
            let left = left.map(|(label, &weight)| (label as u32, weight));
            weighted.extend(left.filter(|&(label, _)| !blocked.contains(label)));
            return n + choose_weighted(weighted, rng, blocked, &mut out[n..]);
        }
        n
    }

    /// Draws neighbours of the positives: an edge by its weight, so that a label weighs as much as all
    /// edges to it.
    fn draw_neighbours(
        &self,
        positives: &[u32],
        rng: &mut Rng,
        scratch: &mut Scratch,
        out: &mut [i32],
    ) -> usize {
        let (Some(edges), false) = (&self.edges, out.is_empty()) else {
            return 0;
        };
        let Scratch { blocked, weighted, sums, .. } = scratch;
        sums.clear();
        let (mut total, mut n_edges) = (0f64, 0);
        for &label in positives {
            let (places, weight) = edges.row(label as usize);
            if !places.is_empty() {
                total += weight;
                n_edges += places.len();
                sums.push((total, places));
            }
        }
        let mut n = 0;
        // While most neighbours are free, only the drawn ones are read.
        if n_edges > 2 * out.len() {
            let draw = || {
                let i = at_weight(sums, |&(sum, _)| sum, rng.unit() * total);
                let places = &sums[i].1;
                (places.start + rng.below(places.len() as u32) as usize, rng.bits() as u32)
            };
            n = reject(8 + 2 * out.len(), blocked, out, draw, |place, bits| {
                edges.read(place, bits)
            });
        }
        if n == out.len() {
            return n;
        }
        // Else all free ones are listed, with the sum of weights up to each.
        weighted.clear();
        let mut free = 0f64;
        let mut before = 0f64;
        for (sum, places) in &*sums {
            let unit = (sum - before) / places.len() as f64 / FULL;
            before = *sum;
            for place in edges.places(places.clone()) {
                let own = f64::from(place.threshold);
                for (label, share) in [(place.own, own), (place.other, FULL - own)] {
                    if share > 0.0 && !blocked.contains(label) {
                        free += share * unit;
                        weighted.push((label, free));
                    }
                }
            }
        }
        if weighted.len() > 2 * (out.len() - n) {
            let draw = || (at_weight(weighted, |&(_, sum)| sum, rng.unit() * free), 0);
            let tries = 8 + 4 * (out.len() - n);
            n += reject(tries, blocked, &mut out[n..], draw, |place, _| weighted[place].0);
        }
        if n < out.len() {
            let mut before = 0f64;
            for (_, sum) in &mut *weighted {
                (*sum, before) = (*sum - before, *sum);
            }
            weighted.retain(|&(label, _)| !blocked.contains(label));
            n += choose_weighted(weighted, rng, blocked, &mut out[n..]);
        }
        n
    }

    /// Draws from the shortlist of the point, each label alike.
    fn draw_listed(
        &self,
        point: usize,
        rng: &mut Rng,
        scratch: &mut Scratch,
        out: &mut [i32],
    ) -> usize {
        let Some(lists) = &self.lists else {
            return 0;
        };
        let Scratch { blocked, pool, .. } = scratch;
        pool.clear();
        let listed = lists.row(point).iter().map(|&label| label as u32);
        pool.extend(listed.filter(|&label| !blocked.contains(label) && self.is_candidate(label)));
        choose(pool, rng, blocked, out)
    }
}

/// Draws until `out` is full or the tries are used up, taking what is not blocked. `draw` picks a
/// place and bits to choose with, `read` looks there.
///
/// Draws come some at a time, each of these three steps for all of them: places lie far apart in
/// memory, and so the waits for them overlap.
fn reject(
    mut tries: usize,
    blocked: &mut Blocked,
    out: &mut [i32],
    mut draw: impl FnMut() -> (usize, u32),
    read: impl Fn(usize, u32) -> u32,
) -> usize {
    let (mut drawn, mut labels) = ([(0, 0); AHEAD], [0; AHEAD]);
    let mut n = 0;
    while n < out.len() && tries > 0 {
        let ahead = AHEAD.min(out.len() - n).min(tries);
        tries -= ahead;
        for place in &mut drawn[..ahead] {
            *place = draw();
        }
        for (label, &(place, bits)) in labels.iter_mut().zip(&drawn[..ahead]) {
            *label = read(place, bits);
        }
        for &label in &labels[..ahead] {
            if blocked.insert(label) {
                out[n] = label as i32;
                n += 1;
            }
        }
    }
    n
}

/// Takes labels of the pool at random, without replacement; all of them if they are few.
fn choose(pool: &mut [u32], rng: &mut Rng, blocked: &mut Blocked, out: &mut [i32]) -> usize {
    let n = out.len().min(pool.len());
    for (i, id) in out[..n].iter_mut().enumerate() {
        let other = i + rng.below((pool.len() - i) as u32) as usize;
        pool.swap(i, other);
        blocked.insert(pool[i]);
        *id = pool[i] as i32;
    }
    n
}

/// The first entry whose sum of weights is above `at`, or the last one where rounding leaves none.
#[inline]
fn at_weight<T>(entries: &[T], sum: impl Fn(&T) -> f64, at: f64) -> usize {
    entries.partition_point(|entry| sum(entry) <= at).min(entries.len() - 1)
}

/// As [`choose`], by weight: labels in the order of their arrival, if each comes after a time with
/// an exponential distribution whose rate is its weight (Efraimidis and Spirakis 2006). A label may
/// have several entries: it comes with the first, and rates add up.
fn choose_weighted(
    pool: &mut [(u32, f64)],
    rng: &mut Rng,
    blocked: &mut Blocked,
    out: &mut [i32],
) -> usize {
    // Where rounding left nothing of a weight, the label comes after all others.
    for entry in &mut *pool {
        entry.1 = -(1.0 - rng.unit()).ln() / entry.1.max(f64::MIN_POSITIVE);
    }
    let by_time = |a: &(u32, f64), b: &(u32, f64)| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0));
    let (mut n, mut rest) = (0, pool);
    while n < out.len() && !rest.is_empty() {
        // As many as are missing, again if some of them were the same label.
        let next = rest.len().min(out.len() - n);
        if next < rest.len() {
            rest.select_nth_unstable_by(next - 1, by_time);
        }
        let (first, later) = rest.split_at_mut(next);
        first.sort_unstable_by(by_time);
        for &mut (label, _) in first {
            if blocked.insert(label) {
                out[n] = label as i32;
                n += 1;
            }
        }
        rest = later;
    }
    n
}
