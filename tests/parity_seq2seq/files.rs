//! Other spellings of the same model's files, and files that do not fit each other.

use std::path::Path;

use hybrid_models::{Base, EncoderDecoder, ModelError, NoHooks};
use serde_json::{Value, json};

use super::{Case, cases, host};
use crate::fixtures::Tensors;

/// Tensors by name, shape and values.
type Named = Vec<(String, Vec<usize>, Vec<f32>)>;

impl Case {
    /// Loads the model from a copy of its folder that `change` has changed.
    pub(super) fn changed(&self, change: impl Fn(&Path)) -> Result<EncoderDecoder, ModelError> {
        let folder = tempfile::tempdir().unwrap();
        let source = self.fixture.folder.join("model");
        for file in std::fs::read_dir(&source).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
        }
        change(folder.path());
        EncoderDecoder::load(folder.path(), &self.device)
    }

    /// Loads the model from a copy of its checkpoint that `change` has changed.
    fn with_tensors(&self, change: impl Fn(&mut Named)) -> Result<EncoderDecoder, ModelError> {
        self.changed(|folder| {
            let path = folder.join("model.safetensors");
            let file = Tensors::read(&path);
            let mut tensors = file
                .names()
                .map(|name| {
                    let (shape, values) = (file.shape(name), file.floats(name));
                    (name.to_owned(), shape.to_vec(), values.to_vec())
                })
                .collect();
            change(&mut tensors);
            let bytes = tensors.into_iter().map(|(name, shape, values)| {
                let bytes: Vec<u8> = values
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect();
                (name, shape, bytes)
            });
            let tensors: Vec<_> = bytes.collect();
            let views = tensors.iter().map(|(name, shape, bytes)| {
                let dtype = safetensors::Dtype::F32;
                let view = safetensors::tensor::TensorView::new(dtype, shape.clone(), bytes);
                (name.as_str(), view.unwrap())
            });
            std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        })
    }

    fn check_same(&self, what: &str, other: &EncoderDecoder) {
        let what = format!("{}: {what}", self.fixture.name);
        let logits = |model| host(self.logits(model, &self.batch(), &NoHooks));
        assert_eq!(logits(&self.model), logits(other), "{what}");
        assert_eq!(
            self.model.n_parameters(),
            other.n_parameters(),
            "{what}: parameters"
        );
    }
}

/// Other spellings of the same configuration lie beside the one that is read.
#[test]
fn parity_of_other_spellings_of_the_configuration() {
    let mut others = 0;
    for case in cases() {
        for file in std::fs::read_dir(case.fixture.folder.join("model")).unwrap() {
            let file = file.unwrap().file_name().into_string().unwrap();
            if file == "config.json" || !file.starts_with("config") {
                continue;
            }
            let respelled = case.changed(|folder| {
                std::fs::rename(folder.join(&file), folder.join("config.json")).unwrap();
            });
            case.check_same(&file, &respelled.unwrap());
            others += 1;
        }
    }
    assert!(others > 0, "no other spelling");
}

/// Checkpoints may hold tied weights several times, once under another name, or without the prefix
/// of the body.
#[test]
fn parity_of_other_spellings_of_the_checkpoint() {
    for case in cases() {
        let prefix = match case.model.model_type() {
            "t5" => "",
            _ => "model.",
        };
        let shared = format!("{prefix}shared.weight");
        let copies =
            ["encoder", "decoder"].map(|stack| format!("{prefix}{stack}.embed_tokens.weight"));
        let words = |tensors: &Named| {
            let words = tensors.iter().find(|(name, ..)| *name == shared);
            words.expect("stacks share their word vectors").clone()
        };
        if !case
            .model
            .named_tensors()
            .iter()
            .any(|(name, _)| *name == shared)
        {
            continue;
        }
        let copied = case.with_tensors(|tensors| {
            let (_, shape, values) = words(tensors);
            for copy in &copies {
                tensors.push((copy.clone(), shape.clone(), values.clone()));
            }
            if !tensors.iter().any(|(name, ..)| name == "lm_head.weight") {
                tensors.push(("lm_head.weight".to_owned(), shape, values));
            }
        });
        let copied = copied.unwrap();
        case.check_same("copies", &copied);
        assert_eq!(copied.named_tensors(), case.model.named_tensors());

        let renamed = case.with_tensors(|tensors| {
            let place = tensors.iter_mut().find(|(name, ..)| *name == shared);
            place.unwrap().0 = copies[1].clone();
        });
        case.check_same("another name", &renamed.unwrap());

        let bare = case.with_tensors(|tensors| {
            for (name, ..) in tensors {
                let bare = name.strip_prefix(prefix).unwrap_or(name).to_owned();
                *name = bare;
            }
        });
        case.check_same("no prefix", &bare.unwrap());

        // Word vectors and an output layer of their own are used, and are sites.
        let other = case
            .with_tensors(|tensors| {
                let (_, shape, values) = words(tensors);
                let turned: Vec<f32> = values.iter().rev().copied().collect();
                for name in [copies[1].as_str(), "lm_head.weight"] {
                    tensors.retain(|(other, ..)| other != name);
                    tensors.push((name.to_owned(), shape.clone(), turned.clone()));
                }
            })
            .unwrap();
        let decoder_words = format!("{prefix}decoder.embed_tokens");
        assert!(other.sites().find(&decoder_words).is_some());
        assert!(case.model.sites().find(&decoder_words).is_none());
        let logits = |model| host(case.logits(model, &case.batch(), &NoHooks));
        assert_ne!(logits(&other), logits(&case.model));
    }
}

