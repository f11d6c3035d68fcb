//! LoReFT: the hidden states of some tokens are changed in a few directions (Wu et al. 2024,
//! equation 2).
//!
//! `h + R^T (W h + b - R h)` on the output `h` of a whole layer, with `R: [r, d_model]` of orthonormal
//! rows, `W: [r, d_model]` and `b: [r]`, at the first and the last tokens of each row; other tokens
//! stay as they are. Unless they are tied, first and last tokens have tensors of their own, and a token
//! that is both counts as first. The rows of `R` are made orthonormal out of the trained matrix in each
//! forward. Unlike in the paper's code `W = R` and `b = 0` at the start, so the adapted base starts as
//! the base.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor, TensorData};
use hybrid_models::{Site, SiteId, Stack, TokenRanks};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bottleneck::{Placement, width};
use crate::error::wrong_setting;
use crate::gram_schmidt::orthonormal;
use crate::method::{Building, Method, PeftName};
use crate::site_map::SiteMap;
use crate::site_method::in_rows;
use crate::targets::Targets;
use crate::{AdapterError, frozen};

/// How many directions at which tokens of which layers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoreftConfig {
    /// Number of directions.
    #[schemars(range(min = 1))]
    pub r: usize,
    /// How many of the first tokens of a row are changed.
    pub prefix_positions: usize,
    /// How many of the last tokens of a row are changed; 0 in a decoder, whose rows go on.
    pub suffix_positions: usize,
    /// Whether first and last tokens share their tensors.
    pub tied_weights: bool,
    /// Layers that are left out, by the paths of their last sub-layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_modules: Option<Targets>,
    /// Transformer layers to act on; all when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers_to_transform: Option<Vec<usize>>,
}

impl Default for LoreftConfig {
    fn default() -> Self {
        Self {
            r: 4,
            prefix_positions: 3,
            suffix_positions: 0,
            tied_weights: false,
            exclude_modules: None,
            layers_to_transform: None,
        }
    }
}

/// One change of hidden states.
#[derive(Module, Debug)]
pub(crate) struct Intervention {
    /// The columns that `R`'s rows are made of, `[d_model, r]`.
    rotation: Param<Tensor<2>>,
    /// `W` transposed, `[d_model, r]`.
    source: Param<Tensor<2>>,
    /// `[r]`.
    bias: Param<Tensor<1>>,
}

/// The changes in one layer.
#[derive(Module, Debug)]
pub(crate) struct Interventions {
    first: Option<Intervention>,
    last: Option<Intervention>,
}

/// Changes by the last sub-layer of their layer.
#[derive(Module, Debug)]
pub(crate) struct Loreft {
    layers: SiteMap<Interventions>,
    #[module(skip)]
    n_first: usize,
    #[module(skip)]
    n_last: usize,
}

const METHOD: &str = "loreft";

impl Loreft {
    /// # Errors
    /// [`AdapterError::Setting`], [`AdapterError::Rank`], [`AdapterError::NoTarget`] or
    /// [`AdapterError::Pattern`].
    pub(crate) fn init(
        config: &LoreftConfig,
        building: &Building<'_>,
    ) -> Result<Self, AdapterError> {
        let wrong = wrong_setting(METHOD);
        if config.r == 0 {
            return wrong("r", "1 or more", "0".to_owned());
        }
        let (n_first, n_last) = (config.prefix_positions, config.suffix_positions);
        if n_first + n_last == 0 {
            let expected = "1 or more, or suffix_positions";
            return wrong("prefix_positions", expected, "0".to_owned());
        }
        let (exclude, layers) = (
            config.exclude_modules.as_ref(),
            config.layers_to_transform.as_deref(),
        );
        let sites = Placement::Pfeiffer.blocks(METHOD, exclude, layers, building)?;
        let stacks = building.base.stacks();
        let encoders = stacks.iter().filter(|shape| shape.stack == Stack::Encoder);
        let of_encoders: usize = encoders.map(|shape| shape.n_layers).sum();
        let of_decoder = |site: &&&Site| site.layer.is_some_and(|layer| layer >= of_encoders);
        if n_last > 0
            && let Some(site) = sites.iter().find(of_decoder)
        {
            let expected =
                "0 in a decoder, where the last token is not known while a text is written";
            return wrong(
                "suffix_positions",
                expected,
                format!("{n_last} at {}", site.path),
            );
        }
        let layers = SiteMap::build(sites, |site| {
            let d_model = width(site);
            if config.r > d_model {
                return Err(AdapterError::Rank {
                    site: site.path.clone(),
                    rank: config.r,
                    limit: d_model,
                    d_in: d_model,
                    d_out: d_model,
                });
            }
            let mut random = building.random(site.id);
            let mut drawn = |is_there: bool| {
                is_there.then(|| {
                    let columns = random.normal([d_model, config.r], 1.0);
                    Intervention::starting(columns, building)
                })
            };
            let has_own_last = n_last > 0 && !(config.tied_weights && n_first > 0);
            Ok(Interventions {
                first: drawn(n_first > 0),
                last: drawn(has_own_last),
            })
        })?;
        Ok(Self {
            layers,
            n_first,
            n_last,
        })
    }
}

