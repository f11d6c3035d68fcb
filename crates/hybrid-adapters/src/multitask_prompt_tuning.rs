//! Multitask prompt tuning: one prompt for all tasks, and for each a matrix of low rank that it is
//! multiplied with (Wang et al. 2023, equation 1).
//!
//! The vectors of task `t` are `P * (U_t V_t)` with `P: [n_virtual, d_model]`, `U_t: [n_virtual,
//! rank]` and `V_t: [rank, d_model]`. They stand in front of the words; over an encoder-decoder with
//! two sets of them, the second stands in front of the decoder's.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor, TensorData};
use hybrid_models::Stack;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::AdapterError;
use crate::method::{Building, Method, Pass};
use crate::virtual_tokens::{Asked, not_mergeable};

/// How many vectors and tasks, with PEFT's names and meanings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MultitaskPromptTuningConfig {
    /// Vectors in front of the words.
    #[schemars(range(min = 1))]
    pub num_virtual_tokens: usize,
    /// Size of a vector: the base's, which is taken when this is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_dim: Option<usize>,
    /// For how many stacks of the base vectors are kept; all when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_transformer_submodules: Option<usize>,
    /// Rank of a task's matrix.
    #[serde(default = "one")]
    #[schemars(range(min = 1))]
    pub num_ranks: usize,
    /// Number of tasks.
    #[serde(default = "one")]
    #[schemars(range(min = 1))]
    pub num_tasks: usize,
    /// The task that is computed and trained, counted from 0.
    #[serde(default, skip_serializing_if = "is_first")]
    pub task: usize,
}

fn one() -> usize {
    1
}

fn is_first(task: &usize) -> bool {
    *task == 0
}

/// The prompt and the factors of each task's matrix.
#[derive(Module, Debug)]
pub(crate) struct MultitaskPromptTuning {
    /// `[n_stacks * n_virtual, d_model]`.
    embedding: Param<Tensor<2>>,
    /// `[n_tasks, n_stacks * n_virtual, rank]`.
    prefix_task_cols: Param<Tensor<3>>,
    /// `[n_tasks, rank, d_model]`.
    prefix_task_rows: Param<Tensor<3>>,
    #[module(skip)]
    n_virtual: usize,
    /// The stacks with vectors of their own, in order.
    #[module(skip)]
    stacks: Vec<Stack>,
    /// The task of all rows, or of each.
    #[module(skip)]
    tasks: Vec<usize>,
}

const METHOD: &str = "multitask_prompt_tuning";

impl MultitaskPromptTuning {
    /// The prompt normal with deviation 1, the factors with deviation 0.02, as PEFT draws them.
    ///
    /// # Errors
    /// [`AdapterError::Setting`], or [`AdapterError::Model`] for a base that vectors cannot stand in
    /// front of.
    pub(crate) fn init(
        config: &MultitaskPromptTuningConfig,
        building: &Building<'_>,
    ) -> Result<Self, AdapterError> {
        let wrong = |key, expected, found: usize| {
            Err(AdapterError::Setting {
                method: METHOD,
                key,
                expected,
                found: found.to_string(),
            })
        };
        if config.num_ranks == 0 {
            return wrong("num_ranks", "1 or more", 0);
        }
        if config.task >= config.num_tasks {
            return wrong(
                "task",
                "below num_tasks, as tasks count from 0",
                config.task,
            );
        }
        let asked = Asked {
            method: METHOD,
            num_virtual_tokens: config.num_virtual_tokens,
            token_dim: config.token_dim,
            num_transformer_submodules: config.num_transformer_submodules,
        };
        let planned = asked.plan(building.base, |shape| shape.d_model)?;
        let (n_tasks, rank, d_model) = (config.num_tasks, config.num_ranks, planned.first.d_model);
        let n_rows = planned.n_stacks * config.num_virtual_tokens;
        let device = building.device;
        let part = |part| building.random_part(part);
        Ok(Self {
            embedding: Param::from_data(part(0).normal([n_rows, d_model], 1.0), device),
            prefix_task_cols: Param::from_data(
                part(1).normal([n_tasks, n_rows, rank], 0.02),
                device,
            ),
            prefix_task_rows: Param::from_data(
                part(2).normal([n_tasks, rank, d_model], 0.02),
                device,
            ),
            n_virtual: config.num_virtual_tokens,
            stacks: [planned.first.stack, planned.last.stack][..planned.n_stacks].to_vec(),
            tasks: vec![config.task],
        })
    }

    /// The same with the task of every row of a batch.
    ///
    /// # Errors
    /// [`AdapterError::Setting`] for a task that there is not.
    pub(crate) fn for_tasks(self, tasks: &[usize]) -> Result<Self, AdapterError> {
        let [n_tasks, _, _] = self.prefix_task_cols.dims();
        match tasks.iter().find(|task| **task >= n_tasks) {
            Some(task) => Err(AdapterError::Setting {
                method: METHOD,
                key: "task",
                expected: "below num_tasks, as tasks count from 0",
                found: task.to_string(),
            }),
            None => Ok(Self {
                tasks: tasks.to_vec(),
                ..self
            }),
        }
    }

    /// The vectors of all stacks, for all rows alike or for each.
    ///
    /// # Shapes
    /// - `[1 or batch, n_stacks * n_virtual, d_model]`
    fn vectors(&self) -> Tensor<3> {
        let embedding = self.embedding.val();
        let tasks: Vec<i32> = self.tasks.iter().map(|task| *task as i32).collect();
        let n = tasks.len();
        let device = embedding.device().without_autodiff();
        let tasks: Tensor<1, Int> = Tensor::from_data(TensorData::new(tasks, [n]), &device);
        let columns = self.prefix_task_cols.val().select(0, tasks.clone());
        let rows = self.prefix_task_rows.val().select(0, tasks);
        embedding.unsqueeze::<3>() * columns.matmul(rows)
    }
}

impl Method for MultitaskPromptTuning {
    fn name(&self) -> &'static str {
        METHOD
    }

    fn in_front(&self) -> bool {
        true
    }

    /// # Panics
    /// If there is a task for each of another number of rows.
    fn embedded(&self, stack: Stack, words: Tensor<3>, _pass: Pass) -> Tensor<3> {
        let Some(index) = self.stacks.iter().position(|own| *own == stack) else {
            return words;
        };
        let [batch, _, d_model] = words.dims();
        let vectors = self
            .vectors()
            .narrow(1, index * self.n_virtual, self.n_virtual);
        let vectors = vectors.expand([batch, self.n_virtual, d_model]);
        Tensor::cat(vec![vectors, words], 1)
    }

    fn mergeable(&self) -> Result<(), AdapterError> {
        Err(not_mergeable(METHOD))
    }
}
