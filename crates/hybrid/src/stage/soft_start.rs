//! What a stage's methods take from the stage: the tokens that soft prompts and prefixes start at,
//! which may be the searched prompt's, and the steps over which ranks are chosen.

use std::collections::BTreeMap;

use hybrid_adapters::{AdapterConfig, LoraInit, PromptTuningInit};
use hybrid_prompts::{Prompt, Template};

use crate::HybridError;
use crate::local_model::LocalModel;
use crate::recipe::AdapterStage;
use crate::task::TaskData;

/// A stage's methods, with the tokens of the texts that they start at: of a text that the method
/// names, or, with `start_at_prompt`, of the prompt's instruction and template. A soft prompt
/// starts at their word vectors, a prefix or a cartridge at their keys and values. AdaLoRA without
/// a number of steps of its own gets `total_steps`.
///
/// # Errors
/// [`HybridError::Prompt`] for a template, [`HybridError::Data`] when the tokenizer refuses a text.
pub(crate) fn methods(
    config: &AdapterStage,
    model: &LocalModel,
    data: &TaskData,
    prompt: &Prompt,
    total_steps: usize,
) -> Result<Vec<AdapterConfig>, HybridError> {
    let searched = || text_of(prompt, data).and_then(|text| model.ids(&text, false));
    let mut methods = config.methods.clone();
    for method in &mut methods {
        match method {
            AdapterConfig::PromptTuning(soft) if soft.init_token_ids.is_none() => {
                if let Some(text) = &soft.prompt_tuning_init_text {
                    soft.init_token_ids = Some(model.ids(text, false)?);
                } else if config.start_at_prompt {
                    soft.prompt_tuning_init = PromptTuningInit::Text;
                    soft.init_token_ids = Some(searched()?);
                }
            }
            AdapterConfig::PrefixTuning(prefix)
                if config.start_at_prompt && prefix.init_token_ids.is_none() =>
            {
                prefix.init_token_ids = Some(searched()?);
            }
            AdapterConfig::Cartridge(cartridge)
                if config.start_at_prompt && cartridge.init_token_ids.is_none() =>
            {
                cartridge.init_token_ids = Some(searched()?);
            }
            AdapterConfig::Adalora(adalora) => {
                adalora.total_step = adalora.total_step.or(Some(total_steps));
            }
            _ => {}
        }
    }
    Ok(methods)
}

/// What a prompt says whatever the input.
fn text_of(prompt: &Prompt, data: &TaskData) -> Result<String, HybridError> {
    let names = data.fit.fields().take(1).flat_map(BTreeMap::keys);
    let empty = names.map(|name| (name.clone(), String::new())).collect();
    let text = Template::parse(&prompt.template)?.render(&empty)?;
    Ok(match prompt.instruction.as_str() {
        "" => text,
        instruction => format!("{instruction}\n\n{text}"),
    })
}

/// Whether methods are the same but for where soft prompts start, which a later prompt changes, for
/// ranks that data chose, and for the steps of the stage.
pub(crate) fn same_but_for_starts(methods: &[AdapterConfig], others: &[AdapterConfig]) -> bool {
    let bare = |methods: &[AdapterConfig]| -> Vec<AdapterConfig> {
        let mut methods = methods.to_vec();
        for method in &mut methods {
            match method {
                AdapterConfig::PromptTuning(soft) => {
                    soft.init_token_ids = None;
                    soft.prompt_tuning_init = PromptTuningInit::default();
                }
                AdapterConfig::PrefixTuning(prefix) => prefix.init_token_ids = None,
                AdapterConfig::Cartridge(cartridge) => cartridge.init_token_ids = None,
                AdapterConfig::Adalora(adalora) => adalora.total_step = None,
                AdapterConfig::Lora(lora) if lora.init_lora_weights == LoraInit::Eva => {
                    lora.eva_config.get_or_insert_default().ranks = None;
                }
                _ => {}
            }
        }
        methods
    };
    bare(methods) == bare(others)
}