impl Intervention {
    /// One that changes nothing yet.
    fn starting(columns: TensorData, building: &Building<'_>) -> Self {
        let r = columns.shape()[1];
        let device = building.device;
        let plain = Tensor::from_data(columns.clone(), &device.clone().without_autodiff());
        Self {
            rotation: Param::from_data(columns, device),
            source: frozen::copy(&orthonormal(plain), device),
            bias: Param::from_data(TensorData::new(vec![0.0f32; r], [r]), device),
        }
    }

    /// What is added to hidden states.
    ///
    /// # Shapes
    /// - `rows`: `[rows, d_model]` → the same
    fn change(&self, rows: Tensor<2>) -> Tensor<2> {
        let rotation = orthonormal(self.rotation.val());
        let wanted = rows.clone().matmul(self.source.val()) + self.bias.val().unsqueeze();
        (wanted - rows.matmul(rotation.clone())).matmul(rotation.transpose())
    }
}

/// 1 at the first `n` ranks, else 0.
///
/// # Shapes
/// - `ranks`: `[1 or batch, seq]` → `[1 or batch, in_front + seq, 1]`
fn chosen(ranks: &Tensor<2, Int>, n: usize, in_front: usize) -> Tensor<3> {
    let [batch, _] = ranks.dims();
    let is_token = ranks.clone().greater_equal_elem(0).float();
    let is_near = ranks.clone().lower_elem(n as i64).float();
    let nothing = Tensor::zeros([batch, in_front], &ranks.device());
    Tensor::cat(vec![nothing, is_token * is_near], 1).unsqueeze_dim(2)
}

