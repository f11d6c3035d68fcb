//! What would make an adapter stage fail: what it trains and its update rule are built once.

use hybrid_adapters::{
    AdapterConfig, ClassifierHead, ExplainedVariance, SideBySide, SpanHead, Trainable,
};
use hybrid_optim::{OptimError, OptimizerConfig, ScheduleConfig, Updater};

use super::{Faults, span_task};
use crate::alternate::first_prompt;
use crate::error::describe;
use crate::local_model::{LoadedBase, LocalModel};
use crate::recipe::{AdapterStage, HeadStage, Recipe};
use crate::spans;
use crate::stage::soft_start;
use crate::task::TaskData;

pub(super) fn check(
    faults: &mut Faults<'_>,
    key: &str,
    config: &AdapterStage,
    recipe: &Recipe,
    data: &TaskData,
    model: &LocalModel,
) {
    let asks_spans = spans::are_asked(data.task.kind, model);
    match model.is_language_model() {
        true => refuse_parts_for_encoders(faults, key, config),
        false if asks_spans => span_task::check_stage(faults, key, config),
        false => faults.check_pooling(&format!("{key}.head.pooling"), model, config.head.pooling),
    }
    if config.recompute_layers && matches!(model.base, LoadedBase::EncoderDecoder(_)) {
        faults.add(
            &format!("{key}.recompute_layers"),
            "the layers of an encoder-decoder keep their activations",
        );
    }
    let starts = config.methods.iter().any(|method| {
        matches!(
            method,
            AdapterConfig::PromptTuning(_)
                | AdapterConfig::PrefixTuning(_)
                | AdapterConfig::Cartridge(_)
        )
    });
    if config.start_at_prompt && !starts {
        faults.add(
            &format!("{key}.start_at_prompt"),
            "no method of this stage starts at a prompt; prompt_tuning, prefix_tuning and cartridge do",
        );
    }
    // Long passages and label words make more.
    let least_steps = config.total_steps(data.fit.examples.len());
    // A search may find another prompt to start at, of which there are tokens all the same.
    let adapters = first_prompt(recipe, &data.task, model.is_language_model())
        .and_then(|prompt| soft_start::methods(config, model, data, &prompt, least_steps))
        .and_then(|methods| {
            let (base, device) = (model.base.as_base(), &model.device);
            let start = ExplainedVariance::new(&methods, base, 0, device)?;
            let follows_data = !start.is_empty();
            Ok((start.without_data().clone(), follows_data))
        });
    let Some((adapters, follows_data)) = faults.expect(&format!("{key}.methods"), adapters) else {
        return;
    };
    if config.variants_together {
        let stands = SideBySide::check(&adapters, model.base.as_base());
        faults.expect(&format!("{key}.methods"), stands);
    }
    if follows_data && matches!(model.base, LoadedBase::EncoderDecoder(_)) {
        faults.add(
            &format!("{key}.methods"),
            "init_lora_weights is \"eva\"; the sites of an encoder-decoder see two sequences, and \
            those of which tokens count is not said",
        );
    }
    let head = || {
        let n_labels = data.task.labels.len();
        ClassifierHead::init(
            config.head.config(),
            model.d_model(),
            n_labels,
            0,
            &model.device,
        )
    };
    let trainable = Trainable {
        adapters,
        head: (!model.is_language_model() && !asks_spans).then(head),
        span_head: asks_spans.then(|| SpanHead::init(model.d_model(), 0, &model.device)),
    };
    // An updater names its first fault, so each part is tried alone.
    let plain = AdapterStage {
        optimizer: OptimizerConfig::Sgd {
            lr: 0.0,
            momentum: 0.0,
            weight_decay: 0.0,
        },
        schedule: ScheduleConfig::default(),
        max_grad_norm: None,
        groups: Vec::new(),
        ..config.clone()
    };
    let parts = [
        AdapterStage {
            optimizer: config.optimizer.clone(),
            ..plain.clone()
        },
        AdapterStage {
            schedule: config.schedule.clone(),
            ..plain.clone()
        },
        AdapterStage {
            max_grad_norm: config.max_grad_norm,
            ..plain.clone()
        },
    ];
    for part in &parts {
        if let Some(error) = refusal(part, &trainable) {
            faults.add(&place(key, config, &error), describe(&error));
        }
    }
    let mut rest = AdapterStage {
        groups: config.groups.clone(),
        ..plain
    };
    while let Some(error) = refusal(&rest, &trainable) {
        faults.add(&place(key, config, &error), describe(&error));
        match error {
            OptimError::GroupPattern { pattern, .. } | OptimError::EmptyGroup { pattern, .. } => {
                rest.groups.retain(|group| group.pattern != pattern);
            }
            _ => return,
        }
    }
}

/// What variants cannot have that are trained in one forward.
pub(super) fn check_together(
    faults: &mut Faults<'_>,
    key: &str,
    config: &AdapterStage,
    model: &LocalModel,
) {
    let obstacle = if !config.variants_together {
        return;
    } else if config.variants.is_empty() {
        "the stage has no variants"
    } else if matches!(model.base, LoadedBase::EncoderDecoder(_)) {
        "the variants of an encoder-decoder are trained one after the other"
    } else if config.recompute_layers {
        "layers that are run again in backward (`recompute_layers`) train one variant"
    } else {
        return;
    };
    faults.add(&format!("{key}.variants_together"), obstacle);
}

/// What a language model's stage cannot have.
fn refuse_parts_for_encoders(faults: &mut Faults<'_>, key: &str, config: &AdapterStage) {
    let parts = [
        (
            "methods",
            config.methods.is_empty(),
            "a language model has no classifier head to train alone; name a method",
        ),
        (
            "head",
            config.head != HeadStage::default(),
            "a language model has no classifier head",
        ),
        (
            "token_dropout",
            config.token_dropout > 0.0,
            "only an encoder's tokens can be hidden",
        ),
        (
            "train_on_label_words",
            config.train_on_label_words,
            "a language model reads label words in answers only",
        ),
    ];
    for (part, is_there, message) in parts {
        if is_there {
            faults.add(&format!("{key}.{part}"), message);
        }
    }
}

/// Why no update rule can be built.
fn refusal(config: &AdapterStage, trainable: &Trainable) -> Option<OptimError> {
    let updater = Updater::new(
        config.optimizer.clone(),
        &config.groups,
        config.schedule.clone(),
        config.max_grad_norm,
        config.epochs,
        trainable,
    );
    updater.err()
}

/// The key that an error is about.
fn place(key: &str, config: &AdapterStage, error: &OptimError) -> String {
    match error {
        OptimError::InvalidSetting { key: setting, .. } => format!("{key}.{setting}"),
        OptimError::GroupPattern { pattern, .. } | OptimError::EmptyGroup { pattern, .. } => {
            let mut groups = config.groups.iter();
            match groups.position(|group| group.pattern == *pattern) {
                Some(index) => format!("{key}.groups.{index}"),
                None => format!("{key}.groups"),
            }
        }
        _ => key.to_owned(),
    }
}
