//! A recorded training, set up to be done again: base, adapters at their first values, batches and
//! settings, all from the fixture's files.

use std::collections::{BTreeMap, BTreeSet};

use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use hybrid_adapters::{
    AdapterConfig, AdapterError, Adapters, BitfitConfig, RankAllocator, Targets, UnfreezeConfig,
    load_peft, load_torch_tensors, torch_tensors,
};
use hybrid_optim::{
    OptimizerConfig, ScheduleConfig, ScheduleKind, StepReport, Updater, cross_entropy_sum,
};
use serde_json::Value;

use crate::any_base::{AnyBase, AnyBatch};
use crate::fixtures::{self, Fixture, Tensors};

/// A training that can be done again on one device.
pub(crate) struct TrainingRun {
    pub(crate) fixture: Fixture,
    pub(crate) steps: usize,
    base: AnyBase,
    batches: Vec<AnyBatch>,
    device: Device,
}

/// What moves the adapters of a training.
pub(crate) struct Trainer {
    pub(crate) updater: Updater<Adapters>,
    /// Where there are ranks to choose.
    pub(crate) ranks: Option<RankAllocator>,
}

/// All trainings.
pub(crate) fn all(device: &Device) -> Vec<TrainingRun> {
    let fixtures = fixtures::of_kind("training").into_iter();
    let runs: Vec<TrainingRun> = fixtures
        .map(|fixture| TrainingRun::new(fixture, device))
        .collect();
    assert!(!runs.is_empty(), "no fixture of a training");
    runs
}

impl TrainingRun {
    fn new(fixture: Fixture, device: &Device) -> Self {
        let base = fixture
            .folder
            .join(fixture.meta["base"].as_str().expect("base"));
        let base = AnyBase::load(&base, device);
        let inputs = Tensors::read(&fixture.folder.join("inputs.safetensors"));
        let prefixes = (0..)
            .map(|index| format!("batch{index}."))
            .take_while(|prefix| inputs.has(&format!("{prefix}input_ids")));
        let batches = prefixes
            .map(|prefix| AnyBatch::read(&inputs, &prefix, device))
            .collect();
        let run = Self {
            steps: 0,
            fixture,
            base,
            batches,
            device: device.clone(),
        };
        run.check_settings();
        let steps = run.setting("steps") as usize;
        Self { steps, ..run }
    }

    /// Refuses settings in words that this test would not follow.
    fn check_settings(&self) {
        let settings = &self.fixture.meta["hyper_parameters"];
        for (key, expected) in [
            (
                "optimizer",
                "AdamW (decoupled weight decay, one parameter group, bias correction)",
            ),
            (
                "schedule",
                "linear warmup then linear decay to 0 (get_linear_schedule_with_warmup)",
            ),
        ] {
            assert_eq!(settings[key], expected, "{}: {key}", self.fixture.name);
        }
        let order = format!("batch (step mod {})", self.batches.len());
        assert_eq!(settings["batch_order"], order, "{}", self.fixture.name);
        assert_eq!(self.setting("dropout"), 0.0, "{}", self.fixture.name);
    }

    fn setting(&self, key: &str) -> f64 {
        let value = &self.fixture.meta["hyper_parameters"][key];
        value
            .as_f64()
            .unwrap_or_else(|| panic!("{}: no number {key:?}", self.fixture.name))
    }

    /// The trained parameters at their first values, ready to be trained.
    pub(crate) fn adapters(&self) -> Adapters {
        let name = &self.fixture.name;
        let adapters = match self.fixture.meta["peft"].as_bool() {
            Some(true) => load_peft(
                &self.fixture.folder.join("adapter_init"),
                self.base.as_base(),
                &self.device,
            )
            .and_then(|adapters| self.with_network(adapters)),
            Some(false) => Adapters::init(&self.unfrozen(), self.base.as_base(), 0, &self.device),
            None => panic!("{name}: meta.json does not say whether PEFT made it"),
        };
        let adapters = adapters.unwrap_or_else(|error| panic!("{name}: {error}"));
        let first = self.stored("init");
        let ours = values(&adapters);
        assert!(
            ours.keys().eq(first.keys()),
            "{name}: {:?} instead of {:?}",
            ours.keys(),
            first.keys()
        );
        assert_eq!(ours, first, "{name}: first values");
        adapters.train_on(&self.device.clone().autodiff())
    }

    /// The adapters with the network of which PEFT's file has the outputs alone, where there is one.
    fn with_network(&self, adapters: Adapters) -> Result<Adapters, AdapterError> {
        if !self
            .fixture
            .folder
            .join("encoder_init.safetensors")
            .exists()
        {
            return Ok(adapters);
        }
        let fresh = Adapters::init(adapters.configs(), self.base.as_base(), 0, &self.device)?;
        let file = Tensors::read(&self.fixture.folder.join("init.safetensors"));
        let path = |name: &str| fixtures::module_path(name).to_owned();
        let first = file.names().map(|name| (path(name), file.data(name)));
        load_torch_tensors(fresh, &first.collect())
    }

