//! Parts that architectures share.

mod activation;
mod attention;
mod decoder_layer;
mod encoder_layer;
mod feed_forward;
mod kv_cache;
mod rotary;

pub(crate) use activation::Activation;
pub(crate) use attention::{Attention, Heads, Projections, SelfInputs};
pub(crate) use decoder_layer::DecoderLayer;
pub(crate) use encoder_layer::EncoderLayer;
pub(crate) use feed_forward::FeedForward;
pub use kv_cache::KvCache;
pub(crate) use kv_cache::LayerCache;
pub(crate) use rotary::Rotation;
