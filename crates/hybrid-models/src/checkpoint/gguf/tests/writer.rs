//! Writes GGUF files by hand.

use std::path::Path;

use super::GgufFile;
use crate::ModelError;

/// Numbers of value types.
pub(super) const U32: u32 = 4;
pub(super) const F32: u32 = 6;
pub(super) const TEXT: u32 = 8;
pub(super) const ARRAY: u32 = 9;

/// A file in the making; lengths and counts are taken from what is added, unless a test lies.
#[derive(Clone)]
pub(super) struct Writer {
    pub(super) version: u32,
    pub(super) keys: Vec<(String, u32, Vec<u8>)>,
    /// Name, axes with the innermost first, type, bytes.
    pub(super) tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
    pub(super) alignment: usize,
}

pub(super) fn text(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

pub(super) fn array(element: u32, count: u64, elements: &[u8]) -> Vec<u8> {
    [&element.to_le_bytes()[..], &count.to_le_bytes(), elements].concat()
}

pub(super) fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

impl Writer {
    pub(super) fn new() -> Self {
        Self {
            version: 3,
            keys: Vec::new(),
            tensors: Vec::new(),
            alignment: 32,
        }
    }

    pub(super) fn key(mut self, key: &str, value_type: u32, bytes: impl Into<Vec<u8>>) -> Self {
        self.keys.push((key.to_owned(), value_type, bytes.into()));
        self
    }

    pub(super) fn u32(self, key: &str, value: u32) -> Self {
        self.key(key, U32, value.to_le_bytes())
    }

    pub(super) fn tensor(mut self, name: &str, axes: &[u64], number: u32, bytes: Vec<u8>) -> Self {
        self.tensors
            .push((name.to_owned(), axes.to_vec(), number, bytes));
        self
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.keys.len() as u64).to_le_bytes());
        for (key, value_type, bytes) in &self.keys {
            out.extend(text(key));
            out.extend(value_type.to_le_bytes());
            out.extend(bytes);
        }
        let mut data = Vec::new();
        for (name, axes, number, bytes) in &self.tensors {
            data.resize(data.len().next_multiple_of(self.alignment), 0);
            out.extend(text(name));
            out.extend((axes.len() as u32).to_le_bytes());
            out.extend(axes.iter().flat_map(|axis| axis.to_le_bytes()));
            out.extend(number.to_le_bytes());
            out.extend((data.len() as u64).to_le_bytes());
            data.extend(bytes);
        }
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out.extend(data);
        out
    }
}

pub(super) fn parse(bytes: Vec<u8>) -> Result<GgufFile, ModelError> {
    GgufFile::parse(Path::new("model.gguf"), bytes.into())
}

pub(super) fn message(bytes: Vec<u8>) -> String {
    parse(bytes).unwrap_err().to_string()
}

/// A llama with one layer, two query heads and one key head of four features.
pub(super) fn tiny_llama() -> Writer {
    let tokens = ["a", "b", "c"].map(text).concat();
    let rows = |n: u64| floats(&(0..n * 8).map(|v| v as f32).collect::<Vec<_>>());
    let halves = (0..32u8).flat_map(|v| half::f16::from(v).to_le_bytes());
    let halves = halves.collect();
    Writer::new()
        .key("general.architecture", TEXT, text("llama"))
        .u32("llama.context_length", 32)
        .u32("llama.embedding_length", 8)
        .u32("llama.block_count", 1)
        .u32("llama.feed_forward_length", 6)
        .u32("llama.attention.head_count", 2)
        .u32("llama.attention.head_count_kv", 1)
        .key(
            "llama.attention.layer_norm_rms_epsilon",
            F32,
            1e-5f32.to_le_bytes(),
        )
        .key("tokenizer.ggml.tokens", ARRAY, array(TEXT, 3, &tokens))
        .u32("tokenizer.ggml.bos_token_id", 1)
        .tensor("token_embd.weight", &[8, 3], 0, rows(3))
        .tensor("blk.0.attn_q.weight", &[8, 8], 0, rows(8))
        .tensor("blk.0.attn_k.weight", &[8, 4], 1, halves)
        .tensor("blk.0.attn_v.weight", &[8, 4], 0, rows(4))
        .tensor(
            "blk.0.attn_q.bias",
            &[8],
            0,
            floats(&[0., 1., 2., 3., 4., 5., 6., 7.]),
        )
}
