//! What would make a run fail or pointless, found before it begins: all faults at once.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use hybrid_adapters::AdapterConfig;
use hybrid_models::{EncoderBatch, NoHooks, Pooling};

use crate::HybridError;
use crate::alternate::first_prompt;
use crate::error::describe;
use crate::local_model::LocalModel;
use crate::recipe::{AdapterStage, Fault, PassageConfig, Places, RecipeFile, StageConfig};
use crate::spans;
use crate::task::{TaskData, shared_files};
use language_prompts::PromptCheck;

mod adapter_stage;
mod language_prompts;
mod prompt_stage;
mod span_task;

/// Refuses a run that cannot succeed.
///
/// # Errors
/// [`HybridError::Recipe`] with every fault and its place in the recipe.
pub(crate) fn check(
    file: &RecipeFile,
    data: &TaskData,
    model: &LocalModel,
) -> Result<(), HybridError> {
    let RecipeFile { recipe, places } = file;
    let mut faults = Faults {
        places,
        found: Vec::new(),
    };
    let positions = model.max_positions();
    if recipe.base.max_length > positions {
        faults.add(
            "base.max_length",
            format!(
                "{} is more than the {positions} tokens that the base reads",
                recipe.base.max_length
            ),
        );
    }
    let max_tokens = recipe.generation.max_tokens;
    let writes = recipe.task.text_task().is_some() && model.is_language_model();
    if writes && max_tokens > positions {
        faults.add(
            "generation.max_tokens",
            format!("{max_tokens} is more than the {positions} tokens that the base writes"),
        );
    }
    if !model.is_language_model() {
        faults.check_pooling("base.pooling", model, recipe.base.pooling);
    }
    let first = first_prompt(recipe, &data.task, model.is_language_model());
    let first = faults.expect("prompt", first);
    for (key, message) in shared_files(&recipe.data)? {
        faults.add(&format!("data.{key}"), message);
    }
    for (key, split) in [
        ("data.fit", &data.fit),
        ("data.select", &data.select),
        ("data.report", &data.report),
    ] {
        if split.examples.is_empty() {
            faults.add(
                key,
                "no example is left for this split; see data.select_fraction and data.shots",
            );
        }
    }
    let asks_spans = spans::are_asked(recipe.task, model);
    if asks_spans {
        span_task::check(&mut faults, recipe, data, model);
    } else if recipe.passages != PassageConfig::default() {
        faults.add(
            "passages",
            "only an encoder that answers questions reads passages in windows",
        );
    }
    if recipe.task.text_task().is_some() && !model.is_language_model() && !asks_spans {
        faults.add(
            "task",
            "its answers are texts, which an encoder does not write; name a language model as base.model",
        );
        return Err(HybridError::Recipe(places.refuse(faults.found).into()));
    }
    if recipe.task.text_task().is_none() && data.task.labels.len() < 2 {
        faults.add(
            "data.fit",
            "its examples have one label only; a classification needs two",
        );
    }
    let mut prompts = model
        .is_language_model()
        .then(|| PromptCheck::new(recipe, data, model));
    if let (Some(prompts), Some(first)) = (&mut prompts, &first) {
        prompts.first_prompt(&mut faults, first);
    }
    // The choices of the first stage that has methods.
    let mut earlier: Option<Vec<AdapterStage>> = None;
    for (index, stage) in recipe.stages.iter().enumerate() {
        let key = format!("stages.{index}");
        match stage {
            StageConfig::Prompt(_) if asks_spans => {}
            StageConfig::Prompt(config) => {
                let space = prompt_stage::check(&mut faults, &key, config, recipe, data, model);
                if let (Some(prompts), Some(space)) = (&mut prompts, &space) {
                    prompts.space(&mut faults, &key, config, space);
                }
            }
            StageConfig::Adapter(config) => {
                let choices = config.choices();
                adapter_stage::check_together(&mut faults, &key, config, model);
                for (place, choice) in choices.iter().enumerate() {
                    let key = match config.variants.is_empty() {
                        true => key.clone(),
                        false => format!("{key}.variants.{place}"),
                    };
                    adapter_stage::check(&mut faults, &key, choice, recipe, data, model);
                    faults.check_room(&key, choice, recipe.base.max_length, positions);
                    faults.check_methods(&key, choice, earlier.as_ref());
                }
                let stacks = choices
                    .into_iter()
                    .filter(|choice| !choice.methods.is_empty());
                let stacks: Vec<AdapterStage> = stacks.collect();
                earlier = earlier.or((!stacks.is_empty()).then_some(stacks));
            }
        }
    }
    if let Some(prompts) = &prompts {
        prompts.wanted_texts(&mut faults);
    }
    match faults.found.is_empty() {
        true => Ok(()),
        false => Err(HybridError::Recipe(places.refuse(faults.found).into())),
    }
}

/// The faults so far.
struct Faults<'p> {
    places: &'p Places,
    found: Vec<Fault>,
}

impl Faults<'_> {
    fn add(&mut self, key: &str, message: impl Into<String>) {
        self.found.push(self.places.fault(key, message));
    }

    /// The value, or the error as a fault.
    fn expect<T, E: std::error::Error>(&mut self, key: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.add(key, describe(&error))).ok()
    }

    /// Whether the virtual tokens of a stage leave room for the words.
    fn check_room(&mut self, key: &str, stage: &AdapterStage, length: usize, positions: usize) {
        let in_front = stage.methods.iter().map(AdapterConfig::n_virtual_tokens);
        let in_front: usize = in_front.sum();
        if length <= positions && length + in_front > positions {
            self.add(
                &format!("{key}.methods"),
                format!(
                    "{in_front} virtual tokens before the {length} of base.max_length are \
                    more than the {positions} tokens that the base reads"
                ),
            );
        }
    }

    /// Whether the methods of a stage are those that an earlier one has trained, whichever that
    /// chose.
    fn check_methods(
        &mut self,
        key: &str,
        stage: &AdapterStage,
        earlier: Option<&Vec<AdapterStage>>,
    ) {
        let mut others = earlier.into_iter().flatten();
        let Some(other) = others.find(|other| other.methods != stage.methods) else {
            return;
        };
        if !stage.methods.is_empty() {
            self.add(
                &format!("{key}.methods"),
                format!(
                    "other methods than those of the stage `{}`; give both the same, stacked in \
                    one list",
                    other.name
                ),
            );
        }
    }

    /// Pools one token to see whether the base can.
    fn check_pooling(&mut self, key: &str, model: &LocalModel, pooling: Pooling) {
        let device = &model.device;
        let batch = EncoderBatch {
            input_ids: Tensor::zeros([1, 1], device),
            attention_mask: Tensor::ones([1, 1], device),
            token_type_ids: None,
        };
        let hidden = Tensor::zeros([1, 1, model.d_model()], device);
        if let Err(error) = model.encoder().pool(hidden, &batch, pooling, &NoHooks) {
            self.add(key, format!("{error}; choose `mean` or `cls`"));
        }
    }
}

/// Label words by label.
type LabelWords = BTreeMap<String, Vec<String>>;
