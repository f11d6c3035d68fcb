//! Is a prediction made with 80 % confidence right 80 % of the time?

use serde::{Deserialize, Serialize};

use super::probability::{check_probabilities, most_probable};
use crate::EvalError;

/// Agreement of confidence and accuracy (Guo et al. 2017, eq. 3 and 5): equal-width bins
/// `(low, high]` of the highest probability.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Number of bins, empty ones included.
    pub n_bins: usize,
    /// Expected calibration error: the gap of each bin, weighted by its share of the examples.
    pub ece: f64,
    /// Maximum calibration error: the largest gap.
    pub mce: f64,
    /// The bins that hold examples, by rising confidence.
    pub bins: Vec<CalibrationBin>,
}

/// Examples of similar confidence.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CalibrationBin {
    /// Index: the bin spans `(bin / n_bins, (bin + 1) / n_bins]`.
    pub bin: usize,
    /// Number of examples.
    pub count: u64,
    /// Share of right predictions.
    pub accuracy: f64,
    /// Mean confidence.
    pub confidence: f64,
}

impl Calibration {
    /// Bins the predictions by confidence.
    ///
    /// ```
    /// use hybrid_eval::Calibration;
    ///
    /// let calibration = Calibration::of(&[vec![0.9, 0.1], vec![0.9, 0.1]], &[0, 1], 10)?;
    /// assert!((calibration.ece - 0.4).abs() < 1e-12);
    /// # Ok::<(), hybrid_eval::EvalError>(())
    /// ```
    ///
    /// # Errors
    /// As [`brier`](crate::brier).
    pub fn of(
        probabilities: &[Vec<f64>],
        targets: &[usize],
        n_bins: usize,
    ) -> Result<Self, EvalError> {
        check_probabilities(probabilities, targets)?;
        let mut bins: Vec<CalibrationBin> = (0..n_bins)
            .map(|bin| CalibrationBin {
                bin,
                count: 0,
                accuracy: 0.0,
                confidence: 0.0,
            })
            .collect();
        for (row, target) in probabilities.iter().zip(targets) {
            let prediction = most_probable(row);
            let confidence = row[prediction];
            let upper_edge = |bin: usize| (bin + 1) as f64 / n_bins as f64;
            // Rounding may lift a probability above 1: it belongs to the last bin.
            let Some(index) =
                (0..n_bins).find(|bin| confidence <= upper_edge(*bin) || bin + 1 == n_bins)
            else {
                continue;
            };
            bins[index].count += 1;
            bins[index].confidence += confidence;
            bins[index].accuracy += if prediction == *target { 1.0 } else { 0.0 };
        }
        bins.retain(|bin| bin.count > 0);
        let (mut ece, mut mce) = (0.0, 0.0f64);
        for bin in &mut bins {
            bin.accuracy /= bin.count as f64;
            bin.confidence /= bin.count as f64;
            let gap = (bin.accuracy - bin.confidence).abs();
            ece += bin.count as f64 / targets.len() as f64 * gap;
            mce = mce.max(gap);
        }
        Ok(Self {
            n_bins,
            ece,
            mce,
            bins,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Calibration;

    #[test]
    fn an_edge_belongs_to_the_lower_bin_and_excess_to_the_last() {
        let rows = [vec![0.5, 0.5], vec![1.0 + 1e-12, 0.0]];
        let calibration = Calibration::of(&rows, &[0, 0], 10).unwrap();
        let bins: Vec<usize> = calibration.bins.iter().map(|bin| bin.bin).collect();
        assert_eq!(bins, [4, 9]);
        assert!((calibration.ece - 0.25).abs() < 1e-9);
        assert!((calibration.mce - 0.5).abs() < 1e-9);
    }
}
