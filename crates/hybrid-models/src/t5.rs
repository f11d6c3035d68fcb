//! T5 (Raffel et al. 2020) with its versions 1.1 and Flan, as
//! `transformers.T5ForConditionalGeneration` computes it: root mean square norms before the
//! sub-layers, scores that are not scaled, and a bias by distance that all layers of a stack share.
//!
//! Deviations: the base's own dropout is off.

use burn::tensor::Device;
use serde_json::json;

use crate::blocks::{
    Attention, Buckets, CrossAttention, FeedForward, Heads, Projections, RelativeBias, SubLayer,
    TransformerLayer,
};
use crate::checkpoint::{Checkpoint, Start, Starts};
use crate::config_file::ConfigFile;
use crate::encoder_decoder::{DefaultTokens, LayerStack, Parts, Positions, WordScale};
use crate::kernels::Activation;
use crate::loader::{LinearShape, Loader, Part};
use crate::{Embedding, LayerTable, Linear, ModelError, Norm, NormKind, Stack};

/// What both stacks have in common.
struct Sizes {
    d_model: usize,
    d_ff: usize,
    heads: Heads,
    gated: bool,
    activation: Activation,
    epsilon: f64,
    n_buckets: usize,
    max_distance: usize,
}

/// The names that one bias table of old checkpoints has; Transformers ignores it.
const UNUSED: &str = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight";

/// # Errors
/// An error of the configuration or the checkpoint.
pub(crate) fn load(
    config: &ConfigFile,
    mut checkpoint: Checkpoint,
    device: &Device,
) -> Result<(Parts, LayerTable), ModelError> {
    config.require("is_encoder_decoder", &json!(true))?;
    let sizes = Sizes::read(config)?;
    let n_layers = config.size("num_layers")?;
    let n_decoder_layers = config.size_or("num_decoder_layers", n_layers)?;
    let vocab = config.size("vocab_size")?;
    let copies = ["decoder", "encoder"].map(|stack| format!("{stack}.embed_tokens.weight"));
    checkpoint.rename_first(&copies, "shared.weight");
    let mut loader = Loader::new(checkpoint, device, String::new(), String::new());
    let shared = loader.embedding("shared", vocab, sizes.d_model)?;
    let encoder = sizes.stack(Stack::Encoder, 0..n_layers, &shared, &mut loader)?;
    let all = n_layers + n_decoder_layers;
    let decoder = sizes.stack(Stack::Decoder, n_layers..all, &shared, &mut loader)?;
    // The file alone says whether the output layer is the word vectors: configurations before and
    // after Transformers 5 say different things of the same model.
    let output = loader.output("lm_head", None, &shared, true)?;
    let scaled = config.switch_or("tie_word_embeddings", true)?;
    let output_scale = match config.switch_or("scale_decoder_outputs", scaled)? {
        true => 1.0 / (sizes.d_model as f64).sqrt(),
        false => 1.0,
    };
    let parts = Parts {
        encoder,
        decoder,
        output_scale,
        output,
        logits_bias: None,
        tokens: DefaultTokens {
            start: None,
            pad: 0,
            end: 1,
            forced_last: None,
        },
    };
    Ok((parts, loader.finish(|name| name == UNUSED)?))
}

/// How a T5 begins, after Transformers' `T5PreTrainedModel._init_weights`: like Mesh TensorFlow's,
/// so that products have deviation 1, queries alone being smaller since scores are not scaled.
#[derive(Debug)]
pub(crate) struct T5Starts {
    factor: f64,
    d_model: f64,
    d_ff: f64,
    d_head: f64,
    n_heads: f64,
    /// Whether the output layer is another matrix than the word vectors.
    own_output: bool,
}

/// # Errors
/// An error of the configuration.
pub(crate) fn starts(config: &ConfigFile) -> Result<T5Starts, ModelError> {
    let size = |key: &str| Ok::<f64, ModelError>(config.size(key)? as f64);
    Ok(T5Starts {
        factor: config.positive_or("initializer_factor", 1.0)?,
        d_model: size("d_model")?,
        d_ff: size("d_ff")?,
        d_head: size("d_kv")?,
        n_heads: size("num_heads")?,
        own_output: !config.switch_or("tie_word_embeddings", true)?,
    })
}

impl Starts for T5Starts {
    fn of(&self, name: &str) -> Start {
        let mut parts = name.rsplit('.').skip(1);
        let layer = parts.next().unwrap_or_default();
        let fan_in = match layer {
            "shared" | "lm_head" => 1.0,
            "q" => self.d_model * self.d_head,
            "o" => self.n_heads * self.d_head,
            "wo" => self.d_ff,
            norm if norm.ends_with("layer_norm") => return Start::Constant(self.factor),
            _ => self.d_model,
        };
        Start::Normal(self.factor / fan_in.sqrt())
    }

    fn has(&self, name: &str) -> bool {
        self.own_output && name == "lm_head.weight"
    }
}

