//! The examples of a run: fit, select and report, disjoint, with their labels.

use std::collections::BTreeMap;

use hybrid_data::{
    Example, FieldMapping, Fractions, LabelSet, Splits, k_shot, read_examples, split,
};

use crate::HybridError;
use crate::recipe::DataConfig;

/// One split with the label index of each example.
#[derive(Debug, Clone)]
pub(crate) struct Split {
    pub(crate) examples: Vec<Example>,
    pub(crate) targets: Vec<usize>,
}

impl Split {
    /// The template fields of each example.
    pub(crate) fn fields(&self) -> impl Iterator<Item = &BTreeMap<String, String>> {
        self.examples.iter().map(|example| &example.fields)
    }
}

/// The three disjoint splits: train on fit, choose on select, show report once at the end.
#[derive(Debug, Clone)]
pub(crate) struct TaskData {
    pub(crate) labels: LabelSet,
    pub(crate) fit: Split,
    pub(crate) select: Split,
    pub(crate) report: Split,
    pub(crate) out_of_scope: Vec<Example>,
    pub(crate) second_report: Option<Split>,
}

impl TaskData {
    /// Reads all files of a recipe.
    ///
    /// # Errors
    /// [`HybridError::Data`] with file, line and field; also for a label that fit has never seen.
    pub(crate) fn read(config: &DataConfig, seed: u64) -> Result<Self, HybridError> {
        let mapping = FieldMapping {
            fields: config.fields.clone(),
            label: Some(config.label.clone()),
        };
        let unlabelled = FieldMapping {
            fields: config.fields.clone(),
            label: None,
        };
        let read = |file: &std::path::Path| read_examples(&config.folder.join(file), &mapping);

        let mut fit = read(&config.fit)?;
        let mut select = match &config.select {
            Some(file) => read(file)?,
            None => Vec::new(),
        };
        if let Some(fraction) = config.select_fraction {
            let seed = hybrid_data::derive_seed(seed, "data/select");
            let fractions = Fractions {
                select: fraction,
                report: 0.0,
            };
            Splits { fit, select, .. } = split(fit, fractions, seed, true)?;
        }
        if let Some(shots) = config.shots {
            fit = k_shot(
                fit,
                shots,
                Some(hybrid_data::derive_seed(seed, "data/shots")),
            )?;
        }
        let labels = LabelSet::of(&fit)?;
        let with_targets = |examples: Vec<Example>| -> Result<Split, HybridError> {
            let targets = labels.targets(&examples)?;
            Ok(Split { examples, targets })
        };
        Ok(Self {
            fit: with_targets(fit)?,
            select: with_targets(select)?,
            report: with_targets(read(&config.report)?)?,
            second_report: config
                .second_report
                .as_deref()
                .map(|file| with_targets(read(file)?))
                .transpose()?,
            out_of_scope: match &config.out_of_scope {
                Some(file) => read_examples(&config.folder.join(file), &unlabelled)?,
                None => Vec::new(),
            },
            labels,
        })
    }
}