/// Faults of a configuration and of a checkpoint against it, on every fixture.
#[test]
fn parity_with_the_configuration_is_demanded() {
    for case in cases() {
        let refused = |change: &dyn Fn(&mut Value), parts: &[&str]| {
            let mut config = case.config();
            change(&mut config);
            let result = case.changed(|folder| {
                std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
            });
            let message = result.expect_err("a faulty model was loaded").to_string();
            for part in parts {
                assert!(
                    message.contains(part),
                    "{}: {part:?} is not in: {message}",
                    case.fixture.name
                );
            }
        };
        let t5 = case.model.model_type() == "t5";
        let [layers, decoder_layers, heads, d_ff] = match t5 {
            true => ["num_layers", "num_decoder_layers", "num_heads", "d_ff"],
            false => [
                "encoder_layers",
                "decoder_layers",
                "decoder_attention_heads",
                "decoder_ffn_dim",
            ],
        };
        let add = |key: &'static str, n: i64| {
            move |config: &mut Value| {
                config[key] = (config[key].as_i64().expect("a size") + n).into();
            }
        };
        let set =
            |key: &'static str, value: Value| move |config: &mut Value| config[key] = value.clone();
        refused(&add("vocab_size", 1), &["expected shape", "found"]);
        for layers in [layers, decoder_layers] {
            refused(&add(layers, 1), &["is missing"]);
            refused(&add(layers, -1), &["has no place in the model"]);
        }
        refused(&add(d_ff, 1), &["expected shape", "found"]);
        refused(&set(heads, 0.into()), &["config.json", heads, "found 0"]);
        refused(
            &set(
                "decoder_start_token_id",
                case.config()["vocab_size"].clone(),
            ),
            &["config.json", "decoder_start_token_id", "an id below"],
        );
        refused(
            &set("is_encoder_decoder", false.into()),
            &["config.json", "is_encoder_decoder"],
        );
        refused(
            &set("model_type", "mamba".into()),
            &["config.json", "mamba", "t5, bart, marian"],
        );
        refused(
            &set("architectures", json!(["T5ForHaiku"])),
            &["T5ForHaiku"],
        );
        if t5 {
            refused(
                &set("feed_forward_proj", "gated-haiku".into()),
                &["config.json", "feed_forward_proj", "gated-haiku", "relu"],
            );
            refused(
                &set("relative_attention_num_buckets", 3.into()),
                &["relative_attention_num_buckets", "4 or more"],
            );
            refused(
                &set("relative_attention_max_distance", 1.into()),
                &["relative_attention_max_distance", "or more"],
            );
            refused(
                &|config| {
                    drop(
                        config
                            .as_object_mut()
                            .unwrap()
                            .remove("decoder_start_token_id"),
                    )
                },
                &["`decoder_start_token_id` is missing"],
            );
        } else {
            refused(
                &set("normalize_before", true.into()),
                &["config.json", "normalize_before"],
            );
            let positions = add("max_position_embeddings", 1);
            if case.model.model_type() == "bart" {
                refused(&positions, &["embed_positions.weight", "expected shape"]);
            }
        }
    }
}
