//! Schedules, optimizers and logits processors against `transformers.get_scheduler`, `torch.optim`
//! and `transformers.generation`.

use std::collections::BTreeSet;
use std::path::Path;

use burn::module::{Module, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use hybrid_models::LogitsProcessor;
use hybrid_optim::{OptimizerConfig, ScheduleConfig, ScheduleKind, Updater};
use serde_json::Value;

use crate::fixtures::{self, Fixture, Tensors, Tolerance};

/// Objectives that come with reinforcement and distillation.
const LATER: [&str; 4] = [
    "distillation_and_embedding",
    "grpo",
    "preference",
    "torch_rng",
];
const LATER_SCHEDULES: [&str; 3] = ["cosine_with_restarts", "inverse_sqrt", "polynomial"];
const LATER_OPTIMIZERS: [&str; 5] = [
    "adafactor_hf_fixed_lr",
    "adagrad",
    "adam",
    "adamw_amsgrad",
    "rmsprop",
];

#[test]
fn objectives_parity() {
    let mut seen = BTreeSet::new();
    for fixture in fixtures::of_kind("objective") {
        let name = fixture
            .name
            .strip_prefix("objectives/")
            .unwrap_or(&fixture.name)
            .to_owned();
        match name.as_str() {
            "schedules" => check_schedules(&fixture),
            "optimizers" => check_optimizers(&fixture),
            "logits_processors" => check_logits_processors(&fixture),
            later if LATER.contains(&later) => {}
            unknown => panic!("objective fixture {unknown:?} is not understood"),
        }
        seen.insert(name);
    }
    for name in ["schedules", "optimizers", "logits_processors"] {
        assert!(seen.contains(name), "no fixture {name:?}");
    }
}

fn check_schedules(fixture: &Fixture) {
    let meta = &fixture.meta;
    let warmup = meta["warmup_steps"].as_u64().expect("warmup_steps") as usize;
    let total = meta["total_steps"].as_u64().expect("total_steps") as usize;
    let mut checked = BTreeSet::new();
    for (name, schedule) in meta["schedules"].as_object().expect("schedules") {
        let (kind, warmup) = match name.as_str() {
            "constant" => (ScheduleKind::Constant, 0),
            "constant_with_warmup" => (ScheduleKind::Constant, warmup),
            "linear" => (ScheduleKind::Linear, warmup),
            "cosine" => (ScheduleKind::Cosine, warmup),
            later if LATER_SCHEDULES.contains(&later) => continue,
            unknown => panic!("schedule {unknown:?} is not understood"),
        };
        assert_eq!(
            schedule["kwargs"],
            Value::Object(Default::default()),
            "{name}: unknown settings"
        );
        let config = ScheduleConfig {
            kind,
            warmup_steps: Some(warmup),
            warmup_ratio: None,
        };
        let rates = schedule["lr"].as_array().expect("lr");
        assert!(rates.len() >= total);
        for (step, expected) in rates.iter().enumerate() {
            let expected = expected.as_f64().expect("a rate is a number");
            let rate = config.rate(number(meta, "base_lr"), step, total);
            assert!(
                (rate - expected).abs() <= 1e-12,
                "{name}: step {step}: {rate} instead of {expected}"
            );
        }
        checked.insert(name.as_str());
    }
    assert!(
        checked.is_superset(&BTreeSet::from([
            "constant",
            "constant_with_warmup",
            "cosine",
            "linear"
        ])),
        "{checked:?}"
    );
}

/// One parameter, so that an update can be given any gradient.
#[derive(Module, Debug)]
struct Parameter {
    value: Param<Tensor<2>>,
}

fn check_optimizers(fixture: &Fixture) {
    let meta = &fixture.meta;
    let inputs = Tensors::read(&fixture.folder.join("inputs.safetensors"));
    let outputs = Tensors::read(&fixture.folder.join("outputs.safetensors"));
    let note = meta["note"].as_str().expect("note");
    for name in outputs.names() {
        let config = match name {
            "sgd_momentum" => OptimizerConfig::Sgd {
                lr: number_after(note, "sgd: lr "),
                momentum: number_after(note, "momentum "),
                weight_decay: number_after(note, "L2 weight decay "),
            },
            "adamw" => OptimizerConfig::Adamw {
                lr: number(meta, "lr"),
                betas: [number(meta, "beta1"), number(meta, "beta2")],
                eps: number_after(note, " eps "),
                weight_decay: number(meta, "weight_decay"),
            },
            later if LATER_OPTIMIZERS.contains(&later) => continue,
            unknown => panic!("optimizer {unknown:?} is not understood"),
        };
        check_optimizer(
            name,
            config,
            &inputs,
            &outputs,
            &Tolerance::of(&meta["tolerance"]),
        );
    }
    for name in ["adamw", "sgd_momentum"] {
        assert!(
            outputs.has(name),
            "no {name:?} in {}",
            Path::new(&fixture.name).display()
        );
    }
}

fn check_optimizer(
    name: &str,
    config: OptimizerConfig,
    inputs: &Tensors,
    outputs: &Tensors,
    tolerance: &Tolerance,
) {
    let device = fixtures::device();
    let mut module = Parameter {
        value: Param::from_tensor(inputs.float("param", &device.clone().autodiff())),
    };
    let gradients: Tensor<3> = inputs.float("grads", &device);
    let [steps, _, _] = gradients.dims();
    let expected: Vec<&[f32]> = outputs
        .floats(name)
        .chunks(outputs.floats(name).len() / steps)
        .collect();
    let mut updater = Updater::new(config, &[], ScheduleConfig::default(), None, steps, &module)
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    for (step, expected) in expected.into_iter().enumerate() {
        let mut gradient = GradientsParams::new();
        gradient.register(
            module.value.id,
            gradients.clone().narrow(0, step, 1).squeeze_dim::<2>(0),
        );
        updater.accumulate(gradient);
        module = updater
            .step(module)
            .unwrap_or_else(|error| panic!("{name}: {error}"))
            .0;
        let actual: Vec<f32> = module.value.val().into_data().iter().collect();
        tolerance.check(&format!("{name}: step {step}"), &actual, expected);
    }
}

/// The processor of an output's name; words that must not come are in the note alone.
fn logits_processor(name: &str, note: &str) -> Option<LogitsProcessor> {
    if name == "bad_words" {
        let words = note
            .split_once("bad words: ")
            .expect("the note lists bad words")
            .1;
        let words = serde_json::from_str(words).expect("bad words are lists of ids");
        return Some(LogitsProcessor::BadWords(words));
    }
    if let Some(settings) = name.strip_prefix("min_length_") {
        let (length, eos_id) = settings.split_once("_eos_").expect("an end token");
        return Some(LogitsProcessor::MinLength {
            length: length.parse().ok()?,
            eos_ids: vec![eos_id.parse().ok()?],
        });
    }
    let (name, value) = name.rsplit_once('_')?;
    let number = value.parse::<f64>().ok()?;
    Some(match name {
        "temperature" => LogitsProcessor::Temperature(number),
        "top_k" => LogitsProcessor::TopK(number as usize),
        "top_p" => LogitsProcessor::TopP(number),
        "min_p" => LogitsProcessor::MinP(number),
        "typical" => LogitsProcessor::Typical(number),
        "epsilon" => LogitsProcessor::Epsilon(number),
        "repetition_penalty" => LogitsProcessor::RepetitionPenalty(number),
        "no_repeat_ngram" => LogitsProcessor::NoRepeatNgram(number as usize),
        _ => return None,
    })
}

fn check_logits_processors(fixture: &Fixture) {
    let inputs = Tensors::read(&fixture.folder.join("inputs.safetensors"));
    let outputs = Tensors::read(&fixture.folder.join("outputs.safetensors"));
    let note = fixture.meta["note"].as_str().expect("note");
    let tolerance = Tolerance::of(&fixture.meta["tolerance"]);
    let ids = inputs
        .ints("input_ids")
        .chunks(inputs.shape("input_ids")[1]);
    let vocab = inputs.shape("scores")[1];
    for name in outputs.names() {
        let short = name.strip_prefix("processed.").unwrap_or(name);
        let processor = logits_processor(short, note)
            .unwrap_or_else(|| panic!("logits processor {name:?} is not understood"));
        processor
            .validate()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let rows = inputs.floats("scores").chunks(vocab);
        let recorded = outputs.floats(name).chunks(vocab);
        for ((ids, scores), recorded) in ids.clone().zip(rows).zip(recorded) {
            let mut scores = scores.to_vec();
            processor.apply(ids, &mut scores);
            let finite = |values: &[f32]| -> Vec<(usize, f32)> {
                let all = values.iter().copied().enumerate();
                all.filter(|(_, value)| *value > f32::NEG_INFINITY)
                    .collect()
            };
            let (found, kept) = (finite(&scores), finite(recorded));
            let tokens = |kept: &[(usize, f32)]| kept.iter().map(|kept| kept.0).collect::<Vec<_>>();
            assert_eq!(
                tokens(&found),
                tokens(&kept),
                "{name}: tokens that are kept"
            );
            let values = |kept: &[(usize, f32)]| kept.iter().map(|kept| kept.1).collect::<Vec<_>>();
            tolerance.check(name, &values(&found), &values(&kept));
        }
    }
}

fn number(meta: &Value, key: &str) -> f64 {
    meta[key]
        .as_f64()
        .unwrap_or_else(|| panic!("no number {key:?}"))
}

/// The number that follows `words` in a note; these settings are written nowhere else.
fn number_after(note: &str, words: &str) -> f64 {
    let start = note
        .find(words)
        .unwrap_or_else(|| panic!("no {words:?} in {note:?}"))
        + words.len();
    let end = note[start..]
        .find([',', ';', ' '])
        .map_or(note.len(), |length| start + length);
    note[start..end]
        .parse()
        .unwrap_or_else(|error| panic!("{words:?} in {note:?}: {error}"))
}