    /// Layers that are trained without PEFT: their biases alone, or whole.
    fn unfrozen(&self) -> Vec<AdapterConfig> {
        let mut layers: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for key in self.stored("init").into_keys() {
            let (path, tensor) = key.rsplit_once('.').expect("a key has a module path");
            layers
                .entry(path.to_owned())
                .or_default()
                .insert(tensor.to_owned());
        }
        let bias_only = |tensors: &BTreeSet<String>| !tensors.contains("weight");
        let (biases, whole): (Vec<_>, Vec<_>) = layers
            .into_iter()
            .partition(|(_, tensors)| bias_only(tensors));
        let names = |layers: Vec<(String, _)>| {
            Targets::Names(layers.into_iter().map(|(path, _)| path).collect())
        };
        let mut configs = Vec::new();
        if !biases.is_empty() {
            let target_modules = Some(names(biases));
            configs.push(AdapterConfig::Bitfit(BitfitConfig {
                target_modules,
                ..BitfitConfig::default()
            }));
        }
        if !whole.is_empty() {
            configs.push(AdapterConfig::Unfreeze(UnfreezeConfig {
                modules: names(whole),
            }));
        }
        configs
    }

    /// Trained values in a file of the fixture, by module path and tensor.
    pub(crate) fn stored(&self, file: &str) -> BTreeMap<String, Vec<f32>> {
        let file = Tensors::read(&self.fixture.folder.join(format!("{file}.safetensors")));
        let path = |name: &str| fixtures::module_path(name).to_owned();
        file.names()
            .map(|name| (path(name), file.floats(name).to_vec()))
            .collect()
    }

    pub(crate) fn trainer(&self, adapters: &Adapters) -> Trainer {
        let betas = &self.fixture.meta["hyper_parameters"]["betas"];
        let beta = |index: usize| Value::as_f64(&betas[index]).expect("two betas");
        let optimizer = OptimizerConfig::Adamw {
            lr: self.setting("lr"),
            betas: [beta(0), beta(1)],
            eps: self.setting("eps"),
            weight_decay: self.setting("weight_decay"),
        };
        let schedule = ScheduleConfig {
            kind: ScheduleKind::Linear,
            warmup_steps: Some(self.setting("warmup_steps") as usize),
            warmup_ratio: None,
        };
        let bound = Some(self.setting("max_grad_norm"));
        let name = &self.fixture.name;
        Trainer {
            updater: Updater::new(optimizer, &[], schedule, bound, self.steps, adapters)
                .unwrap_or_else(|error| panic!("{name}: {error}")),
            ranks: RankAllocator::new(adapters).unwrap_or_else(|error| panic!("{name}: {error}")),
        }
    }

    pub(crate) fn n_batches(&self) -> usize {
        self.batches.len()
    }

    /// The adapters as PEFT stored them after the training, where it made them.
    pub(crate) fn stored_adapters(&self) -> Option<Adapters> {
        let folder = self.fixture.folder.join("adapter_final");
        let load = || load_peft(&folder, self.base.as_base(), &self.device);
        let load = || load().unwrap_or_else(|error| panic!("{}: {error}", self.fixture.name));
        folder.exists().then(load)
    }

    /// Mean loss of a batch, with what the adapters add to it.
    pub(crate) fn loss(&self, adapters: &Adapters, batch: usize) -> Tensor<1> {
        let loss = self.loss_of_targets(adapters, batch);
        match adapters.penalty() {
            Some(penalty) => loss + penalty,
            None => loss,
        }
    }

    /// Mean loss of a batch.
    pub(crate) fn loss_of_targets(&self, adapters: &Adapters, batch: usize) -> Tensor<1> {
        let batch = &self.batches[batch % self.batches.len()];
        let (logits, targets) = self.base.targets(batch, adapters);
        let n_targets = targets.dims()[0] as f64;
        cross_entropy_sum(logits, targets, 0.0) / n_targets
    }

    /// One update: the batch's loss before it, and what it did.
    pub(crate) fn step(
        &self,
        adapters: Adapters,
        trainer: &mut Trainer,
        step: usize,
    ) -> (Adapters, f32, StepReport) {
        let loss = self.loss(&adapters, step);
        let value = loss.clone().into_scalar::<f32>();
        let Trainer { updater, ranks } = trainer;
        updater.accumulate(GradientsParams::from_grads(loss.backward(), &adapters));
        if let Some(ranks) = ranks {
            ranks.observe(&adapters, updater.accumulated());
        }
        let (mut adapters, report) = updater
            .step(adapters)
            .unwrap_or_else(|error| panic!("{}: {error}", self.fixture.name));
        if let Some(ranks) = ranks {
            adapters = ranks.allocate(adapters, report.grad_norm_clipped / report.grad_norm);
        }
        (adapters, value, report)
    }
}

/// Trained values by module path and tensor, in PyTorch's layout.
pub(crate) fn values(adapters: &Adapters) -> BTreeMap<String, Vec<f32>> {
    let tensors = torch_tensors(adapters).into_iter();
    tensors
        .map(|(key, data)| (key, data.iter::<f32>().collect()))
        .collect()
}
