//! [`Spread`]: median and quartiles.

use serde::{Deserialize, Serialize};

/// Median and quartiles of some values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Lower quartile.
    pub q1: f64,
    /// Median.
    pub median: f64,
    /// Upper quartile.
    pub q3: f64,
}

impl Spread {
    /// Computes the median and quartiles of `values`. `None` if `values` is empty or has a value that
    /// is not finite.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.into_iter().collect();
        if values.is_empty() || values.iter().any(|value| !value.is_finite()) {
            return None;
        }
        values.sort_by(f64::total_cmp);
        Some(Spread {
            q1: quantile(&values, 0.25),
            median: quantile(&values, 0.5),
            q3: quantile(&values, 0.75),
        })
    }

    /// Computes the median and quartiles of `numerators[i] / denominators[i]`.
    pub fn of_ratios(
        numerators: impl IntoIterator<Item = f64>,
        denominators: impl IntoIterator<Item = f64>,
    ) -> Option<Spread> {
        Spread::of(numerators.into_iter().zip(denominators).map(|(a, b)| a / b))
    }
}

/// The quantile `q` of the sorted `values`, with linear interpolation.
fn quantile(values: &[f64], q: f64) -> f64 {
    let position = q * (values.len() - 1) as f64;
    let (low, high) = (position.floor() as usize, position.ceil() as usize);
    let weight = position - low as f64;
    values[low] * (1.0 - weight) + values[high] * weight
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_odd_number_of_values_is_the_middle_one() {
        let spread = Spread::of([5.0, 1.0, 3.0, 2.0, 4.0]).unwrap();
        assert_eq!((spread.q1, spread.median, spread.q3), (2.0, 3.0, 4.0));
    }

    #[test]
    fn the_median_of_an_even_number_of_values_is_the_mean_of_the_middle_two() {
        let spread = Spread::of([4.0, 1.0, 2.0, 3.0]).unwrap();
        assert_eq!((spread.q1, spread.median, spread.q3), (1.75, 2.5, 3.25));
    }

    #[test]
    fn ratios_are_computed_element_by_element() {
        // The ratio of the medians would be 4.
        let spread = Spread::of_ratios([10.0, 20.0, 30.0], [5.0, 10.0, 1.0]).unwrap();
        assert_eq!(spread.median, 2.0);
        let spread = Spread::of_ratios([2.0, 4.0], [1.0, 2.0]).unwrap();
        assert_eq!((spread.q1, spread.median, spread.q3), (2.0, 2.0, 2.0));
    }

    #[test]
    fn empty_or_non_finite_values_have_no_median() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of_ratios([1.0], [0.0]), None);
    }
}
