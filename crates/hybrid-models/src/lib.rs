//! Token ids to hidden states and to more tokens: frozen encoders and decoders with hooks at every
//! site, checkpoint readers and a resolver of model names.
//!
//! A base is never wrapped and never changed. What may act on it while it runs is passed to its
//! forward as [`Hooks`]; a model runs alone with [`NoHooks`]. Whatever its kind, a base shows its
//! sites and layers through [`Base`].

#![recursion_limit = "256"]

mod device;
mod error;

mod hooks;
mod layer_table;
mod layers;
mod site;

mod checkpoint;
mod config_file;
mod loader;
mod quantized;
mod vectorized;
mod weight;

mod kernels;

mod blocks;
mod encoder;
mod head;
mod losses;
mod pooling;

mod architecture;
mod bert;
mod distilbert;
mod roberta;

mod model;

mod decoder;
mod gpt2;
mod llama;
mod rope;

mod decoder_model;
mod generate;
mod score;

mod bart;
mod encoder_decoder;
mod marian;
mod t5;

mod resolve;

mod whole_file;

pub use blocks::KvCache;
pub use checkpoint::{BlockFormat, GgufArray, GgufFile, GgufTensor, GgufValue};
pub use decoder::{Decoder, DecoderAttention, DecoderBatch};
pub use decoder_model::DecoderModel;
pub use device::{is_host, open_device};
pub use encoder::{Encoder, EncoderAttention, EncoderBatch};
pub use encoder_decoder::{
    Encoded, EncoderDecoder, EncoderDecoderCache, TargetRequest, TargetTokens,
};
pub use error::ModelError;
pub use generate::{
    BeamConfig, Decoding, EarlyStopping, Finish, Generated, GenerationConfig, LogitsProcessor,
    Reader, SampleConfig, generate,
};
pub use hooks::{Aside, Hooks, KeyValue, NoHooks, Stack, StackShape, TokenRanks};
pub use kernels::{Copies, Recomputation, divided, low_rank, low_rank_of_parts};
pub use layer_table::{Base, BaseKind, LayerTable};
pub use layers::{Embedding, Layer, Linear, Norm, NormKind, linear};
pub use losses::{IGNORED, binary_cross_entropy, cross_entropy, mean_squared_error};
pub use model::Model;
pub use pooling::Pooling;
pub use quantized::QuantizedWeight;
pub use resolve::{Attempt, Resolved, Resolver, Source};
pub use score::{ScoreRequest, Scores};
pub use site::{Site, SiteId, SiteKind, SiteTable};
pub use weight::{KeptWeight, Weight, WeightFormat};
pub use whole_file::{UNFINISHED, folder_of, sync_folder, write_whole};
