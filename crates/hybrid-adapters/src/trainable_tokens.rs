//! Trainable tokens: the vectors of a few tokens take the place of the base's, and all others stay
//! frozen (PEFT's `TrainableTokens`).
//!
//! `y = D[i]` for the token at place `i` of `token_indices`, else `y = W[id]`, with `D: [n_tokens,
//! d_model]`. An output layer that shares the table's weight shares `D`: its logits of those tokens
//! are `x Dᵀ`.

use burn::module::{Module, Param};
use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData, module};
use hybrid_models::{Base, Embedding, Layer, Linear, ModelError, Site, SiteId, SiteKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::method::{Building, Inner, Method, Pass};
use crate::site_map::SiteMap;
use crate::targets::{Selection, Selector, Targets};
use crate::{AdapterError, frozen};

/// Which tokens of which tables are trained, with PEFT's names and meanings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainableTokensConfig {
    /// Ids of the tokens.
    pub token_indices: Vec<usize>,
    /// Embeddings; the word vectors that the base reads, when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_modules: Option<Targets>,
    /// Start at the base's vectors; at random ones when false.
    #[serde(default = "yes")]
    pub init_weights: bool,
}

fn yes() -> bool {
    true
}

/// The vectors of one table.
#[derive(Module, Debug)]
pub(crate) struct TokenVectors {
    /// `[n_tokens, d_model]`.
    pub(crate) trainable_tokens_delta: Param<Tensor<2>>,
    /// For every id the place of its vector, or the number of vectors, `[n, 1]`.
    #[module(skip)]
    places: Tensor<2>,
    #[module(skip)]
    token_indices: Vec<usize>,
    /// An output layer with the table's weight.
    #[module(skip)]
    output: Option<SiteId>,
    /// Other paths under which PEFT's files have the same values.
    #[module(skip)]
    pub(crate) copies: Vec<String>,
}

/// Vectors by table.
#[derive(Module, Debug)]
pub(crate) struct TrainableTokens {
    tables: SiteMap<TokenVectors>,
}

const METHOD: &str = "trainable_tokens";

impl TrainableTokens {
    /// The base's vectors of the tokens, or random ones.
    ///
    /// # Errors
    /// [`AdapterError::Setting`] for no token or one that is named twice, [`AdapterError::Model`] for
    /// a token that the table does not have; [`AdapterError::NoTarget`],
    /// [`AdapterError::UnsupportedTarget`] or [`AdapterError::Pattern`].
    pub(crate) fn init(
        config: &TrainableTokensConfig,
        building: &Building<'_>,
    ) -> Result<Self, AdapterError> {
        config.validate()?;
        let words = || {
            let paths = building.base.stacks().into_iter().map(|stack| {
                let path = &building.base.sites().get(stack.words).path;
                format!("{}{path}", building.prefix)
            });
            let mut paths: Vec<String> = paths.collect();
            paths.dedup();
            Targets::Names(paths)
        };
        let targets = config.target_modules.clone().unwrap_or_else(words);
        let selector = Selector::new(Selection {
            method: METHOD,
            targets: Some(&targets),
            exclude: None,
            layers: None,
            layers_pattern: None,
        })?;
        let sites = building.embedding_sites(METHOD, &selector)?;
        let tables = SiteMap::build(sites, |site| TokenVectors::init(config, building, site))?;
        Ok(Self { tables })
    }

    pub(crate) fn tables(&self) -> &SiteMap<TokenVectors> {
        &self.tables
    }

    fn of_output(&self, site: SiteId) -> Option<&TokenVectors> {
        let mut tables = self.tables.iter().map(|(_, table)| table);
        tables.find(|table| table.output == Some(site))
    }
}

impl TrainableTokensConfig {
    fn validate(&self) -> Result<(), AdapterError> {
        let mut sorted = self.token_indices.clone();
        sorted.sort_unstable();
        let twice = sorted.windows(2).find(|pair| pair[0] == pair[1]);
        let found = match (sorted.is_empty(), twice) {
            (true, _) => "empty".to_owned(),
            (false, Some(pair)) => format!("one with {} twice", pair[0]),
            (false, None) => return Ok(()),
        };
        Err(AdapterError::Setting {
            method: METHOD,
            key: "token_indices",
            expected: "one token or more, each once",
            found,
        })
    }
}

impl TokenVectors {
    fn init(
        config: &TrainableTokensConfig,
        building: &Building<'_>,
        site: &Site,
    ) -> Result<Self, AdapterError> {
        let (SiteKind::Embedding { n, d_model }, Some(Layer::Embedding(table))) =
            (site.kind, building.base.layer_at(site.id))
        else {
            unreachable!("only embeddings are selected")
        };
        let tokens = &config.token_indices;
        if let Some(id) = tokens.iter().find(|id| **id >= n) {
            return Err(AdapterError::Model(ModelError::UnknownToken {
                row: 0,
                id: *id as i64,
                vocab: n,
            }));
        }
        let delta = match config.init_weights {
            true => {
                let ids: Vec<i64> = tokens.iter().map(|id| *id as i64).collect();
                let ids = TensorData::new(ids, [1, tokens.len()]);
                let vectors = table.forward(Tensor::from_data(ids, &table.weight.device()));
                frozen::copy(&vectors.squeeze_dim::<2>(0), building.device)
            }
            false => {
                let random = building
                    .random(site.id)
                    .normal([tokens.len(), d_model], 1.0);
                Param::from_data(random, building.device)
            }
        };
        let mut places = vec![tokens.len() as f32; n];
        for (place, id) in tokens.iter().enumerate() {
            places[*id] = place as f32;
        }
        let plain = building.device.clone().without_autodiff();
        let output = output_of(building.base, site);
        Ok(Self {
            trainable_tokens_delta: delta,
            places: Tensor::from_data(TensorData::new(places, [n, 1]), &plain),
            token_indices: tokens.clone(),
            output,
            copies: copies(building.base, site, output),
        })
    }

