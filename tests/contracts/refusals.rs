//! What bases cannot have, and how they say so.

use hybrid_adapters::{AdapterConfig, AdapterError, BeftConfig, MethodInfo};
use hybrid_models::{Base, BaseKind, ModelError, SiteKind};

use super::counts::name;
use super::families::{path_in_bert, queries_and_values};

/// Why a base cannot have a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// This setting does not fit the base.
    Setting(&'static str),
    /// There is no place to act on.
    NoTarget,
    /// The base does not read tokens alone.
    NoSuchPart,
}

impl Refusal {
    pub(crate) fn is(self, error: &AdapterError) -> bool {
        match (self, error) {
            (Self::Setting(wanted), AdapterError::Setting { key, .. }) => wanted == *key,
            (Self::NoTarget, AdapterError::NoTarget { .. }) => true,
            (Self::NoSuchPart, AdapterError::Model(ModelError::NoSuchPart { .. })) => true,
            _ => false,
        }
    }
}

/// Why a base cannot have a stack under test, when it cannot.
pub(crate) fn refusal(base: &dyn Base, stack: &[AdapterConfig]) -> Option<Refusal> {
    stack.iter().find_map(|config| of_method(base, config))
}

fn of_method(base: &dyn Base, config: &AdapterConfig) -> Option<Refusal> {
    let is_encoder = base.kind() == BaseKind::Encoder;
    match config {
        // Its gates average over whole rows.
        AdapterConfig::Unipelt(_) => (!is_encoder).then_some(Refusal::Setting("method")),
        // The last token is not known while a text is written.
        AdapterConfig::Loreft(config) => (config.suffix_positions > 0 && !is_encoder)
            .then_some(Refusal::Setting("suffix_positions")),
        AdapterConfig::PrefixTuning(config) => {
            let reads_two = base.kind() == BaseKind::EncoderDecoder;
            (config.init_token_ids.is_some() && reads_two).then_some(Refusal::NoSuchPart)
        }
        AdapterConfig::Cartridge(config) => {
            let reads_two = base.kind() == BaseKind::EncoderDecoder;
            (config.init_token_ids.is_some() && reads_two).then_some(Refusal::NoSuchPart)
        }
        // GPT-2's values are part of a larger layer.
        AdapterConfig::Beft(config) => {
            let own_targets = config.target_modules == BeftConfig::default().target_modules;
            (own_targets && base.model_type() == "gpt2").then_some(Refusal::NoTarget)
        }
        // Nothing but the bias would be changed.
        AdapterConfig::Glora(_) => {
            let settings = serde_json::to_value(config).unwrap();
            let mut sites = queries_and_values(base);
            let lacks_bias =
                sites.any(|site| matches!(site.kind, SiteKind::Linear { bias: false, .. }));
            (settings["config_A_B"] == "none" && lacks_bias)
                .then_some(Refusal::Setting("config_A_B"))
        }
        AdapterConfig::Bitfit(_) => {
            let mut kinds = base.sites().iter().map(|site| site.kind);
            let has_bias = kinds.any(|kind| {
                matches!(
                    kind,
                    SiteKind::Linear { bias: true, .. } | SiteKind::Norm { bias: true, .. }
                )
            });
            (!has_bias).then_some(Refusal::NoTarget)
        }
        // Its keys are part of a larger layer.
        AdapterConfig::AdaptionPrompt(_) => {
            (base.model_type() == "gpt2").then_some(Refusal::NoTarget)
        }
        config => indivisible(base, config).map(Refusal::Setting),
    }
}

/// The sizes that a number has to divide.
enum Sides {
    In,
    Out,
    Both,
}

/// The setting that does not divide the sizes of the queries and values.
fn indivisible(base: &dyn Base, config: &AdapterConfig) -> Option<&'static str> {
    let settings = serde_json::to_value(config).unwrap();
    let (key, sides) = match (config.name(), settings["init_weights"].as_str()) {
        ("boft", _) => ("boft_block_size", Sides::In),
        ("c3a", _) => ("block_size", Sides::Both),
        ("gralora", _) => ("gralora_k", Sides::Both),
        ("miss", Some("mini")) => ("mini_r", Sides::Out),
        ("miss", Some("bat")) => ("r", Sides::Both),
        ("poly", _) => ("n_splits", Sides::Both),
        ("road", _) => ("group_size", Sides::Out),
        ("vblora", _) => ("vector_length", Sides::Both),
        _ => return None,
    };
    let number = settings[key].as_u64().expect("a number") as usize;
    let mut sizes = queries_and_values(base).flat_map(|site| match (site.kind, &sides) {
        (SiteKind::Linear { d_in, .. }, Sides::In) => vec![d_in],
        (SiteKind::Linear { d_out, .. }, Sides::Out) => vec![d_out],
        (SiteKind::Linear { d_in, d_out, .. }, Sides::Both) => vec![d_in, d_out],
        _ => Vec::new(),
    });
    sizes
        .any(|size| !size.is_multiple_of(number))
        .then_some(key)
}

/// The first method of a stack that has no place in a base's weights.
pub(crate) fn beside_weights(base: &dyn Base, stack: &[AdapterConfig]) -> Option<&'static str> {
    let has_no_bias = |config: &AdapterConfig| match config {
        // The stacks under test have it at queries.
        AdapterConfig::Lora(config) if config.lora_bias => base.sites().iter().any(|site| {
            let is_query = matches!(name(&path_in_bert(base, site)), "query" | "q_lin");
            is_query && matches!(site.kind, SiteKind::Linear { bias: false, .. })
        }),
        // Those under test have it at values, or at queries and nowhere else.
        AdapterConfig::Beft(config) => {
            let targets = serde_json::to_string(&config.target_modules).unwrap();
            let own = ["value", "v_lin", "v_proj", "mlp.c_fc", "\"v\""];
            let at_values = own.iter().any(|name| targets.contains(name));
            base.sites().iter().any(|site| {
                let path = path_in_bert(base, site);
                let is_target = match at_values {
                    true => matches!(name(&path), "value" | "v_lin"),
                    false => matches!(name(&path), "query" | "q_lin"),
                };
                is_target && matches!(site.kind, SiteKind::Linear { bias: false, .. })
            })
        }
        _ => false,
    };
    let mut configs = stack.iter();
    let first = configs.find(|config| !MethodInfo::of(config).merges || has_no_bias(config));
    first.map(AdapterConfig::name)
}
