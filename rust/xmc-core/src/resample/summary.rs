//! Intervals and p-values from resamples.

use crate::error::{Error, Result};

/// Interval and standard error of a number, from its bootstrap.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Standard deviation of the resamples, with n - 1.
    pub standard_error: f64,
}

/// The percentile interval and the standard error of bootstrap values.
///
/// The ends are the quantiles (1 - `confidence`)/2 and (1 + `confidence`)/2 of the values, linear
/// between the neighbouring ones (type 7 of Hyndman and Fan, the default of numpy and R). NaN
/// values are left out; with fewer than two others everything is NaN.
///
/// # Errors
/// [`Error::Parameter`] if `confidence` does not lie between 0 and 1.
pub fn interval(values: &[f64], confidence: f64) -> Result<Interval> {
    if !(confidence > 0.0 && confidence < 1.0) {
        let (name, rule) = ("confidence", "must lie between 0 and 1");
        return Err(Error::Parameter { name, rule, value: confidence.to_string() });
    }
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| !value.is_nan()).collect();
    if sorted.len() < 2 {
        return Ok(Interval { low: f64::NAN, high: f64::NAN, standard_error: f64::NAN });
    }
    sorted.sort_unstable_by(f64::total_cmp);
    // Deviations from one of the values: equal values have the error 0, not a rounding's.
    let n = sorted.len() as f64;
    let base = sorted[sorted.len() / 2];
    let mean = sorted.iter().map(|value| value - base).sum::<f64>() / n;
    let squares: f64 = sorted.iter().map(|value| (value - base - mean).powi(2)).sum();
    Ok(Interval {
        low: quantile(&sorted, (1.0 - confidence) / 2.0),
        high: quantile(&sorted, f64::midpoint(1.0, confidence)),
        standard_error: (squares / (n - 1.0)).sqrt(),
    })
}

fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let below = place.floor();
    let low = sorted[below as usize];
    let high = sorted[place.ceil() as usize];
    low + (high - low) * (place - below)
}

/// The two-sided p-value of a difference among the differences under random sign flips:
/// (1 + number at least as far from 0) / (1 + number). Differences within `tolerance` are equal.
/// NaN for a difference that is NaN.
#[must_use]
pub fn p_value(difference: f64, tolerance: f64, flips: &[f64]) -> f64 {
    if difference.is_nan() {
        return f64::NAN;
    }
    let limit = difference.abs() - tolerance;
    let far = flips.iter().filter(|flip| flip.abs() >= limit).count();
    (1 + far) as f64 / (1 + flips.len()) as f64
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_linear_between_values() {
        let found = interval(&[4.0, f64::NAN, 1.0, 2.0, 3.0, 5.0], 0.9).unwrap();
        assert!((found.low - 1.2).abs() < 1e-12 && (found.high - 4.8).abs() < 1e-12);
        assert!((found.standard_error - 2.5_f64.sqrt()).abs() < 1e-12);
        let equal = interval(&[0.1; 3], 0.95).unwrap();
        assert_eq!(equal, Interval { low: 0.1, high: 0.1, standard_error: 0.0 });
        assert!(interval(&[1.0, f64::NAN], 0.5).unwrap().low.is_nan());
        for confidence in [0.0, 1.0, f64::NAN] {
            let message = interval(&[1.0], confidence).unwrap_err().to_string();
            assert_eq!(message, format!("confidence must lie between 0 and 1, not {confidence}"));
        }
    }

    #[test]
    fn p_values_count_both_sides_and_the_sample_itself() {
        assert!((p_value(-2.0, 0.0, &[1.0, 2.0, -3.0]) - 0.75).abs() < 1e-12);
        assert!((p_value(2.0, 0.1, &[1.0, 1.95, 0.0]) - 0.5).abs() < 1e-12);
        assert!((p_value(0.0, 0.0, &[0.0, 1.0]) - 1.0).abs() < 1e-12);
        assert!(p_value(f64::NAN, 0.0, &[1.0]).is_nan());
    }
}
