//! BART (Lewis et al. 2020), as `transformers.BartForConditionalGeneration` computes it: learned
//! positions whose first two rows are not used, norms after the residual connections, and a bias of
//! the logits.
//!
//! Deviations: the base's own dropout is off, and no layer is dropped.

use burn::tensor::Device;
use serde_json::json;

use crate::blocks::{
    Attention, CrossAttention, FeedForward, Heads, Projections, SubLayer, TransformerLayer,
};
use crate::checkpoint::Checkpoint;
use crate::config_file::ConfigFile;
use crate::encoder_decoder::{DefaultTokens, LayerStack, Parts, Positions, WordScale};
use crate::kernels::Activation;
use crate::loader::{LinearShape, Loader, Part};
use crate::{Embedding, LayerTable, Linear, ModelError, Norm, NormKind, Stack};

/// Rows of the position tables that come before that of position 0.
const POSITION_OFFSET: usize = 2;

/// PyTorch's default, which Transformers keeps for every norm of BART.
const EPSILON: f64 = 1e-5;

/// Stands before all paths of the body.
const PREFIX: &str = "model.";

/// # Errors
/// An error of the configuration or the checkpoint.
pub(crate) fn load(
    config: &ConfigFile,
    checkpoint: Checkpoint,
    device: &Device,
) -> Result<(Parts, LayerTable), ModelError> {
    config.require("normalize_embedding", &json!(true))?;
    config.require("static_position_embeddings", &json!(false))?;
    let sizes = Sizes::read(config, WordScale::Words)?;
    let vocab = config.size("vocab_size")?;
    let n_positions = config.size("max_position_embeddings")? + POSITION_OFFSET;
    let mut loader = open(checkpoint, device, true);
    let shared = loader.embedding("shared", vocab, sizes.d_model)?;
    let mut stack = |stack: Stack| {
        let name = name(stack);
        let words = loader.stack_words(&format!("{name}.embed_tokens"), &shared)?;
        let table = format!("{name}.embed_positions");
        let positions = Positions::Learned {
            table: loader.embedding(&table, n_positions, sizes.d_model)?,
            offset: POSITION_OFFSET,
        };
        let norm = format!("{name}.layernorm_embedding");
        let embedding_norm = Some(sizes.norm(Part::Body, &norm, &mut loader)?);
        sizes.stack(stack, words, positions, embedding_norm, &mut loader)
    };
    let (encoder, decoder) = (stack(Stack::Encoder)?, stack(Stack::Decoder)?);
    let tokens = DefaultTokens {
        start: Some(2),
        pad: 1,
        end: 2,
        forced_last: Some(2),
    };
    finish(config, loader, encoder, decoder, &shared, tokens)
}

/// A loader of a checkpoint with or without [`PREFIX`] before its keys. Word vectors that both
/// stacks share are found under whichever name they have.
pub(crate) fn open(mut checkpoint: Checkpoint, device: &Device, shares: bool) -> Loader<'_> {
    let prefix = if checkpoint.has_prefix(PREFIX) {
        PREFIX
    } else {
        ""
    };
    if shares {
        let copies = [Stack::Decoder, Stack::Encoder]
            .map(|stack| format!("{prefix}{}.embed_tokens.weight", name(stack)));
        checkpoint.rename_first(&copies, &format!("{prefix}shared.weight"));
    }
    Loader::new(checkpoint, device, prefix.to_owned(), PREFIX.to_owned())
}

/// Adds what comes after the stacks. `words` are the output layer's where it has no weight of its
/// own.
pub(crate) fn finish(
    config: &ConfigFile,
    mut loader: Loader<'_>,
    encoder: LayerStack,
    decoder: LayerStack,
    words: &Embedding,
    tokens: DefaultTokens,
) -> Result<(Parts, LayerTable), ModelError> {
    let [vocab, _] = words.weight.dims();
    let tied = config.switch_or("tie_word_embeddings", true)?;
    let output = loader.output("lm_head", None, words, tied)?;
    let logits_bias = loader.fixed(Part::Head, "final_logits_bias", [1, vocab])?;
    let parts = Parts {
        encoder,
        decoder,
        output_scale: 1.0,
        output,
        logits_bias,
        tokens,
    };
    let unused = |name: &str| {
        let name = name.strip_prefix(PREFIX).unwrap_or(name);
        matches!(name, "encoder.version" | "decoder.version")
    };
    Ok((parts, loader.finish(unused)?))
}

/// A stack's module name.
pub(crate) fn name(stack: Stack) -> &'static str {
    match stack {
        Stack::Encoder => "encoder",
        Stack::Decoder => "decoder",
    }
}

/// What BART and Marian read alike.
pub(crate) struct Sizes {
    pub(crate) d_model: usize,
    word_scale: WordScale,
    activation: Activation,
    encoder: StackSizes,
    decoder: StackSizes,
}

struct StackSizes {
    n_layers: usize,
    d_ff: usize,
    heads: Heads,
}

