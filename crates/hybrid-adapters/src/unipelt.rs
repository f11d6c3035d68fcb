//! UniPELT: LoRA, a prefix and a bottleneck adapter in every layer, each behind a gate that opens by what
//! the layer is given (Mao et al. 2022, section 3).
//!
//! A gate is the mean of `sigmoid(w x + b)` over a row's tokens. With the input of the attention as `x`
//! one gate scales the prefix's keys and values, and another LoRA's side paths at queries and values;
//! with the input of the feed-forward sub-layer a third scales what the adapter adds to the sub-layer's
//! output. The mean needs whole rows, so the base must be an encoder.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData, activation};
use hybrid_models::{BaseKind, KeyValue, Linear, SiteId, SiteKind, Stack, TokenRanks};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bottleneck::{Activation, Pair, Placement, width};
use crate::error::wrong_setting;
use crate::method::{Building, Inner, Method, Pass};
use crate::prefix_tuning::PrefixTuning;
use crate::site_map::SiteMap;
use crate::site_method::in_rows;
use crate::site_place::within;
use crate::targets::{Selection, Selector, Targets};
use crate::{AdapterError, BottleneckConfig, PrefixTuningConfig};

/// Sizes of the parts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UnipeltConfig {
    /// Keys and values in front of those of the tokens.
    #[schemars(range(min = 1))]
    pub num_virtual_tokens: usize,
    /// Rank of the side paths at queries and values.
    #[schemars(range(min = 1))]
    pub r: usize,
    /// The side paths' scale, times `r`.
    pub lora_alpha: f64,
    /// Features between the two layers of an adapter.
    #[schemars(range(min = 1))]
    pub bottleneck_size: usize,
    /// The function in between.
    pub activation: Activation,
}

impl Default for UnipeltConfig {
    fn default() -> Self {
        Self {
            num_virtual_tokens: 10,
            r: 8,
            lora_alpha: 16.0,
            bottleneck_size: 48,
            activation: Activation::Gelu,
        }
    }
}

/// A side path.
#[derive(Module, Debug)]
pub(crate) struct SidePath {
    /// `[d_in, r]`.
    lora_a: Param<Tensor<2>>,
    /// `[r, d_out]`.
    lora_b: Param<Tensor<2>>,
}

/// A gate.
#[derive(Module, Debug)]
pub(crate) struct Gate {
    /// `[d_model, 1]`.
    weight: Param<Tensor<2>>,
    /// `[1]`.
    bias: Param<Tensor<1>>,
}

/// The gates of one layer.
#[derive(Module, Debug)]
pub(crate) struct Gates {
    prefix: Gate,
    lora: Gate,
    adapter: Gate,
}

/// The parts.
#[derive(Module, Debug)]
pub(crate) struct Unipelt {
    prefix: PrefixTuning,
    lora: SiteMap<SidePath>,
    /// By the last sub-layer of their layer.
    adapters: SiteMap<Pair>,
    /// The same.
    gates: SiteMap<Gates>,
    /// The last sub-layer of the layer of each site.
    #[module(skip)]
    last_blocks: BTreeMap<SiteId, SiteId>,
    #[module(skip)]
    scale: f64,
    #[module(skip)]
    activation: Activation,
    /// Where the rows' tokens are; all positions are, when it is not known.
    #[module(skip)]
    ranks: Option<TokenRanks>,
}

const METHOD: &str = "unipelt";

