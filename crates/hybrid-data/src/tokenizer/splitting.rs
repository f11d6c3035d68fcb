//! How texts are split into words before byte-level BPE: `tokenizer.ggml.pre` of GGUF files.

use serde_json::{Value, json};

/// A way of splitting, by the model family that it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Splitting {
    /// Radford et al. 2019.
    Gpt2,
    /// Every digit alone, then as GPT-2.
    SmolLm,
    /// Llama 3: up to three digits, letters after one other character.
    Llama3,
    /// Qwen 2 and 3: as Llama 3 with every digit alone, after normalisation to NFC.
    Qwen2,
}

/// Names in GGUF files.
const NAMES: [(&str, Splitting); 7] = [
    ("gpt-2", Splitting::Gpt2),
    ("smollm", Splitting::SmolLm),
    ("starcoder", Splitting::SmolLm),
    ("llama-bpe", Splitting::Llama3),
    ("llama3", Splitting::Llama3),
    ("llama-v3", Splitting::Llama3),
    ("qwen2", Splitting::Qwen2),
];

impl Splitting {
    /// The splitting that a GGUF file names.
    pub(super) fn named(name: &str) -> Option<Self> {
        let mut names = NAMES.iter();
        names
            .find(|(known, _)| *known == name)
            .map(|(_, splitting)| *splitting)
    }

    /// The known names, for messages.
    pub(super) fn known() -> String {
        NAMES.map(|(name, _)| name).join(", ")
    }

    pub(super) fn normalizer(self) -> Value {
        match self {
            Self::Qwen2 => json!({"type": "NFC"}),
            _ => Value::Null,
        }
    }

    pub(super) fn pre_tokenizer(self) -> Value {
        let byte_level = |use_regex: bool| {
            json!({
                "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex,
            })
        };
        let split = |digits: &str| {
            let pattern = format!(
                "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{{L}}\\p{{N}}]?\\p{{L}}+|{digits}\
                 | ?[^\\s\\p{{L}}\\p{{N}}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
            );
            json!({
                "type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false,
            })
        };
        let sequence = |first: Value, use_regex: bool| json!({"type": "Sequence", "pretokenizers": [first, byte_level(use_regex)]});
        match self {
            Self::Gpt2 => byte_level(true),
            Self::SmolLm => sequence(json!({"type": "Digits", "individual_digits": true}), true),
            Self::Llama3 => sequence(split("\\p{N}{1,3}"), false),
            Self::Qwen2 => sequence(split("\\p{N}"), false),
        }
    }

    /// Whether a word that is a token is taken as it is, though no merges lead to it.
    pub(super) fn whole_words_first(self) -> bool {
        self == Self::Llama3
    }

    /// Whether texts are opened by the token before a text where the file does not say.
    pub(super) fn adds_bos(self) -> bool {
        self == Self::Llama3
    }
}
