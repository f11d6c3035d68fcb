//! Figures of `hybrid-eval` against scikit-learn, SciPy, NumPy, sacreBLEU and rouge_score.

mod question_answering;
mod regression;
mod summarization;
mod translation;

use std::path::Path;

use hybrid_eval::{
    Averages, Calibration, Classification, ConfusionMatrix, Multilabel, PairedComparison,
    Resamples, average_precision, binary_brier, roc_auc, top_k_accuracy,
};
use serde_json::Value;

use crate::fixtures::{Fixture, Tensors, Tolerance, json, of_kind};

#[test]
fn parity_of_metrics() {
    for fixture in of_kind("metrics") {
        let checks = Checks {
            tolerance: Tolerance::of(&fixture.meta["tolerance"]),
        };
        let files = fixture.meta["files"]
            .as_object()
            .expect("meta.json lists files");
        for entry in fixture.folder.read_dir().expect("a folder") {
            let name = entry.expect("a file").file_name();
            let name = name.to_str().expect("a name in UTF-8");
            let is_listed = files.contains_key(name) || name == "meta.json";
            assert!(
                is_listed || !name.ends_with(".json"),
                "unknown file {name:?}"
            );
        }
        for file in files.keys() {
            let expected = json(&fixture.folder.join(file));
            match file.as_str() {
                "bootstrap.json" => bootstrap(&checks, &fixture, &expected),
                "classification.json" => classification(&checks, &expected),
                "mt.json" => translation::check(&checks, &expected),
                "regression.json" => regression::check(&checks, &expected),
                "rouge.json" => summarization::check(&checks, &expected),
                "squad.json" => question_answering::check(&checks, &expected),
                unknown => panic!("{}: unknown metrics file {unknown:?}", fixture.name),
            }
        }
    }
}

fn classification(checks: &Checks, cases: &Value) {
    for (name, case) in cases.as_object().expect("cases by name") {
        match name.as_str() {
            "definition" => {}
            "multilabel" => multilabel(checks, case),
            _ => single_label(checks, name, case),
        }
    }
}

fn single_label(checks: &Checks, name: &str, case: &Value) {
    let targets = indices(&case["labels"]);
    let probabilities: Vec<Vec<f64>> = list(&case["probabilities"]).iter().map(floats).collect();
    let figures = Classification::of(&probabilities, &targets).unwrap();
    let calibration = Calibration::of(&probabilities, &targets, 10).unwrap();
    let second: Vec<f64> = probabilities.iter().map(|row| row[1]).collect();
    let is_second: Vec<bool> = targets.iter().map(|target| *target == 1).collect();
    for (key, expected) in case.as_object().expect("figures by name") {
        let what = format!("{name}.{key}");
        let figure = match key.as_str() {
            "labels" | "probabilities" => continue,
            "accuracy" => figures.accuracy,
            "average_precision" => average_precision(&second, &is_second).unwrap(),
            "balanced_accuracy" => figures.balanced_accuracy,
            "brier" => binary_brier(&second, &is_second).unwrap(),
            "cohen_kappa" => figures.cohen_kappa,
            "ece_10" => calibration.ece,
            "f1_positive_class_1" => figures.per_class[1].f1,
            "log_loss" => figures.log_loss,
            "mcc" => figures.mcc,
            "mce_10" => calibration.mce,
            "multiclass_brier" => figures.brier,
            "roc_auc" => roc_auc(&second, &is_second).unwrap(),
            "top2_accuracy" => top_k_accuracy(&probabilities, &targets, 2).unwrap(),
            "num_classes" => figures.confusion.n_classes() as f64,
            "predictions" => {
                assert_eq!(figures.predictions, indices(expected), "{what}");
                continue;
            }
            "macro" => {
                checks.averages(&what, figures.macro_average, expected);
                continue;
            }
            "micro" => {
                checks.averages(&what, figures.micro_average, expected);
                continue;
            }
            "weighted" => {
                checks.averages(&what, figures.weighted_average, expected);
                continue;
            }
            "per_class" => {
                per_class(checks, &what, &figures, expected);
                continue;
            }
            "present_labels" => {
                let seen = |class: &usize| {
                    figures.per_class[*class].support + figures.per_class[*class].predicted > 0
                };
                let present: Vec<usize> = (0..figures.per_class.len()).filter(seen).collect();
                assert_eq!(present, indices(expected), "{what}");
                continue;
            }
            "confusion_matrix" => {
                confusion_matrix(&what, &figures.confusion, expected);
                continue;
            }
            "calibration_bins" => {
                calibration_bins(checks, &what, &calibration, expected);
                continue;
            }
            unknown => panic!("unknown figure {unknown:?} in {name}"),
        };
        checks.figure(&what, figure, expected);
    }
}

fn per_class(checks: &Checks, what: &str, figures: &Classification, expected: &Value) {
    for (key, expected) in expected.as_object().expect("figures by name") {
        let expected = list(expected);
        assert_eq!(expected.len(), figures.per_class.len(), "{what}.{key}");
        for (class, expected) in figures.per_class.iter().zip(expected) {
            let figure = match key.as_str() {
                "precision" => class.precision,
                "recall" => class.recall,
                "f1" => class.f1,
                "support" => class.support as f64,
                unknown => panic!("unknown figure {unknown:?} in {what}"),
            };
            checks.figure(&format!("{what}.{key}"), figure, expected);
        }
    }
}

fn confusion_matrix(what: &str, matrix: &ConfusionMatrix, expected: &Value) {
    let expected: Vec<Vec<usize>> = list(expected).iter().map(indices).collect();
    let found: Vec<Vec<usize>> = matrix
        .rows()
        .into_iter()
        .map(|row| row.into_iter().map(|count| count as usize).collect())
        .collect();
    assert_eq!(found, expected, "{what}");
}

