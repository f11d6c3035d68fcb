//! How a language model's label words are scored.

use hybrid_data::{Example, derive_seed, k_shot};
use hybrid_prompts::{Calibration, LabelScoring, LengthNormalization};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::HybridError;

/// How a language model's label words are scored.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ScoringConfig {
    /// How label words of different lengths are made comparable.
    pub normalization: LengthNormalization,
    /// By what the class probabilities are divided.
    pub calibration: CalibrationConfig,
}

/// By what class probabilities are divided, so that what a prompt says whatever the input is no
/// evidence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CalibrationConfig {
    /// By nothing.
    None,
    /// By their mean for inputs without content, which take the place of every field.
    ContentFree(Vec<String>),
    /// By weights under which all labels are equally likely for so many fit inputs of each label,
    /// drawn with the run's seed.
    FitInputs(#[schemars(range(min = 1))] usize),
}

impl Default for CalibrationConfig {
    fn default() -> Self {
        Self::ContentFree(Calibration::CONTENT_FREE.map(str::to_owned).to_vec())
    }
}

impl ScoringConfig {
    /// The scoring, with the inputs that calibrate it drawn from `fit`.
    ///
    /// # Errors
    /// [`HybridError::Data`] for an example without a label.
    pub(crate) fn label_scoring(
        &self,
        fit: &[Example],
        seed: u64,
    ) -> Result<LabelScoring, HybridError> {
        let calibration = match &self.calibration {
            CalibrationConfig::None => Calibration::None,
            CalibrationConfig::ContentFree(texts) => Calibration::ContentFree(texts.clone()),
            CalibrationConfig::FitInputs(n) => {
                let seed = derive_seed(seed, "scoring/calibration");
                let drawn = k_shot(fit.to_vec(), *n, Some(seed))?;
                Calibration::Inputs(drawn.into_iter().map(|example| example.fields).collect())
            }
        };
        Ok(LabelScoring {
            normalization: self.normalization,
            calibration,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use hybrid_data::{Example, Origin};
    use hybrid_prompts::{Calibration, LabelScoring};

    use super::ScoringConfig;

    fn scoring(toml: &str, fit: &[Example]) -> LabelScoring {
        let config: ScoringConfig = toml::from_str(toml).unwrap();
        config.label_scoring(fit, 1).unwrap()
    }

    #[test]
    fn fit_inputs_calibrate_without_their_labels() {
        let fit: Vec<Example> = (0..12)
            .map(|row| Example {
                fields: BTreeMap::from([("text".to_owned(), format!("{row}"))]),
                label: Some(["a", "b", "c"][row % 3].to_owned()),
                references: Vec::new(),
                label_start: None,
                origin: Origin {
                    file: Path::new("fit.jsonl").into(),
                    line: row,
                },
            })
            .collect();
        let drawn = scoring("calibration = { fit_inputs = 2 }", &fit);
        let Calibration::Inputs(inputs) = &drawn.calibration else {
            panic!("{drawn:?}")
        };
        let mut of_label = [0; 3];
        for input in inputs {
            of_label[input["text"].parse::<usize>().unwrap() % 3] += 1;
        }
        assert_eq!(of_label, [2; 3]);
        assert_eq!(drawn, scoring("calibration = { fit_inputs = 2 }", &fit));
        assert_eq!(scoring("", &fit), LabelScoring::default());
        assert_eq!(
            scoring("calibration = \"none\"", &fit),
            LabelScoring::uncalibrated()
        );
        let stored = serde_json::to_string(&drawn).unwrap();
        assert_eq!(
            serde_json::from_str::<LabelScoring>(&stored).unwrap(),
            drawn
        );
    }
}
