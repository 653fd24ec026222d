//! A trained ranker as plain arrays, and the checked view of them.

use super::network::{Network, Shape};
use super::standard::{Standard, StandardView};
use super::{check_length, parameter};
use crate::error::{Error, Result};
use crate::memory::with_room;

/// A trained ranker, as arrays that the caller saves. All are row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranker {
    /// Mean of each feature, `n_features`.
    pub mean: Vec<f32>,
    /// Deviation of each feature, `n_features`.
    pub deviation: Vec<f32>,
    /// w, (`n_members`, `n_features`).
    pub linear: Vec<f32>,
    /// v, (`n_members`, `hidden`).
    pub output: Vec<f32>,
    /// W, (`n_members`, `hidden`, `n_features`).
    pub weights: Vec<f32>,
    /// b, (`n_members`, `hidden`).
    pub bias: Vec<f32>,
}

impl Ranker {
    pub(super) fn new(standard: Standard, hidden: usize, members: &[Network]) -> Result<Self> {
        let Standard { mean, deviation } = standard;
        let (n, n_features) = (members.len(), mean.len());
        let mut linear = with_room(n.saturating_mul(n_features))?;
        let mut output = with_room(n.saturating_mul(hidden))?;
        let mut bias = with_room(n.saturating_mul(hidden))?;
        let mut weights = with_room(n.saturating_mul(hidden).saturating_mul(n_features))?;
        for Network { shape, params } in members {
            linear.extend_from_slice(&params[..n_features]);
            for unit in 0..hidden {
                output.push(params[shape.output(unit)]);
                bias.push(params[shape.bias(unit)]);
                weights.extend((0..n_features).map(|f| params[shape.weight(unit, f)]));
            }
        }
        Ok(Self { mean, deviation, linear, output, weights, bias })
    }

    /// The checked view of the arrays.
    ///
    /// # Errors
    /// None for a ranker from [`fit_ranker`](crate::fit_ranker); else as [`RankerView::new`].
    pub fn view(&self) -> Result<RankerView<'_>> {
        let n_members = self.linear.len() / self.mean.len().max(1);
        RankerView::new(
            n_members,
            self.bias.len() / n_members.max(1),
            [&self.mean, &self.deviation],
            [&self.linear, &self.output, &self.weights, &self.bias],
        )
    }
}

/// The arrays of a [`Ranker`], from wherever they come; valid once built.
#[derive(Debug, Clone, Copy)]
pub struct RankerView<'a> {
    shape: Shape,
    n_members: usize,
    standard: StandardView<'a>,
    linear: &'a [f32],
    output: &'a [f32],
    weights: &'a [f32],
    bias: &'a [f32],
}

impl<'a> RankerView<'a> {
    /// Checks the arrays: mean and deviation, then linear, output, weights and bias, each laid out as
    /// in [`Ranker`].
    ///
    /// # Errors
    /// [`Error::Length`] if they do not fit together; [`Error::Parameter`] without members or features,
    /// for a value that is not finite and for a deviation that is not positive.
    pub fn new(
        n_members: usize,
        hidden: usize,
        [mean, deviation]: [&'a [f32]; 2],
        [linear, output, weights, bias]: [&'a [f32]; 4],
    ) -> Result<Self> {
        let n_features = mean.len();
        for (name, value) in [("n_members", n_members), ("n_features", n_features)] {
            if value == 0 {
                return Err(parameter(name, "must be at least 1", 0));
            }
        }
        let units = n_members.saturating_mul(hidden);
        for (name, array, expected) in [
            ("mean", mean, n_features),
            ("deviation", deviation, n_features),
            ("linear", linear, n_members.saturating_mul(n_features)),
            ("output", output, units),
            ("weights", weights, units.saturating_mul(n_features)),
            ("bias", bias, units),
        ] {
            check_length(name, "values", expected, array.len())?;
            let (rule, bad) = match name {
                "deviation" => ("must be finite and above 0", first_not(array, |x| x > 0.0)),
                _ => ("must be finite", first_not(array, |_| true)),
            };
            if let Some(at) = bad {
                let value = format!("{} (value {at})", array[at]);
                return Err(Error::Parameter { name, rule, value });
            }
        }
        let (shape, standard) = (Shape { n_features, hidden }, StandardView { mean, deviation });
        Ok(Self { shape, n_members, standard, linear, output, weights, bias })
    }

    /// Features a pair.
    #[must_use]
    pub fn n_features(&self) -> usize {
        self.shape.n_features
    }

    pub(super) fn standard(&self) -> StandardView<'a> {
        self.standard
    }

    /// The members, laid out for scoring.
    pub(super) fn networks(&self) -> Result<Vec<Network>> {
        let Shape { n_features, hidden } = self.shape;
        let mut networks = with_room(self.n_members)?;
        for member in 0..self.n_members {
            let mut network = Network::zero(self.shape)?;
            let row = member * n_features..(member + 1) * n_features;
            network.params[..n_features].copy_from_slice(&self.linear[row]);
            for unit in 0..hidden {
                let at = member * hidden + unit;
                network.params[self.shape.output(unit)] = self.output[at];
                network.params[self.shape.bias(unit)] = self.bias[at];
                let row = &self.weights[at * n_features..(at + 1) * n_features];
                for (feature, &weight) in row.iter().enumerate() {
                    network.params[self.shape.weight(unit, feature)] = weight;
                }
            }
            networks.push(network);
        }
        Ok(networks)
    }
}

/// Where the first value is that is not finite or not as it should be.
fn first_not(values: &[f32], good: impl Fn(f32) -> bool) -> Option<usize> {
    values.iter().position(|&x| !(x.is_finite() && good(x)))
}
