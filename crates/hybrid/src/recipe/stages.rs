//! The stages of a round.

use std::collections::BTreeMap;

use hybrid_adapters::{AdapterConfig, HeadConfig, HeadForm};
use hybrid_models::Pooling;
use hybrid_optim::{EarlyStoppingConfig, GroupConfig, OptimizerConfig, ScheduleConfig};
use hybrid_prompts::{DemonstrationChoice, InstructionProposals, PromptFormat, SearchStrategy};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{NAME_PATTERN, is_default};

/// One step of a round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum StageConfig {
    /// Search the prompt.
    Prompt(PromptStage),
    /// Train the adapter.
    Adapter(AdapterStage),
}

impl StageConfig {
    /// What the stage is called in journal and report.
    pub fn name(&self) -> &str {
        match self {
            Self::Prompt(stage) => &stage.name,
            Self::Adapter(stage) => &stage.name,
        }
    }
}

/// Search over templates x label words, and for a language model over instructions, formats and
/// demonstrations too.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PromptStage {
    /// What the stage is called in journal and report.
    #[serde(default = "default_prompt_name")]
    #[schemars(regex(pattern = NAME_PATTERN))]
    pub name: String,
    /// Templates to try, e.g. `customer question: {{ text }}`. Left out: a built-in list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub templates: Vec<String>,
    /// Patterns that make label words of label names, e.g. `a question about {{ label }}`; each
    /// entry is one choice, a list of patterns whose vectors are averaged. Left out: built-in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub label_patterns: Vec<Vec<String>>,
    /// Label words given by hand: label to words.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub label_words: BTreeMap<String, Vec<String>>,
    /// Instructions to try, an empty one for none. Left out: a built-in list for the task. This and
    /// the keys down to `max_tokens` are for language models.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instructions: Vec<String>,
    /// How the parts become one text. Left out: plain.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub formats: Vec<PromptFormat>,
    /// How the answer may open, e.g. `Sentiment:`; an empty one for no opening. Left out: as the
    /// prompt at the start has it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answer_starts: Vec<String>,
    /// How answered examples are chosen that the prompt shows. Left out: none are shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub demonstrations: Vec<DemonstrationChoice>,
    /// Whole choices of label words beside those of the patterns: label to words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_label_words: Vec<BTreeMap<String, Vec<String>>>,
    /// Instructions that are proposed beside those above.
    #[serde(default, skip_serializing_if = "is_default")]
    pub proposals: InstructionProposals,
    /// Most tokens that the search may have the model read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_tokens: Option<u64>,
    /// How the space is searched.
    #[serde(default)]
    pub strategy: SearchStrategy,
    /// How many of the prompts with the highest accuracy on fit are scored on select, where
    /// `choose_by` decides among them.
    #[serde(default = "default_shortlist")]
    #[schemars(range(min = 1))]
    pub shortlist: usize,
    /// By how many standard errors the mean of the select examples' losses must be lower than with
    /// the prompt that is there for another to take its place; where log-loss decides (`choose_by`). One is
    /// the rule of Breiman et al. (1984): on a few dozen examples, small differences are chance, and
    /// on a single one all are.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(range(min = 0.0))]
    pub margin: f64,
}

fn default_prompt_name() -> String {
    "prompt".to_owned()
}

fn default_shortlist() -> usize {
    3
}