impl Method for Loreft {
    fn name(&self) -> &'static str {
        METHOD
    }

    fn sites(&self) -> Vec<SiteId> {
        self.layers.sites().collect()
    }

    fn acts_on_layers(&self) -> bool {
        true
    }

    fn layer(&self, last_block: SiteId, ranks: &TokenRanks, y: Tensor<3>) -> Tensor<3> {
        let Some(interventions) = self.layers.get(last_block) else {
            return y;
        };
        let [_, seq] = ranks.from_start.dims();
        let in_front = y.dims()[1] - seq;
        let first = chosen(&ranks.from_start, self.n_first, in_front);
        let from_end = ranks.from_end.as_ref();
        let last = from_end.map(|ranks| chosen(ranks, self.n_last, in_front));
        // A token that is first is not last too.
        let last = last.map(|last| last * (first.clone() - 1.0).neg());
        let (of_first, of_last) = match (&interventions.first, &interventions.last, last) {
            (Some(tied), None, Some(last)) => ((tied, first + last), None),
            (Some(own), of_last, last) => ((own, first), of_last.as_ref().zip(last)),
            (None, Some(own), Some(last)) => ((own, last), None),
            (None, ..) => return y,
        };
        [Some(of_first), of_last].into_iter().flatten().fold(
            y.clone(),
            |sum, (intervention, where_to)| {
                sum + in_rows(y.clone(), |rows| intervention.change(rows)) * where_to
            },
        )
    }

    fn peft_name(&self, name: &str) -> Option<PeftName> {
        let key = name.strip_prefix("layers.").unwrap_or(name).to_owned();
        let stored = key.clone();
        Some(PeftName { key, stored })
    }

    fn mergeable(&self) -> Result<(), AdapterError> {
        Err(AdapterError::NotMergeable {
            method: METHOD,
            reason: "it changes the states of some tokens only",
        })
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Param;
    use burn::tensor::{Device, Int, Tensor, TensorData, Tolerance};
    use hybrid_models::{SiteKind, SiteTable, TokenRanks};

    use super::{Intervention, Interventions, Loreft};
    use crate::method::Method;
    use crate::site_map::SiteMap;

    /// Along one direction.
    fn along(direction: [f32; 2], source: [f32; 2], bias: f32) -> Intervention {
        let device = Device::flex();
        let column =
            |values: [f32; 2]| Param::from_data(TensorData::new(values.to_vec(), [2, 1]), &device);
        Intervention {
            rotation: column(direction),
            source: column(source),
            bias: Param::from_data(TensorData::new(vec![bias], [1]), &device),
        }
    }

    fn loreft(interventions: Interventions, n_first: usize, n_last: usize) -> Loreft {
        let mut sites = SiteTable::default();
        sites.add("mlp", Some(0), false, SiteKind::Block { d_model: 2 });
        let layers = SiteMap::build(sites.iter(), |_| Ok::<_, ()>(interventions.clone()));
        Loreft {
            layers: layers.unwrap(),
            n_first,
            n_last,
        }
    }

    /// Two rows of four positions, one vector in front, the second row padded at the left.
    fn changed(loreft: &Loreft) -> Vec<f32> {
        let device = Device::flex();
        let ranks = |values: [[i32; 4]; 2]| Tensor::<2, Int>::from_data(values, &device);
        let ranks = TokenRanks {
            from_start: ranks([[0, 1, 2, 3], [-1, -1, 0, 1]]),
            from_end: Some(ranks([[3, 2, 1, 0], [-1, -1, 1, 0]])),
        };
        let y = Tensor::<3>::ones([2, 5, 2], &device);
        let site = loreft.sites()[0];
        loreft
            .layer(site, &ranks, y)
            .into_data()
            .iter::<f32>()
            .collect()
    }

    fn close(found: &[f32], expected: &[[f32; 2]]) {
        let expected = TensorData::new(expected.concat(), [found.len()]);
        TensorData::new(found.to_vec(), [found.len()])
            .assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-5));
    }

    #[test]
    fn chosen_tokens_are_changed_in_one_direction() {
        // The direction is (0.6, 0.8); of (1, 1) it has 1.4; 1 - 2 + 0.5 is wanted.
        let first = along([3.0, 4.0], [1.0, -2.0], 0.5);
        // (1, 0) with 2 + 1 wanted.
        let last = along([-2.0, 0.0], [-1.0, -1.0], -1.0);
        let (same, by_first, by_last) =
            ([1.0, 1.0], [1.0 - 1.9 * 0.6, 1.0 - 1.9 * 0.8], [3.0, 1.0]);
        let own = Interventions {
            first: Some(first.clone()),
            last: Some(last.clone()),
        };
        let rows = [
            [same, by_first, same, by_last, by_last],
            [same, same, same, by_first, by_last],
        ];
        close(&changed(&loreft(own, 1, 2)), &rows.concat());
        let tied = Interventions {
            first: Some(first),
            last: None,
        };
        let rows = [
            [same, by_first, same, by_first, by_first],
            [same, same, same, by_first, by_first],
        ];
        close(&changed(&loreft(tied, 1, 2)), &rows.concat());
        let alone = Interventions {
            first: None,
            last: Some(last),
        };
        let rows = [
            [same, same, same, same, by_last],
            [same, same, same, same, by_last],
        ];
        close(&changed(&loreft(alone, 0, 1)), &rows.concat());
    }
}
