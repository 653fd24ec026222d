//! Random walks with restart.

use super::{BLOCK_LABELS, Bipartite, check_top, push_best};
use crate::csr::Csr;
use crate::error::{Error, Result};
use crate::rank::Score;
use crate::rng::Rng;

/// Longest walk: what a thread remembers of its walks stays below a few MiB.
pub const MAX_STEPS: usize = 1 << 16;
/// Walks that a thread takes in lockstep. Each step waits for memory four times; the waits of
/// independent walks overlap.
const LOCKSTEP: usize = 16;
const STREAM: u64 = u64::from_le_bytes(*b"walk\0\0\0\0");

/// How to walk; see [`Bipartite::random_walk`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RandomWalk {
    /// Steps from each label, 1 to [`MAX_STEPS`].
    pub n_steps: usize,
    /// Probability to go back to the first label before a step, in 0..=1.
    pub restart: f64,
    /// Neighbours kept for each label; of equal visits the smaller labels.
    pub top: usize,
    /// Labels visited less often are dropped.
    pub min_count: usize,
    /// Whether a label may be its own neighbour.
    pub keep_self: bool,
    /// Seed; the walk from a label is a function of seed and label alone.
    pub seed: u64,
}

impl Default for RandomWalk {
    fn default() -> Self {
        Self { n_steps: 400, restart: 0.8, top: 50, min_count: 1, keep_self: false, seed: 0 }
    }
}

impl RandomWalk {
    fn check(&self) -> Result<()> {
        if !(1..=MAX_STEPS).contains(&self.n_steps) {
            let (name, rule) = ("n_steps", "must be in 1..=65536");
            return Err(Error::Parameter { name, rule, value: self.n_steps.to_string() });
        }
        if !(0.0..=1.0).contains(&self.restart) {
            let (name, rule) = ("restart", "must be in 0..=1");
            return Err(Error::Parameter { name, rule, value: self.restart.to_string() });
        }
        check_top(self.top)
    }
}

impl Bipartite {
    /// Visits of random walks from each label.
    ///
    /// A step goes from a label to one of its points and on to one of that point's labels, each
    /// drawn evenly; the label that it ends at has been visited once more. The first step starts at
    /// the label itself, and so does each later one with probability `restart`; otherwise it starts
    /// where the last one ended. The value of an edge is its number of visits.
    ///
    /// # Errors
    /// [`Error::Parameter`] for an option out of range; [`Error::Interrupted`] if `keep_going` turns
    /// false.
    pub fn random_walk(
        &self,
        walk: &RandomWalk,
        keep_going: &(dyn Fn() -> bool + Sync),
    ) -> Result<Csr> {
        walk.check()?;
        self.neighbours(
            keep_going,
            || Ok(Scratch::new(walk.n_steps)),
            |scratch, block, part| {
                scratch.active.clear();
                let has_points = |label: &usize| !self.points.row(*label).is_empty();
                scratch.active.extend(block.clone().filter(has_points).map(|label| label as u32));
                let mut next = block.start;
                let active = std::mem::take(&mut scratch.active);
                for group in active.chunks(LOCKSTEP) {
                    self.walk(walk, group, &mut scratch.visits);
                    for (&label, visits) in group.iter().zip(scratch.visits.chunks(walk.n_steps)) {
                        for _ in next..label as usize {
                            part.push_row([].into_iter())?;
                        }
                        next = label as usize + 1;
                        scratch.counter.count(visits);
                        let dropped = if walk.keep_self { u32::MAX } else { label };
                        scratch.counter.drain(dropped, walk.min_count, &mut scratch.keys);
                        push_best(part, &mut scratch.keys, walk.top)?;
                    }
                }
                scratch.active = active;
                for _ in next..block.end {
                    part.push_row([].into_iter())?;
                }
                Ok(())
            },
        )
    }

    /// Walks from up to [`LOCKSTEP`] labels that have points; `visits` holds one walk after another.
    fn walk(&self, walk: &RandomWalk, from: &[u32], visits: &mut [u32]) {
        let n = from.len();
        let restart_below = (walk.restart * (1u64 << 53) as f64) as u64;
        let mut rngs: [Rng; LOCKSTEP] = std::array::from_fn(|i| {
            Rng::new(walk.seed, &[STREAM, u64::from(from.get(i).copied().unwrap_or(0))])
        });
        let mut first = [from[0]; LOCKSTEP];
        first[..n].copy_from_slice(from);
        let mut at = first;
        let (mut cell, mut point) = ([0u32; LOCKSTEP], [0u32; LOCKSTEP]);
        for step in 0..walk.n_steps {
            for i in 0..LOCKSTEP {
                let restarts = (rngs[i].bits() >> 11) < restart_below;
                let label = if restarts { first[i] } else { at[i] } as usize;
                let start = self.points.starts[label];
                cell[i] = start + rngs[i].below(self.points.starts[label + 1] - start);
            }
            for i in 0..LOCKSTEP {
                point[i] = self.points.items[cell[i] as usize];
            }
            for i in 0..LOCKSTEP {
                let start = self.labels.starts[point[i] as usize];
                let n_labels = self.labels.starts[point[i] as usize + 1] - start;
                cell[i] = start + rngs[i].below(n_labels);
            }
            for i in 0..LOCKSTEP {
                at[i] = self.labels.items[cell[i] as usize];
            }
            for i in 0..n {
                visits[i * walk.n_steps + step] = at[i];
            }
        }
    }
}

/// Memory of one thread.
struct Scratch {
    active: Vec<u32>,
    visits: Vec<u32>,
    counter: Counter,
    keys: Vec<u64>,
}

impl Scratch {
    fn new(n_steps: usize) -> Self {
        Self {
            active: Vec::with_capacity(BLOCK_LABELS),
            visits: vec![0; LOCKSTEP * n_steps],
            counter: Counter::new(n_steps),
            keys: Vec::with_capacity(n_steps),
        }
    }
}

/// Counts labels: a hash table twice the size of a walk, which the fast cache holds.
struct Counter {
    /// Label and count; the label of an empty slot is `u32::MAX`.
    slots: Vec<(u32, u32)>,
    used: Vec<u32>,
    shift: u32,
}

impl Counter {
    fn new(n_steps: usize) -> Self {
        let n_slots = (2 * n_steps).next_power_of_two();
        let shift = 32 - n_slots.trailing_zeros();
        Self { slots: vec![(u32::MAX, 0); n_slots], used: Vec::with_capacity(n_steps), shift }
    }

    fn count(&mut self, labels: &[u32]) {
        let mask = self.slots.len() - 1;
        for &label in labels {
            let mut at = (label.wrapping_mul(0x9e37_79b1) >> self.shift) as usize & mask;
            loop {
                let slot = &mut self.slots[at];
                if slot.0 == label {
                    slot.1 += 1;
                    break;
                }
                if slot.0 == u32::MAX {
                    *slot = (label, 1);
                    self.used.push(at as u32);
                    break;
                }
                at = (at + 1) & mask;
            }
        }
    }

    /// Moves the counts into `keys` and empties the table.
    fn drain(&mut self, dropped: u32, min_count: usize, keys: &mut Vec<u64>) {
        keys.clear();
        for at in self.used.drain(..) {
            let (label, count) = std::mem::replace(&mut self.slots[at as usize], (u32::MAX, 0));
            if label != dropped && count as usize >= min_count {
                keys.push((count as f32).key(label as i32));
            }
        }
    }
}
