//! Parts that architectures share.

mod activation;
mod attention;
mod encoder_layer;

pub(crate) use activation::Activation;
pub(crate) use attention::Attention;
pub(crate) use encoder_layer::EncoderLayer;
