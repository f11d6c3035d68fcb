//! Candidates: prompt + adapter + scores + lineage, each in a folder of its own.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use hybrid_adapters::{AdapterConfig, HeadConfig};
use hybrid_eval::{Cost, CurvePoint, SearchPoint};
use hybrid_prompts::Prompt;
use serde::{Deserialize, Serialize};

use crate::HybridError;
use crate::criterion::{Criterion, LOG_LOSS, Standing};
use crate::run_folder::{RunFolder, write_folder_whole, write_whole};
use crate::tensors::{self, NamedTensors};

/// A prompt with, perhaps, an adapter, scored on select.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// `baseline`, or round and stage: `1-lora`.
    pub id: String,
    /// The stage that made it.
    pub stage: String,
    /// Round, counted from 1; 0 for the baseline.
    pub round: usize,
    /// The candidate it was made from.
    pub parent: Option<String>,
    /// The text part.
    pub prompt: Prompt,
    /// The tensor part; its values lie beside this description.
    pub adapter: Option<AdapterRecord>,
    /// Figures on the select split by metric name.
    pub select: BTreeMap<String, f64>,
    /// The label index predicted for each select example, where there are labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub predictions: Vec<usize>,
    /// What was written for each select example, where answers are texts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<String>,
    /// Whether it was the best so far when it was made.
    pub adopted: bool,
    /// What the stage cost.
    pub cost: Cost,
    /// The best prompt so far after each trial, when the stage searched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<SearchPoint>,
    /// Loss and rate of each update, when the stage trained.
    pub curve: Vec<CurvePoint>,
}

/// How the tensors of a candidate are to be rebuilt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdapterRecord {
    /// Adapters in stacking order.
    pub methods: Vec<AdapterConfig>,
    /// The classifier head; a language model has one only where PEFT has trained it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<HeadConfig>,
    /// Whether there is a span head, by which an encoder answers out of passages.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub span_head: bool,
    /// Number of values that the last adapter stage trained.
    pub trainable_parameters: usize,
}

const DESCRIPTION: &str = "candidate.json";
const TENSORS: &str = "trainable.safetensors";

impl Candidate {
    /// The figure of this name on select; minus infinity when there is none.
    pub fn score(&self, metric: &str) -> f64 {
        self.select
            .get(metric)
            .copied()
            .unwrap_or(f64::NEG_INFINITY)
    }

    /// What chooses among candidates.
    pub(crate) fn standing(&self, criterion: Criterion) -> Standing {
        let log_loss = self.select.get(LOG_LOSS).copied().unwrap_or(f64::INFINITY);
        criterion.standing(self.score(criterion.metric.name()), log_loss)
    }

    /// Stores the candidate, whole or not at all.
    ///
    /// # Errors
    /// [`HybridError::Write`].
    pub(crate) fn store(
        &self,
        run: &RunFolder,
        trained: Option<&NamedTensors>,
    ) -> Result<(), HybridError> {
        write_folder_whole(&run.candidate(&self.id), |folder| {
            let text = serde_json::to_vec_pretty(self).expect("candidates are plain data");
            write_whole(&folder.join(DESCRIPTION), &text)?;
            match trained {
                Some(trained) => tensors::write(&folder.join(TENSORS), trained, None),
                None => Ok(()),
            }
        })
    }

    /// Reads a stored candidate; none when not all of its files are there.
    ///
    /// # Errors
    /// [`HybridError::Read`] or [`HybridError::Format`].
    pub(crate) fn read(run: &RunFolder, id: &str) -> Result<Option<Self>, HybridError> {
        let folder = run.candidate(id);
        let path = folder.join(DESCRIPTION);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(source) if source.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(HybridError::Read { path, source }),
        };
        let candidate: Self =
            serde_json::from_slice(&bytes).map_err(|error| HybridError::Format {
                path,
                reason: error.to_string(),
            })?;
        let is_whole = candidate.adapter.is_none() || folder.join(TENSORS).is_file();
        Ok(is_whole.then_some(candidate))
    }

    /// The values of a stored candidate's adapter.
    ///
    /// # Errors
    /// [`HybridError::Read`] or [`HybridError::Format`].
    pub(crate) fn read_tensors(run: &RunFolder, id: &str) -> Result<NamedTensors, HybridError> {
        let path: &Path = &run.candidate(id).join(TENSORS);
        Ok(tensors::read(path, "")?.0)
    }
}
