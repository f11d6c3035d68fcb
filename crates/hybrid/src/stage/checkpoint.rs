//! The state of a half-trained stage: one file, replaced whole.

use std::path::Path;

use hybrid_eval::CurvePoint;
use hybrid_optim::EarlyStopping;
use serde::{Deserialize, Serialize};

use crate::HybridError;
use crate::criterion::Standing;
use crate::run_folder::RunFolder;
use crate::tensors::{self, NamedTensors};

/// Everything but tensors that a stage needs to go on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Progressed {
    pub(crate) round: usize,
    pub(crate) stage: String,
    /// Passes that are complete.
    pub(crate) epoch: usize,
    /// Updates of the running pass that are complete.
    pub(crate) batch: usize,
    pub(crate) curve: Vec<CurvePoint>,
    /// Passes that were complete when select was last scored.
    pub(crate) evaluated: usize,
    /// Whether the budget is spent.
    pub(crate) spent: bool,
    /// Whether the training is over.
    pub(crate) ended: bool,
    /// The best state so far.
    pub(crate) best: Option<Best>,
    /// How the state stood that was scored last.
    pub(crate) latest: Option<Standing>,
    /// How it stood at each decision among variants.
    pub(crate) stood: Vec<Standing>,
    pub(crate) stopping: Option<EarlyStopping>,
    pub(crate) seconds: f64,
    pub(crate) tokens: u64,
    pub(crate) flops: f64,
}

/// A state that was scored on select.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Best {
    pub(crate) epoch: usize,
    pub(crate) standing: Standing,
}

/// A stored state.
pub(crate) struct Checkpoint {
    pub(crate) progressed: Progressed,
    pub(crate) current: NamedTensors,
    pub(crate) best: NamedTensors,
    pub(crate) optimizer: NamedTensors,
    /// How the ranks of adapters stand that are chosen while they train.
    pub(crate) ranks: NamedTensors,
}

const KEY: &str = "progressed";

impl Checkpoint {
    /// Stores the state of a variant in place of the last one.
    pub(crate) fn store(self, run: &RunFolder, variant: usize) -> Result<(), HybridError> {
        run.make_room_for_checkpoints()?;
        self.write(&run.checkpoint(variant))
    }

    /// Stores the states of some variants in place of their last ones, all or none.
    pub(crate) fn store_together(
        mut states: Vec<(usize, Self)>,
        run: &RunFolder,
    ) -> Result<(), HybridError> {
        if states.len() == 1
            && let Some((variant, state)) = states.pop()
        {
            return state.store(run, variant);
        }
        run.replace_checkpoints(|path_of| {
            let mut states = states.into_iter();
            states.try_for_each(|(variant, state)| state.write(&path_of(variant)))
        })
    }

    fn write(self, path: &Path) -> Result<(), HybridError> {
        let groups = [
            ("current/", self.current),
            ("best/", self.best),
            ("optimizer/", self.optimizer),
            ("ranks/", self.ranks),
        ];
        let mut all = NamedTensors::new();
        for (prefix, tensors) in groups {
            all.extend(
                tensors
                    .into_iter()
                    .map(|(name, data)| (format!("{prefix}{name}"), data)),
            );
        }
        let text = serde_json::to_string(&self.progressed).expect("progress is plain data");
        tensors::write(path, &all, Some((KEY, text)))
    }

    /// The stored state of a variant of this stage in this round, if there is one.
    pub(crate) fn read(
        run: &RunFolder,
        round: usize,
        stage: &str,
        variant: usize,
    ) -> Result<Option<Self>, HybridError> {
        let path = run.checkpoint(variant);
        if !path.exists() {
            return Ok(None);
        }
        let (all, text) = tensors::read(&path, KEY)?;
        let progressed: Progressed =
            serde_json::from_str(&text).map_err(|error| HybridError::Format {
                path,
                reason: error.to_string(),
            })?;
        if progressed.round != round || progressed.stage != stage {
            return Ok(None);
        }
        Ok(Some(Self {
            progressed,
            current: tensors::under(&all, "current/"),
            best: tensors::under(&all, "best/"),
            optimizer: tensors::under(&all, "optimizer/"),
            ranks: tensors::under(&all, "ranks/"),
        }))
    }
}
