//! What architectures call the places that the stacks under test name as BERT and DistilBERT do.

use hybrid_adapters::AdapterConfig;
use hybrid_models::{Base, BaseKind, Site, SiteKind};
use serde_json::Value;

use super::counts::name;

/// The names of a family, each the end of a path.
struct Names {
    query: &'static str,
    key: &'static str,
    value: &'static str,
    /// The layer that leads out of a feed-forward sub-layer.
    output: &'static str,
    words: &'static str,
    /// What stands before the index of a layer.
    layers: &'static str,
    first_query: &'static str,
}

/// GPT-2's queries, keys and values are one layer. So that what is at queries, at keys and at values
/// stays apart, layers of the right sizes stand for the other two.
const GPT2: Names = Names {
    query: "c_attn",
    key: "attn.c_proj",
    value: "mlp.c_fc",
    output: "mlp.c_proj",
    words: "wte",
    layers: "h",
    first_query: "h.0.attn.c_attn",
};

const LLAMA: Names = Names {
    query: "q_proj",
    key: "k_proj",
    value: "v_proj",
    output: "down_proj",
    words: "embed_tokens",
    layers: "layers",
    first_query: "layers.0.self_attn.q_proj",
};

const T5: Names = Names {
    query: "q",
    key: "k",
    value: "v",
    output: "wo",
    words: "shared",
    layers: "block",
    first_query: "block.0.layer.0.SelfAttention.q",
};

const BART: Names = Names {
    output: "fc2",
    words: "shared",
    ..LLAMA
};

/// Nothing for the encoders, which the stacks speak of.
fn names(base: &dyn Base) -> Option<&'static Names> {
    match base.model_type() {
        "bert" | "roberta" | "distilbert" => None,
        "gpt2" => Some(&GPT2),
        "llama" | "mistral" | "qwen2" | "qwen3" => Some(&LLAMA),
        "t5" => Some(&T5),
        "bart" | "marian" => Some(&BART),
        other => panic!("no test knows the places of {other}"),
    }
}

impl Names {
    /// A target, pattern or path in this family's names.
    fn translated(&self, text: &str) -> String {
        let index = |text: &str| text.strip_prefix("layer.")?.parse::<usize>().ok();
        match text {
            "query" | "q_lin" => self.query.to_owned(),
            "key" | "k_lin" => self.key.to_owned(),
            // Among the defaults of methods; GPT-2's stands for the queries here.
            "value" | "v_lin" | "value|v_lin" | "c_attn" => self.value.to_owned(),
            "word_embeddings" | "embeddings" => self.words.to_owned(),
            "classifier" => "lm_head".to_owned(),
            "layer.0.attention.self.query" => self.first_query.to_owned(),
            ".*(query|q_lin)" => format!(r".*\.{}", self.query),
            _ => match index(text) {
                Some(index) => format!("{}.{index}", self.layers),
                None => text.to_owned(),
            },
        }
    }

    fn translate(&self, settings: Value) -> Value {
        match settings {
            Value::String(text) => Value::String(self.translated(&text)),
            Value::Array(items) => {
                let mut translated: Vec<Value> = Vec::new();
                for item in items {
                    let is_name = item.is_string();
                    let item = self.translate(item);
                    if !(is_name && translated.contains(&item)) {
                        translated.push(item);
                    }
                }
                Value::Array(translated)
            }
            Value::Object(fields) => {
                let fields = fields.into_iter();
                let fields =
                    fields.map(|(key, value)| (self.translated(&key), self.translate(value)));
                Value::Object(fields.collect())
            }
            other => other,
        }
    }
}

/// A stack under test in the names of a base.
pub(crate) fn in_names_of(base: &dyn Base, stack: &[AdapterConfig]) -> Vec<AdapterConfig> {
    let Some(names) = names(base) else {
        return stack.to_vec();
    };
    let settings = serde_json::to_value(stack).unwrap();
    serde_json::from_value(names.translate(settings)).unwrap()
}

