//! How an encoder reads passages and answers out of them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How an encoder that answers questions reads passages, which may be longer than its inputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PassageConfig {
    /// Tokens that neighbouring windows of a long passage share.
    pub stride: usize,
    /// Most tokens of an answer.
    #[schemars(range(min = 1))]
    pub max_answer_length: usize,
}

impl Default for PassageConfig {
    fn default() -> Self {
        Self {
            stride: 32,
            max_answer_length: 30,
        }
    }
}
