//! LoRA at an embedding: `y = W[id] + s A[id] B` with `A: [n, rank]`, `B: [rank, d_model]`. `A` is
//! zero at the start and `B` normal with deviation 1, as PEFT has it.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor, TensorData, module};
use hybrid_models::{Embedding, Site, SiteKind};

use super::{LoraConfig, LoraInit, Pair};
use crate::decomposition::Matrix;
use crate::method::Building;
use crate::{AdapterError, frozen};

/// The factors of one table.
#[derive(Module, Debug)]
pub(crate) struct TableFactors {
    /// `[n, rank]`.
    pub(crate) lora_embedding_a: Param<Tensor<2>>,
    /// `[rank, d_model]`.
    pub(crate) lora_embedding_b: Param<Tensor<2>>,
    #[module(skip)]
    scale: f64,
}

impl TableFactors {
    pub(super) fn init(
        config: &LoraConfig,
        building: &Building<'_>,
        site: &Site,
    ) -> Result<Self, AdapterError> {
        let SiteKind::Embedding { n, d_model } = site.kind else {
            unreachable!("only embeddings are selected")
        };
        let (rank, scale) = config.rank_and_scale(building, site, [n, d_model])?;
        let mut random = building.random(site.id);
        let a = match config.init_lora_weights {
            LoraInit::Random => random.normal([n, rank], 1.0),
            _ => TensorData::new(vec![0.0f32; n * rank], [n, rank]),
        };
        Ok(Self {
            lora_embedding_a: Param::from_data(a, building.device),
            lora_embedding_b: Param::from_data(
                random.normal([rank, d_model], 1.0),
                building.device,
            ),
            scale,
        })
    }

    /// What the site computes; `y` is what it computes without the factors.
    ///
    /// # Shapes
    /// - `ids`: `[batch, seq]`, `y`: `[batch, seq, d_model]` → `[batch, seq, d_model]`
    pub(super) fn forward(&self, ids: Tensor<2, Int>, y: Tensor<3>) -> Tensor<3> {
        let [batch, seq, d_model] = y.dims();
        let narrow = module::embedding(self.lora_embedding_a.val(), ids);
        let [_, _, rank] = narrow.dims();
        let rows = narrow.reshape([batch * seq, rank]).mul_scalar(self.scale);
        let side = rows.matmul(self.lora_embedding_b.val());
        y + side.reshape([batch, seq, d_model])
    }

    pub(super) fn as_pair(&self) -> Pair {
        Pair {
            part: "tables",
            names: ["lora_embedding_a", "lora_embedding_b"],
            a: Matrix::of(frozen::plain(&self.lora_embedding_a)),
            b: Matrix::of(frozen::plain(&self.lora_embedding_b)),
            scale: self.scale,
        }
    }

    pub(super) fn merge(&self, inner: Embedding) -> Embedding {
        let delta = frozen::plain(&self.lora_embedding_a)
            .matmul(frozen::plain(&self.lora_embedding_b))
            .mul_scalar(self.scale);
        Embedding {
            weight: (inner.weight.dense() + delta).into(),
            ..inner
        }
    }
}
