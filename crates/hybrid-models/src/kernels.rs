//! Operations with a gradient of their own.
//!
//! Under autodiff Burn records each tensor operation by itself, and each keeps what its gradient
//! needs. Here what belongs together is one operation that keeps its inputs alone: the rest is
//! computed again in backward, which costs less than to read it from memory.

mod activation;
mod attention;
mod division;
mod elementwise;
mod host;
mod low_rank;
mod norm;
mod operation;
mod packing;
mod recomputation;
mod rotation;
mod row_sum;
mod thin;

pub(crate) use activation::Activation;
pub(crate) use attention::attend;
pub use division::divided;
pub use low_rank::{low_rank, low_rank_of_parts};
pub(crate) use norm::normalize;
pub(crate) use packing::Packing;
pub use recomputation::{Copies, Recomputation};
pub(crate) use rotation::rotate;
pub(crate) use row_sum::row_sum;

#[cfg(test)]
mod tests;