/// Train a stack of adapters and a classifier head over the frozen base.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdapterStage {
    /// What the stage is called in journal and report.
    #[serde(default = "default_adapter_name")]
    #[schemars(regex(pattern = NAME_PATTERN))]
    pub name: String,
    /// Adapters in stacking order. Empty trains the head alone; adapters that an earlier stage
    /// trained stay active and frozen.
    #[serde(default)]
    pub methods: Vec<AdapterConfig>,
    /// Whether soft prompts and prefixes that name no start begin at the tokens of the searched
    /// prompt's instruction and template.
    #[serde(default)]
    pub start_at_prompt: bool,
    /// The classifier head.
    #[serde(default)]
    pub head: HeadStage,
    /// The update rule.
    pub optimizer: OptimizerConfig,
    /// How the rate moves.
    #[serde(default)]
    pub schedule: ScheduleConfig,
    /// Parameters with a rate or decay of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupConfig>,
    /// Passes over the fit examples.
    #[schemars(range(min = 1))]
    pub epochs: usize,
    /// Examples an update.
    #[schemars(range(min = 1))]
    pub batch_size: usize,
    /// Padded tokens of one forward; a larger batch is accumulated in pieces.
    #[serde(default = "default_max_tokens")]
    #[schemars(range(min = 1))]
    pub max_tokens: usize,
    /// Whether the layers of an encoder or a decoder keep their input alone and are run again in
    /// backward (Chen et al. 2016). Memory is then needed for the activations of one layer instead
    /// of all, and an update takes up to half as long again. Losses and gradients are the same.
    #[serde(default)]
    pub recompute_layers: bool,
    /// Megabytes of memory for what lies under the lowest trained layer, which is computed once. What
    /// finds no room there goes to a file in the run's folder, which is gone with the process.
    #[serde(default = "default_kept_mb")]
    pub kept_mb: usize,
    /// Bound of the gradient's L2 norm over all trained parameters; none when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0))]
    pub max_grad_norm: Option<f64>,
    /// Share of the target probability spread over all labels.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 0.9))]
    pub label_smoothing: f64,
    /// Taken off the right label's logit while training: the right label must win by this much
    /// (additive margin softmax, Wang et al. 2018).
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub margin: f64,
    /// Chance that a token of a training example is hidden from attention and pooling in the trained
    /// layers; the first token is always seen.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 0.9))]
    pub token_dropout: f64,
    /// At the end, states on the way from the start to the best state are tried too, each at this
    /// share of the way; the best on select wins (weight-space ensembling, Wortsman et al. 2022).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(inner(range(min = 0.0, max = 1.0)))]
    pub interpolate: Vec<f64>,
    /// Also train on the label words, as examples of their labels.
    #[serde(default)]
    pub train_on_label_words: bool,
    /// Score on select after every this many epochs; the best state is kept.
    #[serde(default = "default_evaluate_every")]
    #[schemars(range(min = 1))]
    pub evaluate_every: usize,
    /// Stop when select no longer improves in what `choose_by` names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stopping: Option<EarlyStoppingConfig>,
    /// Updates between two log lines.
    #[serde(default = "default_log_every")]
    #[schemars(range(min = 1))]
    pub log_every: usize,
    /// Updates between two checkpoints.
    #[serde(default = "default_checkpoint_every")]
    #[schemars(range(min = 1))]
    pub checkpoint_every: usize,
    /// Settings to choose among: each entry takes the place of the stage's own. All are trained for
    /// some epochs, then the best on select for some more, until one has had all
    /// (`halving`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub variants: Vec<AdapterVariant>,
    /// How many epochs decide among the variants.
    #[serde(default, skip_serializing_if = "is_default")]
    pub halving: Halving,
    /// Whether the variants that learn from the same batches over the same frozen layers (other `methods`,
    /// `optimizer`, `schedule` or `margin`) do so in one forward: the base is then read once for all, and
    /// each is what it would be alone, to rounding. A forward has at most `max_tokens` padded tokens,
    /// those of all variants counted, and on a processor at most 512. It helps where one variant's
    /// batch leaves the device idle: on two cores, eight LoRAs over MiniLM take an eighth less processor time
    /// with batches of 8, and as much with batches of 32.
    #[serde(default, skip_serializing_if = "is_default")]
    pub variants_together: bool,
}

impl AdapterStage {
    /// The stages to choose among: itself, without variants.
    pub(crate) fn choices(&self) -> Vec<Self> {
        let bare = Self {
            variants: Vec::new(),
            ..self.clone()
        };
        match self.variants.is_empty() {
            true => vec![bare],
            false => {
                let variants = self.variants.iter();
                variants.map(|variant| variant.applied(&bare)).collect()
            }
        }
    }

    /// Updates of the whole stage on so many examples.
    pub(crate) fn total_steps(&self, n_examples: usize) -> usize {
        self.epochs * n_examples.div_ceil(self.batch_size)
    }
}

/// Settings in the place of those of their stage. What is left out stays as the stage has it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdapterVariant {
    /// Adapters in stacking order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub methods: Option<Vec<AdapterConfig>>,
    /// The update rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimizer: Option<OptimizerConfig>,
    /// How the rate moves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleConfig>,
    /// Examples an update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub batch_size: Option<usize>,
    /// Chance that a token of a training example is hidden.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 0.9))]
    pub token_dropout: Option<f64>,
    /// Taken off the right label's logit while training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0))]
    pub margin: Option<f64>,
}

