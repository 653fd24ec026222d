//! Draws of labels by weight, in constant time.

use crate::rng::Rng;

/// Walker's alias table, built after Vose: cell i keeps its own label with a probability, else it
/// stands for another one. Thresholds have 32 bits.
#[derive(Debug, Clone)]
pub(super) struct Alias(Vec<(u32, u32)>);

impl Alias {
    /// A table for weights that are finite and >= 0; nothing if all are 0.
    pub(super) fn new(weights: &[f64]) -> Option<Self> {
        let largest = weights.iter().copied().fold(0.0, f64::max);
        if !(largest > 0.0 && largest.is_finite()) {
            return None;
        }
        // Divided first, so that the sum of the largest weights does not overflow.
        let total: f64 = weights.iter().map(|weight| weight / largest).sum();
        let share = weights.len() as f64 / total;
        let mut shares: Vec<f64> = weights.iter().map(|weight| weight / largest * share).collect();
        let mut cells: Vec<(u32, u32)> = (0..weights.len() as u32).map(|i| (u32::MAX, i)).collect();
        let (mut small, mut large): (Vec<u32>, Vec<u32>) =
            (0..weights.len() as u32).partition(|&i| shares[i as usize] < 1.0);
        while let (Some(&giver), Some(taker)) = (large.last(), small.pop()) {
            let left = shares[taker as usize];
            cells[taker as usize] = ((left * (1u64 << 32) as f64) as u32, giver);
            shares[giver as usize] -= 1.0 - left;
            if shares[giver as usize] < 1.0 {
                large.pop();
                small.push(giver);
            }
        }
        // Rounding may leave small cells without a giver: those of weight 0 must still never be drawn.
        for cell in small {
            if weights[cell as usize] == 0.0 {
                let heaviest = weights.iter().position(|&weight| weight >= largest);
                cells[cell as usize] = (0, heaviest.unwrap_or(0) as u32);
            }
        }
        Some(Self(cells))
    }

    #[inline]
    pub(super) fn draw(&self, rng: &mut Rng) -> u32 {
        let cell = rng.below(self.0.len() as u32);
        let (threshold, other) = self.0[cell as usize];
        if (rng.bits() as u32) < threshold { cell } else { other }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn cells_add_up_to_the_weights() {
        let weights = [0.0, 1.0, 3.0, 0.0, 1e-3, 2.5, 0.7];
        let table = Alias::new(&weights).unwrap();
        let mut mass = [0f64; 7];
        for (cell, &(threshold, other)) in table.0.iter().enumerate() {
            let own = f64::from(threshold) / (1u64 << 32) as f64;
            mass[cell] += own;
            mass[other as usize] += 1.0 - own;
        }
        let total: f64 = weights.iter().sum();
        for (mass, weight) in mass.iter().zip(weights) {
            assert!((mass / 7.0 - weight / total).abs() < 1e-8, "{mass} {weight}");
        }
        let mut rng = Rng::new(1, &[]);
        assert!((0..10_000).all(|_| weights[table.draw(&mut rng) as usize] > 0.0));
        assert!(Alias::new(&[0.0, 0.0]).is_none());
        assert!(Alias::new(&[]).is_none());
        assert!(Alias::new(&[1e308, 1e308]).is_some());
    }
}
