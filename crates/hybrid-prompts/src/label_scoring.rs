//! Classification by the probabilities of label words, calibrated.

use std::collections::{BTreeMap, BTreeSet};

use hybrid_data::LabelSet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::PromptError;
use crate::language_model::ContinuationScore;
use crate::prompt::Prompt;

/// How label words of different lengths are made comparable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LengthNormalization {
    /// The probability of the whole word.
    #[default]
    None,
    /// The geometric mean over its tokens.
    PerToken,
    /// The log-probability over the word's bytes in UTF-8, which does not depend on the tokenizer.
    PerByte,
}

/// Most steps of prior matching, whose steps get smaller as they near their end.
const MATCHING_STEPS: usize = 1000;

/// By what the class probabilities are divided, so that what a prompt says whatever the input is no
/// evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Calibration {
    /// By nothing.
    None,
    /// By their mean for inputs without content, which take the place of every field (contextual
    /// calibration; Zhao et al. 2021).
    ContentFree(Vec<String>),
    /// By weights under which all labels are equally likely for inputs of the task on the mean
    /// (prior matching; Liusie et al. 2023), which should be as many of each label.
    Inputs(Vec<BTreeMap<String, String>>),
}

impl Calibration {
    /// The three inputs without content of Zhao et al. 2021 (section 5).
    pub const CONTENT_FREE: [&str; 3] = ["N/A", "", "[MASK]"];

    /// The inputs that calibrate, where inputs have the fields of `like`.
    pub(crate) fn inputs(&self, like: &BTreeMap<String, String>) -> Vec<BTreeMap<String, String>> {
        match self {
            Self::None => Vec::new(),
            Self::ContentFree(texts) => {
                let everywhere = |text: &String| {
                    let fields = like.keys();
                    fields.map(|field| (field.clone(), text.clone())).collect()
                };
                texts.iter().map(everywhere).collect()
            }
            Self::Inputs(inputs) => inputs.clone(),
        }
    }

    /// How often the bias that is left is taken away.
    pub(crate) fn n_steps(&self) -> usize {
        match self {
            Self::None => 0,
            Self::ContentFree(_) => 1,
            Self::Inputs(_) => MATCHING_STEPS,
        }
    }
}

/// How classes are scored by their label words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelScoring {
    /// How label words of different lengths are made comparable.
    pub normalization: LengthNormalization,
    /// By what the class probabilities are divided.
    pub calibration: Calibration,
}

impl Default for LabelScoring {
    /// Contextual calibration.
    fn default() -> Self {
        let texts = Calibration::CONTENT_FREE.map(str::to_owned).to_vec();
        Self {
            normalization: LengthNormalization::default(),
            calibration: Calibration::ContentFree(texts),
        }
    }
}

impl LabelScoring {
    /// Without calibration.
    pub fn uncalibrated() -> Self {
        Self::default().without_calibration()
    }

    /// The same without calibration.
    pub fn without_calibration(self) -> Self {
        Self {
            calibration: Calibration::None,
            ..self
        }
    }
}

/// The label words in class order, with the class of each, checked.
pub(crate) fn labelled_words<'p>(
    prompt: &'p Prompt,
    labels: &LabelSet,
) -> Result<Vec<(usize, &'p str)>, PromptError> {
    let mut owners: BTreeMap<&str, usize> = BTreeMap::new();
    let mut words = Vec::new();
    for (class, label) in labels.names().iter().enumerate() {
        let own = prompt.words_of(label);
        if own.is_empty() || own.iter().any(|word| word.trim().is_empty()) {
            return Err(PromptError::NoLabelWords {
                label: label.clone(),
            });
        }
        let mut seen = BTreeSet::new();
        for word in own {
            // White space in front depends on what the word follows, so it tells no words apart.
            let bare = word.trim_start();
            match owners.insert(bare, class) {
                Some(other) if other != class => {
                    return Err(PromptError::SharedLabelWord {
                        word: bare.to_owned(),
                        first: labels.names()[other].clone(),
                        second: label.clone(),
                    });
                }
                _ => {}
            }
            if seen.insert(bare) {
                words.push((class, word.as_str()));
            }
        }
    }
    Ok(words)
}

