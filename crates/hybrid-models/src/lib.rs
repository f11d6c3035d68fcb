//! Token ids to hidden states: frozen encoders with hooks at every site, checkpoint readers and a
//! resolver of model names.
//!
//! A base is never wrapped and never changed. What may act on it while it runs is passed to its
//! forward as [`Hooks`]; a model runs alone with [`NoHooks`].

#![recursion_limit = "256"]

mod error;
mod site;
mod layers;
mod hooks;

pub use error::ModelError;
pub use hooks::{Hooks, NoHooks};
pub use layers::{Embedding, LayerNorm, Linear};
pub use site::{Site, SiteId, SiteKind, SiteTable};