fn calibration_bins(checks: &Checks, what: &str, calibration: &Calibration, expected: &Value) {
    let expected = list(expected);
    assert_eq!(
        calibration.bins.len(),
        expected.len(),
        "{what}: number of bins"
    );
    for (bin, expected) in calibration.bins.iter().zip(expected) {
        checks.figure(what, bin.bin as f64, &expected["bin"]);
        checks.figure(what, bin.count as f64, &expected["count"]);
        checks.figure(what, bin.accuracy, &expected["accuracy"]);
        checks.figure(what, bin.confidence, &expected["confidence"]);
    }
}

fn multilabel(checks: &Checks, case: &Value) {
    let decisions = |key: &str| -> Vec<Vec<bool>> {
        list(&case[key])
            .iter()
            .map(|row| indices(row).into_iter().map(|value| value == 1).collect())
            .collect()
    };
    let figures = Multilabel::of(&decisions("labels"), &decisions("predictions")).unwrap();
    for (key, expected) in case.as_object().expect("figures by name") {
        let figure = match key.as_str() {
            "labels" | "predictions" => continue,
            "subset_accuracy" => figures.subset_accuracy,
            "hamming_loss" => figures.hamming_loss,
            "f1_macro" => figures.f1_macro,
            "f1_micro" => figures.f1_micro,
            "f1_samples" => figures.f1_samples,
            unknown => panic!("unknown figure {unknown:?} in multilabel"),
        };
        checks.figure(&format!("multilabel.{key}"), figure, expected);
    }
}

fn bootstrap(checks: &Checks, fixture: &Fixture, case: &Value) {
    let resamples =
        Resamples::given(resampling_indices(&fixture.folder, &case["indices"])).unwrap();
    let compared = PairedComparison::of(
        &floats(&case["scores_a"]),
        &floats(&case["scores_b"]),
        &resamples,
    )
    .unwrap();
    for (key, expected) in case.as_object().expect("figures by name") {
        let figure = match key.as_str() {
            "definition" | "indices" | "scores_a" | "scores_b" => continue,
            "observed_difference" => compared.difference,
            "p_one_sided" => compared.p_one_sided,
            "p_two_sided_shifted" => compared.p_two_sided,
            "ties" => compared.tie_rate,
            "win_rate_a" => compared.win_rate,
            "ci95_percentile_linear" => {
                for (bound, expected) in compared.interval.into_iter().zip(list(expected)) {
                    checks.figure("bootstrap interval", bound, expected);
                }
                continue;
            }
            unknown => panic!("unknown figure {unknown:?} in bootstrap"),
        };
        checks.figure(&format!("bootstrap.{key}"), figure, expected);
    }
}

/// Reads `FILE: TENSOR [SHAPE]`.
fn resampling_indices(folder: &Path, place: &Value) -> Vec<Vec<usize>> {
    let place = place.as_str().expect("a file and a tensor");
    let (file, tensor) = place
        .split_once(": ")
        .unwrap_or_else(|| panic!("no tensor in {place:?}"));
    let tensor = tensor.split_whitespace().next().expect("a tensor's name");
    let tensors = Tensors::read(&folder.join(file));
    let n_examples = tensors.shape(tensor)[1];
    let rows = tensors.ints(tensor).chunks(n_examples);
    rows.map(|row| {
        row.iter()
            .map(|index| usize::try_from(*index).expect("an index"))
            .collect()
    })
    .collect()
}

/// Compares figures within the fixture's tolerance.
struct Checks {
    tolerance: Tolerance,
}

impl Checks {
    fn figures(&self, what: &str, figures: &[f64], expected: &Value) {
        let expected = list(expected);
        assert_eq!(figures.len(), expected.len(), "{what}: number of figures");
        for (index, (figure, expected)) in figures.iter().zip(expected).enumerate() {
            self.figure(&format!("{what}[{index}]"), *figure, expected);
        }
    }

    fn figure(&self, what: &str, figure: f64, expected: &Value) {
        let expected = expected
            .as_f64()
            .unwrap_or_else(|| panic!("{what}: {expected} is not a number"));
        let allowed = self.tolerance.atol + self.tolerance.rtol * expected.abs();
        assert!(
            (figure - expected).abs() <= allowed,
            "{what}: {figure} instead of {expected}"
        );
    }

    fn averages(&self, what: &str, averages: Averages, expected: &Value) {
        self.figure(
            &format!("{what}.precision"),
            averages.precision,
            &expected["precision"],
        );
        self.figure(
            &format!("{what}.recall"),
            averages.recall,
            &expected["recall"],
        );
        self.figure(&format!("{what}.f1"), averages.f1, &expected["f1"]);
    }
}

fn list(value: &Value) -> &[Value] {
    value
        .as_array()
        .unwrap_or_else(|| panic!("{value} is not a list"))
}

fn floats(value: &Value) -> Vec<f64> {
    list(value)
        .iter()
        .map(|item| {
            item.as_f64()
                .unwrap_or_else(|| panic!("{item} is not a number"))
        })
        .collect()
}

fn indices(value: &Value) -> Vec<usize> {
    let index = |item: &Value| {
        usize::try_from(
            item.as_u64()
                .unwrap_or_else(|| panic!("{item} is not an index")),
        )
    };
    list(value)
        .iter()
        .map(|item| index(item).expect("an index fits"))
        .collect()
}

fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is not a text"))
}

fn texts(value: &Value) -> Vec<&str> {
    list(value).iter().map(text).collect()
}