    /// The rows of the table with those of the tokens in their place.
    ///
    /// # Shapes
    /// - `ids`: `[batch, seq]`, `y`: `[batch, seq, d_model]` → `[batch, seq, d_model]`
    fn rows(&self, ids: Tensor<2, Int>, y: Tensor<3>) -> Tensor<3> {
        let [batch, seq, d_model] = y.dims();
        let n_tokens = self.token_indices.len();
        let places = module::embedding(self.places.clone(), ids);
        let is_other = places.clone().equal_elem(n_tokens as f32);
        let delta = self.trainable_tokens_delta.val();
        let other = Tensor::zeros([1, d_model], &delta.device().without_autodiff());
        let places = places.int().reshape([batch, seq]);
        let own = module::embedding(Tensor::cat(vec![delta, other], 0), places);
        y * is_other.float() + own
    }

    fn indices(&self) -> Tensor<1, Int> {
        let indices: Vec<i32> = self.token_indices.iter().map(|id| *id as i32).collect();
        let n = indices.len();
        Tensor::from_data(TensorData::new(indices, [n]), &self.places.device())
    }

    /// Logits with those of the tokens in their place; `frozen` is the layer without them.
    ///
    /// # Shapes
    /// - `x`: `[batch, seq, d_model]`, `y`: `[batch, seq, n]` → `[batch, seq, n]`
    fn logits(&self, x: Tensor<3>, y: Tensor<3>, base: &Linear) -> Tensor<3> {
        let ([batch, seq, d_model], [_, _, n]) = (x.dims(), y.dims());
        let rows = x.reshape([batch * seq, d_model]);
        let own = rows.matmul(self.trainable_tokens_delta.val().transpose());
        let own = match &base.bias {
            Some(bias) => own + bias.clone().select(0, self.indices()).unsqueeze(),
            None => own,
        };
        let y = y.reshape([batch * seq, n]);
        let change = own - y.clone().select(1, self.indices());
        y.select_assign(1, self.indices(), change, IndexingUpdateOp::Add)
            .reshape([batch, seq, n])
    }

    /// # Shapes
    /// - `weight`: `[n, d_model]` → the same
    fn merged(&self, weight: Tensor<2>) -> Tensor<2> {
        let own = frozen::plain(&self.trainable_tokens_delta);
        let change = own - weight.clone().select(0, self.indices());
        weight.select_assign(0, self.indices(), change, IndexingUpdateOp::Add)
    }
}

/// The output layer that shares a table's weight.
fn output_of(base: &dyn Base, table: &Site) -> Option<SiteId> {
    let words = base.stacks().first().map(|stack| stack.words);
    let mut tied = base
        .sites()
        .iter()
        .filter(|site| base.layers().is_tied(site.id));
    tied.next()
        .filter(|_| words == Some(table.id))
        .map(|site| site.id)
}

/// The names by which Transformers has the same table or weight besides.
fn copies(base: &dyn Base, table: &Site, output: Option<SiteId>) -> Vec<String> {
    let output = output.map(|site| base.sites().get(site).path.clone());
    let stem = table.path.strip_suffix("shared");
    let stacks = stem
        .into_iter()
        .flat_map(|stem| ["encoder", "decoder"].map(|stack| format!("{stem}{stack}.embed_tokens")));
    let free = stacks.filter(|path| base.sites().find(path).is_none());
    output.into_iter().chain(free).collect()
}

impl Method for TrainableTokens {
    fn name(&self) -> &'static str {
        METHOD
    }

    fn sites(&self) -> Vec<SiteId> {
        let outputs = self.tables.iter().filter_map(|(_, table)| table.output);
        self.tables.sites().chain(outputs).collect()
    }

    fn wraps(&self) -> Vec<SiteId> {
        let outputs = self.tables.iter().filter_map(|(_, table)| table.output);
        outputs.collect()
    }

    fn embedding(&self, base: &Embedding, ids: &Tensor<2, Int>, y: Tensor<3>) -> Tensor<3> {
        match self.tables.get(base.site) {
            Some(table) => table.rows(ids.clone(), y),
            None => y,
        }
    }

    fn linear(&self, base: &Linear, x: Tensor<3>, _pass: Pass, inner: Inner<'_>) -> Tensor<3> {
        match self.of_output(base.site) {
            Some(table) => table.logits(x.clone(), inner(x), base),
            None => inner(x),
        }
    }

    fn merge_embedding(&self, inner: Embedding) -> Embedding {
        match self.tables.get(inner.site) {
            Some(table) => Embedding {
                weight: table.merged(inner.weight.dense()).into(),
                ..inner
            },
            None => inner,
        }
    }

    fn merge_linear(&self, inner: Linear) -> Result<Linear, AdapterError> {
        Ok(match self.of_output(inner.site) {
            Some(table) => Linear {
                weight: table
                    .merged(inner.weight.dense().transpose())
                    .transpose()
                    .into(),
                ..inner
            },
            None => inner,
        })
    }
}