impl AdapterVariant {
    fn applied(&self, stage: &AdapterStage) -> AdapterStage {
        let stage = stage.clone();
        AdapterStage {
            methods: self.methods.clone().unwrap_or(stage.methods),
            optimizer: self.optimizer.clone().unwrap_or(stage.optimizer),
            schedule: self.schedule.clone().unwrap_or(stage.schedule),
            batch_size: self.batch_size.unwrap_or(stage.batch_size),
            token_dropout: self.token_dropout.unwrap_or(stage.token_dropout),
            margin: self.margin.unwrap_or(stage.margin),
            ..stage
        }
    }
}

/// Successive halving (Jamieson and Talwalkar 2016, algorithm 1) over epochs: one in `eta` goes on,
/// for `eta` times as many epochs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Halving {
    /// Epochs after which the first decision falls.
    #[serde(default = "default_first_epochs")]
    #[schemars(range(min = 1))]
    pub first_epochs: usize,
    /// One in so many goes on.
    #[serde(default = "default_eta")]
    #[schemars(range(min = 2))]
    pub eta: usize,
}

impl Default for Halving {
    fn default() -> Self {
        Self {
            first_epochs: default_first_epochs(),
            eta: default_eta(),
        }
    }
}

impl Halving {
    /// The decisions among so many variants that train for so many epochs: after which epoch, and how
    /// many go on. A single one goes on to the end.
    pub(crate) fn decisions(&self, n_variants: usize, epochs: usize) -> Vec<(usize, usize)> {
        let (mut left, mut epoch) = (n_variants, self.first_epochs);
        let mut decisions = Vec::new();
        while left > 1 {
            left = match epoch < epochs {
                true => left.div_ceil(self.eta),
                false => 1,
            };
            decisions.push((epoch.min(epochs), left));
            epoch = epoch.saturating_mul(self.eta);
        }
        decisions
    }
}

fn default_first_epochs() -> usize {
    1
}

fn default_eta() -> usize {
    2
}

fn default_adapter_name() -> String {
    "adapter".to_owned()
}

fn default_max_tokens() -> usize {
    2048
}

fn default_kept_mb() -> usize {
    256
}

fn default_evaluate_every() -> usize {
    1
}

fn default_log_every() -> usize {
    10
}

fn default_checkpoint_every() -> usize {
    25
}

/// The classifier head of an adapter stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HeadStage {
    /// How token vectors become the vector that is classified.
    pub pooling: Pooling,
    /// Whether that vector is scaled to unit length first.
    pub normalize: bool,
    /// Length of each class vector at the start when `init` gives directions: the inverse
    /// temperature of the first softmax.
    #[schemars(range(min = 0.0))]
    pub scale: f64,
    /// Where the class vectors start.
    pub init: HeadInit,
}

impl HeadStage {
    /// How the head reads text vectors.
    pub(crate) fn config(&self) -> HeadConfig {
        HeadConfig {
            pooling: self.pooling,
            normalize: self.normalize,
            scale: self.scale,
            form: HeadForm::Linear,
        }
    }
}

impl Default for HeadStage {
    fn default() -> Self {
        Self {
            pooling: Pooling::Mean,
            normalize: true,
            scale: 20.0,
            init: HeadInit::LabelWords,
        }
    }
}

/// Where the class vectors of a head start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HeadInit {
    /// The embedded label words of the chosen prompt: training starts at the prompt's accuracy.
    LabelWords,
    /// The mean of each class's embedded fit examples.
    Centroids,
    /// The mean of the two directions above.
    LabelWordsAndCentroids,
    /// Small random values.
    Random,
}

#[cfg(test)]
mod tests {
    use super::Halving;

    #[test]
    fn fewer_go_on_for_longer() {
        let halving = Halving::default();
        assert_eq!(halving.decisions(8, 10), [(1, 4), (2, 2), (4, 1)]);
        assert_eq!(halving.decisions(8, 3), [(1, 4), (2, 2), (3, 1)]);
        assert_eq!(halving.decisions(5, 1), [(1, 1)]);
        assert!(halving.decisions(1, 3).is_empty());
        let thirds = Halving {
            first_epochs: 2,
            eta: 3,
        };
        assert_eq!(thirds.decisions(8, 20), [(2, 3), (6, 1)]);
    }
}