/// The path of a place in an encoder like BERT that stands for a site.
pub(super) fn path_in_bert(base: &dyn Base, site: &Site) -> String {
    let Some(names) = names(base) else {
        return site.path.clone();
    };
    let ends = |end: &str| {
        let rest = site.path.strip_suffix(end);
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    let attention = [
        "attn",
        "self_attn",
        "encoder_attn",
        "SelfAttention",
        "EncDecAttention",
    ];
    let place = match site.kind {
        SiteKind::Block { .. } if attention.contains(&name(&site.path)) => "attention",
        SiteKind::Block { .. } => "output",
        _ if site.head => return "classifier".to_owned(),
        _ if ends(names.words) => return "embeddings.word_embeddings".to_owned(),
        _ if ends(names.query) => "query",
        _ if ends(names.key) => "key",
        _ if ends(names.value) => "value",
        _ if ends(names.output) => "output.dense",
        _ => name(&site.path),
    };
    let mut parts = site
        .path
        .split('.')
        .skip_while(|part| *part != names.layers);
    match parts.nth(1) {
        Some(index) => format!("encoder.layer.{index}.{place}"),
        None => place.to_owned(),
    }
}

/// The queries and values that methods act on where nothing else is asked for.
pub(super) fn queries_and_values(base: &dyn Base) -> impl Iterator<Item = &Site> {
    base.sites().iter().filter(move |site| {
        let path = path_in_bert(base, site);
        let is_there = matches!(name(&path), "query" | "value" | "q_lin" | "v_lin");
        is_there && matches!(site.kind, SiteKind::Linear { .. })
    })
}

/// What an encoder-decoder has of a stack beside what its sites say: vectors in front of the words of
/// both stacks of layers; and keys alone that are in front of tokens, or that look at their own stack.
pub(super) fn of_second_stack(base: &dyn Base, stack: &[AdapterConfig]) -> isize {
    if base.kind() != BaseKind::EncoderDecoder {
        return 0;
    }
    let (first, last) = (base.stacks()[0], base.stacks()[1]);
    let keys = || {
        let keys = base.sites().iter().filter_map(|site| match site.kind {
            SiteKind::Linear { d_in, d_out, .. } if name(&path_in_bert(base, site)) == "key" => {
                Some((site, d_in, d_out))
            }
            _ => None,
        });
        keys.collect::<Vec<_>>()
    };
    let in_front_of_last = |n: usize| {
        let others = keys().into_iter();
        let others = others.filter(|(site, ..)| site.layer >= Some(first.n_layers));
        let values: usize = others.map(|(_, _, d_out)| 2 * d_out).sum();
        (n * values) as isize
    };
    let of_method = |config: &AdapterConfig| match config {
        AdapterConfig::PromptTuning(config) => (config.num_virtual_tokens * last.d_model) as isize,
        AdapterConfig::PTuning(config) => (config.num_virtual_tokens * last.d_model) as isize,
        AdapterConfig::MultitaskPromptTuning(config) => {
            let of_tasks = config.num_tasks * config.num_ranks;
            (config.num_virtual_tokens * (last.d_model + of_tasks)) as isize
        }
        AdapterConfig::PrefixTuning(config) => -in_front_of_last(config.num_virtual_tokens),
        AdapterConfig::Cartridge(config) => {
            -in_front_of_last(config.num_virtual_tokens - config.num_frozen_tokens)
        }
        // One mixture serves both stacks, but where attention looks across.
        AdapterConfig::Lily(config) => {
            let is_all = serde_json::to_value(&config.target_modules).unwrap() == "all-linear";
            let across = ["EncDecAttention", "encoder_attn"];
            let again = base.sites().iter().filter(|site| {
                let path = path_in_bert(base, site);
                let mut parts = site.path.split('.');
                let is_target = match is_all {
                    true => !parts.any(|part| across.contains(&part)),
                    false => matches!(name(&path), "query" | "value"),
                };
                site.layer == Some(first.n_layers) && is_target
            });
            let sizes = again.map(|site| match site.kind {
                SiteKind::Linear { d_out, .. } => config.num_b * config.r * d_out,
                _ => 0,
            });
            -(sizes.sum::<usize>() as isize)
        }
        AdapterConfig::AdaptionPrompt(config) => {
            let across = keys().into_iter().filter(|(site, ..)| {
                let mut parts = site.path.split('.');
                parts.any(|part| ["EncDecAttention", "encoder_attn"].contains(&part))
            });
            let values: usize = across
                .map(|(_, d_in, _)| config.adapter_len * d_in + 1)
                .sum();
            -(values as isize)
        }
        _ => 0,
    };
    stack.iter().map(of_method).sum()
}