impl Sizes {
    fn read(config: &ConfigFile) -> Result<Self, ModelError> {
        let n_heads = config.size("num_heads")?;
        let d_head = config.size("d_kv")?;
        let (gated, activation) = feed_forward(config)?;
        let n_buckets = config.size_or("relative_attention_num_buckets", 32)?;
        let max_distance = config.size_or("relative_attention_max_distance", 128)?;
        for (key, size, least) in [
            (
                "relative_attention_num_buckets",
                n_buckets,
                Buckets::MIN_BUCKETS,
            ),
            (
                "relative_attention_max_distance",
                max_distance,
                n_buckets / 2 + 1,
            ),
        ] {
            if size < least {
                return Err(config.invalid(key, format!("{least} or more"), size));
            }
        }
        Ok(Self {
            d_model: config.size("d_model")?,
            d_ff: config.size("d_ff")?,
            heads: Heads {
                scale: 1.0,
                ..Heads::scaled(n_heads, d_head)
            },
            gated,
            activation,
            epsilon: config.positive_or("layer_norm_epsilon", 1e-6)?,
            n_buckets,
            max_distance,
        })
    }

    /// One stack; `layers` are its layers' places among all of the model.
    fn stack(
        &self,
        stack: Stack,
        layers: std::ops::Range<usize>,
        shared: &Embedding,
        loader: &mut Loader<'_>,
    ) -> Result<LayerStack, ModelError> {
        let name = match stack {
            Stack::Encoder => "encoder",
            Stack::Decoder => "decoder",
        };
        let words = loader.stack_words(&format!("{name}.embed_tokens"), shared)?;
        let table = format!("{name}.block.0.layer.0.SelfAttention.relative_attention_bias");
        let positions = Positions::Relative(RelativeBias {
            table: loader.embedding(&table, self.n_buckets, self.heads.n_heads)?,
            buckets: Buckets {
                n_buckets: self.n_buckets,
                max_distance: self.max_distance,
                both_directions: stack == Stack::Encoder,
            },
        });
        let layers = layers.enumerate().map(|(index, layer)| {
            let path = format!("{name}.block.{index}.layer");
            self.layer(stack, layer, &path, loader)
        });
        let layers = layers.collect::<Result<_, ModelError>>()?;
        let final_norm = format!("{name}.final_layer_norm");
        Ok(LayerStack {
            stack,
            words,
            word_scale: WordScale::Words(1.0),
            positions,
            embedding_norm: None,
            layers,
            final_norm: Some(self.norm(Part::Body, &final_norm, loader)?),
        })
    }

    /// The layer `layer` of the model, its sub-layers below `path`.
    fn layer(
        &self,
        stack: Stack,
        layer: usize,
        path: &str,
        loader: &mut Loader<'_>,
    ) -> Result<TransformerLayer, ModelError> {
        let part = Part::Layer(layer);
        let norm = self.norm(part, &format!("{path}.0.layer_norm"), loader)?;
        let name = format!("{path}.0.SelfAttention");
        let [query, key, value, output] = self.projections(part, &name, loader)?;
        let attention = SubLayer {
            function: Attention {
                projections: Projections::Separate { query, key, value },
                head_norms: None,
                output,
                heads: self.heads,
            },
            norm,
            norm_first: true,
            block: loader.block(layer, &name, self.d_model),
        };
        let (cross_attention, path) = match stack {
            Stack::Encoder => (None, format!("{path}.1")),
            Stack::Decoder => {
                let norm = self.norm(part, &format!("{path}.1.layer_norm"), loader)?;
                let name = format!("{path}.1.EncDecAttention");
                let [query, key, value, output] = self.projections(part, &name, loader)?;
                let cross = SubLayer {
                    function: CrossAttention {
                        query,
                        key,
                        value,
                        output,
                        heads: self.heads,
                    },
                    norm,
                    norm_first: true,
                    block: loader.block(layer, &name, self.d_model),
                };
                (Some(cross), format!("{path}.2"))
            }
        };
        let norm = self.norm(part, &format!("{path}.layer_norm"), loader)?;
        let name = format!("{path}.DenseReluDense");
        let mut linear = |end: &str, d_in, d_out| {
            let shape = LinearShape {
                d_in,
                d_out,
                bias: false,
            };
            loader.linear(part, &format!("{name}.{end}"), shape)
        };
        let gate = match self.gated {
            true => Some(linear("wi_0", self.d_model, self.d_ff)?),
            false => None,
        };
        let up = if self.gated { "wi_1" } else { "wi" };
        let function = FeedForward {
            gate,
            up: linear(up, self.d_model, self.d_ff)?,
            activation: self.activation,
            down: linear("wo", self.d_ff, self.d_model)?,
        };
        let feed_forward = SubLayer {
            function,
            norm,
            norm_first: true,
            block: loader.block(layer, &name, self.d_model),
        };
        Ok(TransformerLayer {
            attention,
            cross_attention,
            feed_forward,
        })
    }