/// The class log-probabilities of each row of scored label words. The first `n_calibrating` rows
/// calibrate the others, in `n_steps` steps, and are not returned.
///
/// `words`: the class and text of each column. The probability of a class is the mean over its
/// words; those of all classes are scaled to sum to one, here and after calibration. (Zhao et al.
/// put the calibrated ones through another softmax, which changes no order but would make the
/// probabilities meaningless.)
pub(crate) fn class_log_probabilities(
    rows: &[Vec<ContinuationScore>],
    words: &[(usize, &str)],
    n_labels: usize,
    normalization: LengthNormalization,
    n_calibrating: usize,
    n_steps: usize,
) -> Vec<Vec<f32>> {
    let mut classes: Vec<Vec<f64>> = rows
        .iter()
        .map(|row| {
            let mut of_class = vec![Vec::new(); n_labels];
            for (&(class, word), score) in words.iter().zip(row) {
                of_class[class].push(normalized(score, word, normalization));
            }
            let mut row: Vec<f64> = of_class.iter().map(|values| log_mean_exp(values)).collect();
            to_log_probabilities(&mut row);
            row
        })
        .collect();
    let rows_to_calibrate = classes.split_off(n_calibrating);
    let bias = match n_calibrating {
        0 => vec![0.0; n_labels],
        _ => bias(&classes, n_labels, n_steps),
    };
    let calibrated = |row: Vec<f64>| {
        let row = without_bias(&row, &bias);
        row.into_iter().map(|value| value as f32).collect()
    };
    rows_to_calibrate.into_iter().map(calibrated).collect()
}

/// What is taken from the log-probabilities of each class: in a single step the logarithm of its mean
/// probability, in many what makes all classes equally likely on the mean.
fn bias(rows: &[Vec<f64>], n_labels: usize, n_steps: usize) -> Vec<f64> {
    let mut bias = vec![0.0; n_labels];
    for _ in 0..n_steps {
        let left: Vec<Vec<f64>> = rows.iter().map(|row| without_bias(row, &bias)).collect();
        let mut largest = 0.0f64;
        for (class, bias) in bias.iter_mut().enumerate() {
            let values: Vec<f64> = left.iter().map(|row| row[class]).collect();
            let step = log_mean_exp(&values);
            *bias += step;
            largest = largest.max((step + (n_labels as f64).ln()).abs());
        }
        if largest < 1e-9 {
            break;
        }
    }
    bias
}

fn without_bias(row: &[f64], bias: &[f64]) -> Vec<f64> {
    let mut row: Vec<f64> = row.iter().zip(bias).map(|(row, bias)| row - bias).collect();
    to_log_probabilities(&mut row);
    row
}

fn normalized(score: &ContinuationScore, word: &str, normalization: LengthNormalization) -> f64 {
    let length = match normalization {
        LengthNormalization::None => 1,
        LengthNormalization::PerToken => score.n_tokens,
        LengthNormalization::PerByte => word.trim_start().len(),
    };
    score.log_probability / length.max(1) as f64
}

/// The logarithm of the mean of exponentials.
fn log_mean_exp(values: &[f64]) -> f64 {
    log_sum_exp(values) - (values.len() as f64).ln()
}

fn log_sum_exp(values: &[f64]) -> f64 {
    let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = values.iter().map(|value| (value - max).exp()).sum();
    max + sum.ln()
}

