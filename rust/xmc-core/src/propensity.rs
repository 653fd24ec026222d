//! Label frequencies and inverse propensities.

use crate::error::{Error, Fault, Result};
use crate::frequencies::Frequencies;
use crate::memory::collected;

/// Counts whose weights are computed in advance.
const SMALL: usize = 1024;

/// Number of positives (stored values > 0) of each label, from the entries of a CSR matrix.
///
/// # Errors
/// [`Error::Length`] if `indices` and `data` differ in length; [`Error::Content`] for an id outside
/// `0..n_labels`, with the position of the entry as its row.
pub fn label_counts(n_labels: usize, indices: &[i32], data: &[f32]) -> Result<Vec<i64>> {
    if indices.len() != data.len() {
        let (expected, found) = (indices.len(), data.len());
        return Err(Error::Length { name: "data".into(), what: "values", expected, found });
    }
    let mut frequencies = Frequencies::new(n_labels)?;
    if let Some(position) = frequencies.add(indices, data)? {
        let fault = Fault::LabelOutOfRange { label: indices[position].to_string(), n_labels };
        return Err(Error::at_row("indices", position, fault));
    }
    frequencies.counts()
}

/// Weight by number of training positives.
pub(crate) struct Curve {
    c: f64,
    a: f64,
    b: f64,
}

impl Curve {
    /// As [`inv_propensity`] has it.
    pub(crate) fn new(n_points: usize, a: f64, b: f64) -> Result<Self> {
        if n_points < 3 {
            let (name, rule, value) = ("n_points", "must be at least 3", n_points.to_string());
            return Err(Error::Parameter { name, rule, value });
        }
        if !a.is_finite() {
            let (name, rule, value) = ("a", "must be finite", a.to_string());
            return Err(Error::Parameter { name, rule, value });
        }
        if !b.is_finite() || b < 0.0 {
            let (name, rule, value) = ("b", "must be finite and >= 0", b.to_string());
            return Err(Error::Parameter { name, rule, value });
        }
        Ok(Self { c: ((n_points as f64).ln() - 1.0) * (b + 1.0).powf(a), a, b })
    }

    #[inline]
    pub(crate) fn at(&self, count: i64) -> f64 {
        1.0 + self.c * (count as f64 + self.b).powf(-self.a)
    }
}

/// Inverse propensities `1 + C (n_l + b)^-a` with `C = (ln N - 1)(b + 1)^a`.
///
/// `counts` holds the training positives `n_l` of each label, `n_points` is the number `N` of training
/// points, points without labels included.
///
/// # Errors
/// [`Error::Parameter`] if `n_points < 3` (the weights would fall below 1), if `a` is not finite, or
/// if `b` is not finite or negative; [`Error::BadWeight`] if a weight comes out not finite or not
/// positive.
pub fn inv_propensity(counts: &[i64], n_points: usize, a: f64, b: f64) -> Result<Vec<f64>> {
    let curve = Curve::new(n_points, a, b)?;
    // Most labels are rare: a power for each small count, not for each label.
    let small: Vec<f64> =
        (0..counts.len().min(SMALL) as i64).map(|count| curve.at(count)).collect();
    let known = |count: i64| small.get(usize::try_from(count).ok()?).copied();
    let weight = |&count: &i64| known(count).unwrap_or_else(|| curve.at(count));
    let weights = collected(counts.iter().map(weight))?;
    check_weights(&weights)?;
    Ok(weights)
}

/// Every weight is finite and positive.
pub(crate) fn check_weights(weights: &[f64]) -> Result<()> {
    match weights.iter().position(|weight| !(weight.is_finite() && *weight > 0.0)) {
        Some(label) => Err(Error::BadWeight { label, value: weights[label] }),
        None => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_positive_values_count() {
        let counts = label_counts(4, &[0, 1, 1, 3], &[1.0, 0.0, 2.0, 0.5]).unwrap();
        assert_eq!(counts, [1, 1, 0, 1]);
    }

    #[test]
    fn a_label_seen_once_weighs_ln_n() {
        let weights = inv_propensity(&[1], 1000, 0.6, 2.6).unwrap();
        assert!((weights[0] - 1000f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn weights_made_in_advance_are_the_same() {
        let counts: Vec<i64> = (0..3 * SMALL as i64).step_by(7).chain([0; SMALL]).collect();
        let weights = inv_propensity(&counts, 1000, 0.55, 1.5).unwrap();
        for (count, weight) in counts.iter().zip(weights) {
            let alone = inv_propensity(&[5, *count], 1000, 0.55, 1.5).unwrap()[1];
            assert_eq!(alone.to_bits(), weight.to_bits());
        }
    }

    #[test]
    fn errors() {
        let message = |result: Result<Vec<f64>>| result.unwrap_err().to_string();
        assert_eq!(
            message(inv_propensity(&[1], 2, 0.5, 1.0)),
            "n_points must be at least 3, not 2"
        );
        assert_eq!(message(inv_propensity(&[1], 9, f64::NAN, 1.0)), "a must be finite, not NaN");
        assert_eq!(
            message(inv_propensity(&[1], 9, 0.5, -1.0)),
            "b must be finite and >= 0, not -1"
        );
        assert_eq!(
            message(inv_propensity(&[1, 0], 9, 0.5, 0.0)),
            "inv_propensity of label 1 must be finite and > 0, not inf"
        );
        assert_eq!(
            label_counts(2, &[0, 2], &[1.0, 1.0]).unwrap_err().to_string(),
            "indices: row 1: label 2 out of range (n_labels = 2)"
        );
        assert_eq!(
            label_counts(2, &[0], &[]).unwrap_err().to_string(),
            "data: 0 values, expected 1"
        );
    }
}