impl Unipelt {
    /// The prefix as prefix tuning draws it; `B` of the side paths and `W_up` of the adapters zero; gates
    /// near a half.
    ///
    /// # Errors
    /// [`AdapterError::Setting`], [`AdapterError::Rank`] or [`AdapterError::NoTarget`].
    pub(crate) fn init(
        config: &UnipeltConfig,
        building: &Building<'_>,
    ) -> Result<Self, AdapterError> {
        let wrong = wrong_setting(METHOD);
        if building.base.kind() != BaseKind::Encoder {
            let expected = "for an encoder, as its gates average over whole rows";
            return wrong("method", expected, building.base.model_type().to_owned());
        }
        for (key, found) in [("r", config.r), ("bottleneck_size", config.bottleneck_size)] {
            if found == 0 {
                return wrong(key, "1 or more", "0".to_owned());
            }
        }
        if !config.lora_alpha.is_finite() {
            return wrong(
                "lora_alpha",
                "a finite number",
                config.lora_alpha.to_string(),
            );
        }
        let prefix = PrefixTuningConfig {
            num_virtual_tokens: config.num_virtual_tokens,
            token_dim: None,
            num_transformer_submodules: None,
            prefix_projection: false,
            encoder_hidden_size: None,
            init_weights: None,
            init_token_ids: None,
        };
        let adapter = BottleneckConfig {
            bottleneck_size: config.bottleneck_size,
            activation: config.activation,
            ..BottleneckConfig::default()
        };
        let targets = Targets::queries_and_values();
        let selector = Selector::new(Selection {
            method: METHOD,
            targets: Some(&targets),
            exclude: None,
            layers: None,
            layers_pattern: None,
        })?;
        let linears = building.linear_sites(METHOD, &selector)?;
        let blocks = Placement::Pfeiffer.blocks(METHOD, None, None, building)?;
        let last_blocks = building.base.sites().iter().filter_map(|site| {
            let mut blocks = blocks.iter();
            let block = blocks.find(|block| site.layer.is_some() && block.layer == site.layer)?;
            Some((site.id, block.id))
        });
        let device = building.device;
        Ok(Self {
            last_blocks: last_blocks.collect(),
            prefix: PrefixTuning::init(&prefix, building)?,
            lora: SiteMap::build(linears, |site| {
                let SiteKind::Linear { d_in, d_out, .. } = site.kind else {
                    unreachable!("only linear sites are selected")
                };
                let r = within(site, config.r, d_in.min(d_out), [d_in, d_out])?;
                let zeros = TensorData::new(vec![0.0f32; r * d_out], [r, d_out]);
                let limit = 1.0 / (d_in as f64).sqrt();
                let a = building.random(site.id).uniform([d_in, r], limit);
                Ok::<_, AdapterError>(SidePath {
                    lora_a: Param::from_data(a, device),
                    lora_b: Param::from_data(zeros, device),
                })
            })?,
            gates: SiteMap::build(blocks.clone(), |site| {
                let part = |part: u32| building.random_part(1 + 3 * site.id.index() as u32 + part);
                let gate = |index| Gate {
                    weight: Param::from_data(part(index).normal([width(site), 1], 0.02), device),
                    bias: Param::from_data(TensorData::new(vec![0.0f32], [1]), device),
                };
                Ok::<_, AdapterError>(Gates {
                    prefix: gate(0),
                    lora: gate(1),
                    adapter: gate(2),
                })
            })?,
            adapters: SiteMap::build(blocks, |site| {
                Ok::<_, AdapterError>(Pair::init(&adapter, building, site))
            })?,
            scale: config.lora_alpha / config.r as f64,
            activation: config.activation,
            ranks: None,
        })
    }

    /// The same over rows whose tokens are known.
    pub(crate) fn over(self, ranks: &TokenRanks) -> Self {
        Self {
            ranks: Some(ranks.clone()),
            ..self
        }
    }

    /// The gates of the layer that a site is in.
    fn gates_at(&self, site: SiteId) -> Option<&Gates> {
        self.gates.get(*self.last_blocks.get(&site)?)
    }
}

impl Gate {
    /// # Shapes
    /// - `x`: `[batch, seq, d_model]` → `[batch, 1, 1]`
    fn open(&self, x: &Tensor<3>, ranks: Option<&TokenRanks>) -> Tensor<3> {
        let [batch, n_all, _] = x.dims();
        let bias = self.bias.val().unsqueeze::<2>();
        let open = in_rows(x.clone(), |rows| {
            activation::sigmoid(rows.matmul(self.weight.val()) + bias)
        });
        let Some(ranks) = ranks else {
            return open.mean_dim(1);
        };
        // Vectors in front are no tokens of the row.
        let ranks = ranks.from_start.clone();
        let [_, seq] = ranks.dims();
        let is_token = ranks.greater_equal_elem(0).float().expand([batch, seq]);
        let in_front = Tensor::zeros([batch, n_all - seq], &is_token.device());
        let is_token = Tensor::cat(vec![in_front, is_token], 1).unsqueeze_dim::<3>(2);
        let n_tokens = is_token.clone().sum_dim(1).clamp_min(1.0);
        (open * is_token).sum_dim(1) / n_tokens
    }
}