fn to_log_probabilities(row: &mut [f64]) {
    let total = log_sum_exp(row);
    row.iter_mut().for_each(|value| *value -= total);
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{prop_assert, proptest};

    use super::{LengthNormalization, class_log_probabilities, labelled_words};
    use crate::error::PromptError;
    use crate::fake_model::labels;
    use crate::language_model::ContinuationScore;
    use crate::prompt::Prompt;

    fn score(log_probability: f64, n_tokens: usize) -> ContinuationScore {
        ContinuationScore {
            log_probability,
            n_tokens,
        }
    }

    fn probabilities(rows: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
        let row = |row: Vec<f32>| row.into_iter().map(f32::exp).collect();
        rows.into_iter().map(row).collect()
    }

    #[test]
    fn calibration_divides_by_what_the_prompt_says_by_itself() {
        let words = [(0, "a"), (1, "b")];
        let row = |a: f64, b: f64| vec![score(a.ln(), 1), score(b.ln(), 1)];
        // Rows that calibrate: 0.8 and 0.6 for the first class, so 0.7 on the mean.
        let rows = [
            row(0.08, 0.02),
            row(0.3, 0.2),
            row(0.07, 0.03),
            row(0.6, 0.6),
        ];
        let found = probabilities(class_log_probabilities(
            &rows,
            &words,
            2,
            LengthNormalization::None,
            2,
            1,
        ));
        assert!(
            (found[0][0] - 0.5).abs() < 1e-6,
            "the bias itself is no evidence: {found:?}"
        );
        let expected = (0.5 / 0.7) / (0.5 / 0.7 + 0.5 / 0.3);
        assert!(
            (f64::from(found[1][0]) - expected).abs() < 1e-6,
            "{found:?}"
        );
        let plain = probabilities(class_log_probabilities(
            &rows[2..],
            &words,
            2,
            LengthNormalization::None,
            0,
            1,
        ));
        assert!((plain[0][0] - 0.7).abs() < 1e-6 && (plain[1][0] - 0.5).abs() < 1e-6);
    }

    #[test]
    fn matched_priors_make_classes_equally_likely() {
        // Far more likely than the second class, whatever the input: a single step is not enough.
        let logit = |value: f64| vec![score(value, 1), score(0.0, 1)];
        let inputs: Vec<_> = [12.0, 11.0, 6.0, 2.0].map(logit).to_vec();
        let rows = [inputs.clone(), inputs].concat();
        let words = [(0, "a"), (1, "b")];
        let first = |n_steps| -> Vec<f32> {
            let rows =
                class_log_probabilities(&rows, &words, 2, LengthNormalization::None, 4, n_steps);
            probabilities(rows).into_iter().map(|row| row[0]).collect()
        };
        assert!(first(1)[2] > 0.5, "{:?}", first(1));
        let matched = first(1000);
        let mean = matched.iter().sum::<f32>() / 4.0;
        assert!((mean - 0.5).abs() < 1e-6, "{matched:?}");
        assert!(matched[1] > 0.9 && matched[2] < 0.1, "{matched:?}");
    }

    #[test]
    fn lengths_are_normalised_as_asked_and_words_of_a_class_are_averaged() {
        let words = [(0, " ab"), (1, "abcd"), (1, "x")];
        let rows = [vec![score(-1.0, 1), score(-4.0, 4), score(-6.0, 1)]];
        let odds = |normalization| {
            let row = &class_log_probabilities(&rows, &words, 2, normalization, 0, 1)[0];
            f64::from(row[0] - row[1])
        };
        let mean = |a: f64, b: f64| ((a.exp() + b.exp()) / 2.0).ln();
        for (normalization, expected) in [
            (LengthNormalization::None, -1.0 - mean(-4.0, -6.0)),
            (LengthNormalization::PerToken, -1.0 - mean(-1.0, -6.0)),
            (LengthNormalization::PerByte, -0.5 - mean(-1.0, -6.0)),
        ] {
            let found = odds(normalization);
            assert!(
                (found - expected).abs() < 1e-5,
                "{normalization:?}: {found} instead of {expected}"
            );
        }
    }

    #[test]
    fn words_must_be_there_and_tell_labels_apart() {
        let prompt = |a: &[&str], b: &[&str]| {
            let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
            Prompt {
                label_words: [("a".to_owned(), words(a)), ("b".to_owned(), words(b))].into(),
                ..Prompt::default()
            }
        };
        let labels = labels(&["a", "b"]);
        let good = prompt(&[" x", "x", "y"], &["z"]);
        assert_eq!(
            labelled_words(&good, &labels).unwrap(),
            [(0, " x"), (0, "y"), (1, "z")]
        );
        let shared = labelled_words(&prompt(&["x", " y"], &["y"]), &labels).unwrap_err();
        assert_eq!(
            shared.to_string(),
            "the label word `y` stands for `a` and for `b`"
        );
        for missing in [prompt(&[], &["z"]), prompt(&[" "], &["z"])] {
            let refused = labelled_words(&missing, &labels);
            assert!(matches!(refused, Err(PromptError::NoLabelWords { .. })));
        }
    }

    proptest! {
        #[test]
        fn probabilities_sum_to_one_whatever_the_scores(
            values in vec(vec(-700.0f64..0.0, 4), 2..6),
            n_calibrating in 0usize..2,
            n_steps in 1usize..20,
        ) {
            let words = [(0, "a"), (0, "bb"), (1, "c"), (2, "d")];
            let rows: Vec<Vec<ContinuationScore>> =
                values.iter().map(|row| row.iter().map(|value| score(*value, 2)).collect()).collect();
            for normalization in [LengthNormalization::None, LengthNormalization::PerToken, LengthNormalization::PerByte] {
                let found = class_log_probabilities(&rows, &words, 3, normalization, n_calibrating, n_steps);
                prop_assert!(found.len() == rows.len() - n_calibrating);
                for row in probabilities(found) {
                    prop_assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-4, "{:?}", row);
                }
            }
        }
    }
}
