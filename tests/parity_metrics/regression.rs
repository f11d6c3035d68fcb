//! Correlations and errors of numbers against SciPy and scikit-learn.

use hybrid_eval::{
    kendall_tau_b, mean_absolute_error, mean_squared_error, pearson, r_squared, spearman,
};
use serde_json::Value;

use super::{Checks, floats};

pub(super) fn check(checks: &Checks, cases: &Value) {
    for (name, case) in cases.as_object().expect("cases by name") {
        let (x, y) = (floats(&case["x"]), floats(&case["y"]));
        for (key, expected) in case.as_object().expect("figures by name") {
            let figure = match key.as_str() {
                "x" | "y" => continue,
                "pearson" => pearson(&x, &y),
                "spearman" => spearman(&x, &y),
                "kendall_tau_b" => kendall_tau_b(&x, &y),
                "mse" => mean_squared_error(&x, &y),
                "mae" => mean_absolute_error(&x, &y),
                "r2_x_true" => r_squared(&x, &y),
                unknown => panic!("unknown figure {unknown:?} in {name}"),
            };
            checks.figure(&format!("{name}.{key}"), figure.unwrap(), expected);
        }
    }
}