impl Method for Unipelt {
    fn name(&self) -> &'static str {
        METHOD
    }

    fn sites(&self) -> Vec<SiteId> {
        self.lora.sites().chain(self.adapters.sites()).collect()
    }

    fn wraps(&self) -> Vec<SiteId> {
        self.lora.sites().collect()
    }

    fn in_front(&self) -> bool {
        true
    }

    fn acts_on_layers(&self) -> bool {
        true
    }

    fn linear(&self, base: &Linear, x: Tensor<3>, _pass: Pass, inner: Inner<'_>) -> Tensor<3> {
        let side = self.lora.get(base.site).zip(self.gates_at(base.site));
        let Some((side, gates)) = side else {
            return inner(x);
        };
        let gate = gates.lora.open(&x, self.ranks.as_ref());
        let beside = in_rows(x.clone(), |rows| {
            let narrow = rows.matmul(side.lora_a.val()).mul_scalar(self.scale);
            narrow.matmul(side.lora_b.val())
        });
        inner(x) + beside * gate
    }

    fn key_values(&self, stack: Stack) -> Option<Vec<KeyValue>> {
        self.prefix.key_values(stack)
    }

    fn prefix(&self, output: &Linear, x: &Tensor<3>, prefix: KeyValue) -> KeyValue {
        let Some(gates) = self.gates_at(output.site) else {
            return prefix;
        };
        let gate = gates.prefix.open(x, self.ranks.as_ref());
        let gate = gate.unsqueeze_dim::<4>(3);
        KeyValue {
            key: prefix.key * gate.clone(),
            value: prefix.value * gate,
        }
    }

    fn block(&self, site: SiteId, x: &Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        let Some((pair, gates)) = self.adapters.get(site).zip(self.gates.get(site)) else {
            return y;
        };
        let gate = gates.adapter.open(x, self.ranks.as_ref());
        let added = in_rows(y.clone(), |rows| pair.forward(rows, self.activation));
        y + added * gate
    }

    fn mergeable(&self) -> Result<(), AdapterError> {
        Err(AdapterError::NotMergeable {
            method: METHOD,
            reason: "its gates depend on the input",
        })
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Param;
    use burn::tensor::{Device, Int, Tensor, TensorData, Tolerance};
    use hybrid_models::TokenRanks;

    use super::Gate;

    #[test]
    fn gates_average_over_tokens() {
        let device = Device::flex();
        let param = |values: Vec<f32>| {
            let n = values.len();
            Param::from_data(TensorData::new(values, [n, 1]), &device)
        };
        let gate = Gate {
            weight: param(vec![1.0, -2.0]),
            bias: Param::from_data(TensorData::new(vec![0.5f32], [1]), &device),
        };
        let states = [[1.0f32, 0.0], [0.0, 1.0], [2.0, 1.0]];
        let x = Tensor::<3>::from_data([states, states], &device);
        let from_start = Tensor::<2, Int>::from_data([[0, 1], [0, -1]], &device);
        let ranks = TokenRanks {
            from_start,
            from_end: None,
        };
        let sigmoid = |z: f32| 1.0 / (1.0 + (-z).exp());
        // 1.5, -1.5 and 0.5 before the sigmoid; the first position is in front of the tokens.
        let [a, b, c] = [1.5, -1.5, 0.5].map(sigmoid);
        let close = |found: Tensor<3>, expected: [f32; 2]| {
            let expected = TensorData::from([[[expected[0]]], [[expected[1]]]]);
            let tolerance = Tolerance::absolute(1e-6);
            found
                .into_data()
                .assert_approx_eq::<f32>(&expected, tolerance);
        };
        close(gate.open(&x, Some(&ranks)), [(b + c) / 2.0, b]);
        close(gate.open(&x, None), [(a + b + c) / 3.0; 2]);
    }
}