impl StackSizes {
    fn read(config: &ConfigFile, stack: Stack, d_model: usize) -> Result<Self, ModelError> {
        let key = |key: &str| format!("{}_{key}", name(stack));
        let n_heads = config.size(&key("attention_heads"))?;
        config.check_heads(&key("attention_heads"), d_model, n_heads)?;
        Ok(Self {
            n_layers: config.size(&key("layers"))?,
            d_ff: config.size(&key("ffn_dim"))?,
            heads: Heads::scaled(n_heads, d_model / n_heads),
        })
    }
}

impl Sizes {
    /// # Errors
    /// [`ModelError::MissingKey`], [`ModelError::InvalidValue`].
    pub(crate) fn read(
        config: &ConfigFile,
        word_scale: fn(f64) -> WordScale,
    ) -> Result<Self, ModelError> {
        config.require("is_encoder_decoder", &json!(true))?;
        config.require("normalize_before", &json!(false))?;
        config.require("add_final_layer_norm", &json!(false))?;
        let d_model = config.size("d_model")?;
        let scaled = config.switch_or("scale_embedding", false)?;
        Ok(Self {
            d_model,
            word_scale: word_scale(if scaled { (d_model as f64).sqrt() } else { 1.0 }),
            activation: config.activation_or("activation_function", Activation::Gelu)?,
            encoder: StackSizes::read(config, Stack::Encoder, d_model)?,
            decoder: StackSizes::read(config, Stack::Decoder, d_model)?,
        })
    }

    /// The layers of a stack, behind its word vectors and positions.
    pub(crate) fn stack(
        &self,
        stack: Stack,
        words: Embedding,
        positions: Positions,
        embedding_norm: Option<Norm>,
        loader: &mut Loader<'_>,
    ) -> Result<LayerStack, ModelError> {
        let (first, sizes) = match stack {
            Stack::Encoder => (0, &self.encoder),
            Stack::Decoder => (self.encoder.n_layers, &self.decoder),
        };
        let layers = (0..sizes.n_layers).map(|index| {
            let path = format!("{}.layers.{index}", name(stack));
            self.layer(stack, first + index, &path, loader)
        });
        Ok(LayerStack {
            stack,
            words,
            word_scale: self.word_scale,
            positions,
            embedding_norm,
            layers: layers.collect::<Result<_, ModelError>>()?,
            final_norm: None,
        })
    }

    /// The layer `layer` of the model, at `path`.
    fn layer(
        &self,
        stack: Stack,
        layer: usize,
        path: &str,
        loader: &mut Loader<'_>,
    ) -> Result<TransformerLayer, ModelError> {
        let part = Part::Layer(layer);
        let d_model = self.d_model;
        let sizes = match stack {
            Stack::Encoder => &self.encoder,
            Stack::Decoder => &self.decoder,
        };
        let name = format!("{path}.self_attn");
        let [query, key, value, output] = self.projections(part, &name, loader)?;
        let function = Attention {
            projections: Projections::Separate { query, key, value },
            head_norms: None,
            output,
            heads: sizes.heads,
        };
        let attention = SubLayer {
            function,
            block: loader.block(layer, &name, d_model),
            norm: self.norm(part, &format!("{name}_layer_norm"), loader)?,
            norm_first: false,
        };
        let cross_attention = match stack {
            Stack::Encoder => None,
            Stack::Decoder => {
                let name = format!("{path}.encoder_attn");
                let [query, key, value, output] = self.projections(part, &name, loader)?;
                let function = CrossAttention {
                    query,
                    key,
                    value,
                    output,
                    heads: sizes.heads,
                };
                Some(SubLayer {
                    function,
                    block: loader.block(layer, &name, d_model),
                    norm: self.norm(part, &format!("{name}_layer_norm"), loader)?,
                    norm_first: false,
                })
            }
        };
        let shape = |d_in, d_out| LinearShape {
            d_in,
            d_out,
            bias: true,
        };
        let [up, down] = [(d_model, sizes.d_ff), (sizes.d_ff, d_model)];
        let function = FeedForward {
            gate: None,
            up: loader.linear(part, &format!("{path}.fc1"), shape(up.0, up.1))?,
            activation: self.activation,
            down: loader.linear(part, &format!("{path}.fc2"), shape(down.0, down.1))?,
        };
        let feed_forward = SubLayer {
            function,
            // No module holds this sub-layer alone.
            block: loader.block(layer, path, d_model),
            norm: self.norm(part, &format!("{path}.final_layer_norm"), loader)?,
            norm_first: false,
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
        let shape = LinearShape {
            d_in: self.d_model,
            d_out: self.d_model,
            bias: true,
        };
        let mut linear = |end: &str| loader.linear(part, &format!("{path}.{end}"), shape);
        Ok([
            linear("q_proj")?,
            linear("k_proj")?,
            linear("v_proj")?,
            linear("out_proj")?,
        ])
    }

    fn norm(&self, part: Part, path: &str, loader: &mut Loader<'_>) -> Result<Norm, ModelError> {
        loader.norm(part, path, NormKind::Layer, self.d_model, EPSILON)
    }
}
