//! Parts that architectures share.

mod attention;
mod cross_attention;
mod decoder_layer;
mod encoder_layer;
mod feed_forward;
mod kv_cache;
mod mask;
mod relative_bias;
mod rotary;
mod transformer_layer;

pub(crate) use attention::{Attention, Heads, Projections, SelfInputs};
pub(crate) use cross_attention::{CrossAttention, Memory};
pub(crate) use decoder_layer::DecoderLayer;
pub(crate) use encoder_layer::EncoderLayer;
pub(crate) use feed_forward::FeedForward;
pub use kv_cache::KvCache;
pub(crate) use kv_cache::LayerCache;
pub(crate) use mask::{Sight, causal_bias, padding_bias};
pub(crate) use relative_bias::{Buckets, RelativeBias};
pub(crate) use rotary::Rotation;
pub(crate) use transformer_layer::{SubLayer, TransformerLayer};