    /// Query, key, value and output of the attention below `path`.
    fn projections(
        &self,
        part: Part,
        path: &str,
        loader: &mut Loader<'_>,
    ) -> Result<[Linear; 4], ModelError> {
        let (d_model, wide) = (self.d_model, self.heads.n_heads * self.heads.d_head);
        let mut linear = |end: &str, d_in, d_out| {
            let shape = LinearShape {
                d_in,
                d_out,
                bias: false,
            };
            loader.linear(part, &format!("{path}.{end}"), shape)
        };
        Ok([
            linear("q", d_model, wide)?,
            linear("k", d_model, wide)?,
            linear("v", d_model, wide)?,
            linear("o", wide, d_model)?,
        ])
    }

    fn norm(&self, part: Part, path: &str, loader: &mut Loader<'_>) -> Result<Norm, ModelError> {
        loader.norm(part, path, NormKind::Rms, self.d_model, self.epsilon)
    }
}

/// Whether the feed-forward layers have a gate, and their activation function.
fn feed_forward(config: &ConfigFile) -> Result<(bool, Activation), ModelError> {
    let key = "feed_forward_proj";
    let found = config.optional_text(key)?.unwrap_or("relu");
    let (gated, name) = match found.strip_prefix("gated-") {
        // The first gated T5 says `gelu` and means its form with a hyperbolic tangent.
        Some("gelu") => (true, "gelu_new"),
        Some(name) => (true, name),
        None => (false, found),
    };
    let activation = Activation::of_name(name).ok_or_else(|| {
        let names = Activation::NAMES.join(", ");
        config.invalid(key, format!("one of {names}, or one after `gated-`"), found)
    })?;
    Ok((
        config.switch_or("is_gated_act", gated)?,
        config.activation_or("dense_act_fn", activation)?,
    ))
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use serde_json::json;

    use crate::{Base, EncoderDecoder, ModelError};

    fn random(changes: &[(&str, serde_json::Value)], seed: u64) -> EncoderDecoder {
        let mut config = json!({
            "model_type": "t5", "d_model": 48, "d_kv": 12, "num_heads": 6, "d_ff": 96,
            "num_layers": 2, "vocab_size": 60, "decoder_start_token_id": 0,
            "initializer_factor": 0.5,
        });
        for (key, value) in changes {
            config[key] = value.clone();
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        EncoderDecoder::random(folder.path(), seed, &Device::flex()).unwrap()
    }

    #[test]
    fn a_new_model_is_drawn_as_transformers_draws_it() {
        let gated = json!("gated-gelu");
        let changes = [
            ("feed_forward_proj", gated),
            ("tie_word_embeddings", json!(false)),
        ];
        let model = random(&changes, 3);
        let (d_model, d_head, heads, d_ff) = (48.0f64, 12.0f64, 6.0f64, 96.0f64);
        let mut seen = 0;
        for (name, data) in model.named_tensors() {
            let values: Vec<f64> = data.iter::<f64>().collect();
            if name.contains("layer_norm") {
                assert!(values.iter().all(|value| *value == 0.5), "{name}");
                continue;
            }
            let expected = 0.5
                * match name.trim_end_matches(".weight").rsplit('.').next().unwrap() {
                    "q" => (d_model * d_head).powf(-0.5),
                    "k" | "v" | "wi_0" | "wi_1" | "relative_attention_bias" => d_model.powf(-0.5),
                    "o" => (heads * d_head).powf(-0.5),
                    "wo" => d_ff.powf(-0.5),
                    "shared" | "lm_head" => 1.0,
                    _ => panic!("{name}"),
                };
            let n = values.len() as f64;
            let found = (values.iter().map(|value| value * value).sum::<f64>() / n).sqrt();
            // Four deviations of a mean square of `n` normal numbers.
            let error = (found / expected - 1.0).abs();
            assert!(
                error < 4.0 / (2.0 * n).sqrt(),
                "{name}: {found}, not {expected}"
            );
            seen += 1;
        }
        // Four of each attention, three of each feed-forward layer, two tables, words and output.
        assert_eq!(seen, 6 * 4 + 4 * 3 + 2 + 2);
    }

    #[test]
    fn the_seed_decides() {
        let values = |seed| random(&[], seed).named_tensors();
        assert_eq!(values(1), values(1));
        assert_ne!(values(1), values(2));
        let tied = values(1).into_iter().map(|(name, _)| name);
        assert!(!tied.into_iter().any(|name| name == "lm_head.weight"));
    }

    #[test]
    fn other_families_cannot_start_at_random() {
        let folder = tempfile::tempdir().unwrap();
        let config = json!({"model_type": "bart", "is_encoder_decoder": true});
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let error = EncoderDecoder::random(folder.path(), 1, &Device::flex()).unwrap_err();
        assert!(
            matches!(&error, ModelError::NoInitialisation { found, .. } if found == "bart"),
            "{error}"
        );
    }
}
