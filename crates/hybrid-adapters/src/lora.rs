//! LoRA: a low-rank side path next to a frozen linear layer (Hu et al. 2021, equation 3).
//!
//! `y = x W + b + s (x A) B` with `A: [d_in, rank]`, `B: [rank, d_out]` and `s = alpha / rank`, or
//! `alpha / sqrt(rank)` with rank stabilisation (Kalajdzievski 2023). The dense sum `W + s A B` is
//! never formed while training, so backward forms no gradient of the size of `W` either. With
//! `use_dora` the columns of the sum have lengths of their own (see `dora`), with `lora_bias` the side
//! path has a bias, `s (x A B + c)`. At an embedding the side path looks up rows of `A` (see `table`).
//!
//! Factors that start as a part of the weight (PiSSA, OLoRA; see `start`) take that part off it:
//! `W - s A₀ B₀ + s A B`. It is computed again from the weight wherever the adapter is built, as PEFT
//! does, and the base stays as it is: `A₀` and `B₀` are constants of the side path.
//!
//! `A` may also start at what the sites see (EVA; see `eva`), with ranks that follow it.
//!
//! LoRA+ (Hayou et al. 2024) and LoRA-FA (Zhang et al. 2023) are groups of the optimizer: a
//! larger rate for `lora_b$`, and none for `lora_a$`.

use burn::module::{Module, Param};
use burn::tensor::{Bool, Int, Tensor, TensorData};
use hybrid_models::{Embedding, Layer, Linear, Norm, Site, SiteId, SiteKind, low_rank};

use crate::bias::{self, Biases};
use crate::decomposition::Matrix;
use crate::dora::Magnitude;
use crate::method::{Building, Inner, Method, Pass};
use crate::random::HostRandom;
use crate::site_map::SiteMap;
use crate::targets::{Selection, Selector};
use crate::{AdapterError, frozen};

mod beside;
mod config;
mod eva;
mod explained_variance;
mod start;
mod table;

pub(crate) use beside::of_parts;
use config::wrong;
pub use config::{BiasMode, LoraConfig};
pub use eva::EvaConfig;
pub use explained_variance::ExplainedVariance;
pub use start::LoraInit;
pub(crate) use table::TableFactors;

/// The factors of one site.
#[derive(Module, Debug)]
pub(crate) struct Factors {
    /// `[d_in, rank]`.
    pub(crate) lora_a: Param<Tensor<2>>,
    /// `[rank, d_out]`.
    pub(crate) lora_b: Param<Tensor<2>>,
    /// With `lora_bias`, `[d_out]`.
    pub(crate) bias: Option<Param<Tensor<1>>>,
    /// With `use_dora`.
    pub(crate) dora: Option<Magnitude>,
    /// What is taken off the weight.
    #[module(skip)]
    start: Option<StartFactors>,
    #[module(skip)]
    scale: f64,
    #[module(skip)]
    dropout: f64,
}

/// The factors of one site on the host: what is added is `scale a b`.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    /// The part of the module that holds them, and their names there.
    pub(crate) part: &'static str,
    pub(crate) names: [&'static str; 2],
    /// `[d_in, rank]`.
    pub(crate) a: Matrix,
    /// `[rank, d_out]`.
    pub(crate) b: Matrix,
    pub(crate) scale: f64,
}

impl Pair {
    /// What is added to the weight, `[d_in, d_out]`.
    pub(crate) fn product(&self) -> Matrix {
        let mut product = self.a.times_transposed(&self.b.transposed());
        product
            .values
            .iter_mut()
            .for_each(|value| *value *= self.scale);
        product
    }
}

/// The factors of the part of a weight that the trained ones stand for: `[d_in, rank]` and
/// `[rank, d_out]`.
#[derive(Debug, Clone)]
struct StartFactors {
    a: Tensor<2>,
    b: Tensor<2>,
}

/// Factors by site, and biases in place of the base's.
#[derive(Module, Debug)]
pub(crate) struct Lora {
    factors: SiteMap<Factors>,
    tables: SiteMap<TableFactors>,
    biases: Biases,
}

const METHOD: &str = "lora";

impl Lora {
    /// Factors at the selected sites, as `init_lora_weights` says. By default `A` is uniform in
    /// `±1/sqrt(d_in)` (PEFT's Kaiming initialisation with `a = sqrt(5)`) and `B` zero, so the adapted
    /// base starts as the base.
    ///
    /// # Errors
    /// [`AdapterError::Rank`] if a rank exceeds `min(d_in, d_out)`; [`AdapterError::Setting`],
    /// [`AdapterError::NoTarget`], [`AdapterError::UnsupportedTarget`] or [`AdapterError::Pattern`].
    pub(crate) fn init(config: &LoraConfig, building: &Building<'_>) -> Result<Self, AdapterError> {
        config.validate()?;
        let selector = Selector::new(Selection {
            method: METHOD,
            targets: Some(&config.target_modules),
            exclude: config.exclude_modules.as_ref(),
            layers: config.layers_to_transform.as_deref(),
            layers_pattern: config.layers_pattern.as_deref(),
        })?;
        let mut sites = building.weight_sites(METHOD, &selector)?;
        sites.retain(|site| config.chosen_rank(&site.path) != Some(0));
        let (linears, tables): (Vec<&Site>, Vec<&Site>) = sites
            .into_iter()
            .partition(|site| matches!(site.kind, SiteKind::Linear { .. }));
        if !tables.is_empty() && (config.use_dora || config.lora_bias) {
            let key = if config.use_dora {
                "use_dora"
            } else {
                "lora_bias"
            };
            let found = format!("true with the embedding {} as a target", tables[0].path);
            return wrong(key, "linear layers as the only targets", found);
        }
        Ok(Self {
            factors: SiteMap::build(linears.iter().copied(), |site| {
                Factors::init(config, building, site)
            })?,
            tables: SiteMap::build(tables, |site| TableFactors::init(config, building, site))?,
            biases: biases(config.bias, building, &linears)?,
        })
    }

    /// The factors by path; none when more than those is trained.
    pub(crate) fn pairs(&self) -> Option<Vec<(String, Pair)>> {
        let plain = |factors: &Factors| factors.dora.is_none() && factors.bias.is_none();
        let all_plain = self.factors.iter().all(|(_, factors)| plain(factors));
        if !all_plain || self.biases.iter().next().is_some() {
            return None;
        }
        let linears = self
            .factors
            .iter()
            .map(|(path, factors)| (path, factors.as_pair()));
        let tables = self
            .tables
            .iter()
            .map(|(path, table)| (path, table.as_pair()));
        let named = linears
            .chain(tables)
            .map(|(path, pair)| (path.to_owned(), pair));
        Some(named.collect())
    }

    pub(crate) fn tables(&self) -> &SiteMap<TableFactors> {
        &self.tables
    }

    pub(crate) fn factors(&self) -> &SiteMap<Factors> {
        &self.factors
    }

    pub(crate) fn biases(&self) -> &Biases {
        &self.biases
    }

    /// The factors at a linear site where they are all that is trained.
    pub(crate) fn alone_at(&self, site: SiteId) -> Option<&Factors> {
        let factors = self.factors.get(site)?;
        let has_more = factors.dora.is_some() || factors.bias.is_some();
        (!has_more && self.biases.get(site).is_none()).then_some(factors)
    }
}

/// The biases of a mode beside adapted sites.
pub(crate) fn biases(
    mode: BiasMode,
    building: &Building<'_>,
    adapted: &[&Site],
) -> Result<Biases, AdapterError> {
    let has_bias = |site: &Site| bias::of(building, site).is_some();
    match mode {
        BiasMode::None => Ok(SiteMap::empty()),
        BiasMode::LoraOnly => {
            let adapted = adapted.iter().copied();
            bias::copy(building, adapted.filter(|site| has_bias(site)))
        }
        BiasMode::All => {
            let free = |site: &&Site| has_bias(site) && !building.replaced.contains(&site.id);
            bias::copy(building, building.base.sites().iter().filter(free))
        }
    }
}

impl Factors {
    fn init(
        config: &LoraConfig,
        building: &Building<'_>,
        site: &Site,
    ) -> Result<Self, AdapterError> {
        let SiteKind::Linear { d_in, d_out, .. } = site.kind else {
            unreachable!("only linear sites are selected")
        };
        let (rank, scale) = config.rank_and_scale(building, site, [d_in, d_out])?;
        let Some(Layer::Linear(linear)) = building.base.layer_at(site.id) else {
            return Err(AdapterError::Missing {
                name: format!("{}.weight", site.path),
            });
        };
        let weight = || linear.weight.dense();
        let first = config.init_lora_weights.factors(
            weight,
            [d_in, d_out],
            rank,
            scale,
            building.random(site.id),
        );
        let device = building.device;
        let plain = device.clone().without_autodiff();
        let start = config
            .init_lora_weights
            .is_of_weight()
            .then(|| StartFactors {
                a: Tensor::from_data(first.a.clone(), &plain),
                b: Tensor::from_data(first.b.clone(), &plain),
            });
        let zeros = || TensorData::new(vec![0.0f32; d_out], [d_out]);
        Ok(Self {
            lora_a: Param::from_data(first.a, device),
            lora_b: Param::from_data(first.b, device),
            bias: config.lora_bias.then(|| Param::from_data(zeros(), device)),
            dora: config.use_dora.then(|| Magnitude::init(&weight(), device)),
            start,
            scale,
            dropout: config.lora_dropout,
        })
    }

    /// What the site computes; `y` is what it computes without the factors.
    ///
    /// # Shapes
    /// - `x`: `[batch, seq, d_in]`, `y`: `[batch, seq, d_out]` → `[batch, seq, d_out]`
    fn forward(&self, base: &Linear, x: Tensor<3>, y: Tensor<3>, pass: Pass) -> Tensor<3> {
        let [batch, seq, d_in] = x.dims();
        let rows = x.reshape([batch * seq, d_in]);
        let (rows, up) = dropped_rows(rows, self.dropout, base.site, pass);
        let dropped = up > 1.0;
        let [_, _, d_out] = y.dims();
        let whole = |rows: Tensor<2>| rows.reshape([batch, seq, d_out]);
        let side = whole(self.side(rows.clone(), up));
        let Some(dora) = &self.dora else {
            return y + side;
        };
        let (a, b) = self.plain_pair();
        let gain = dora
            .gain(&base.weight.dense(), a, b, self.scale)
            .unsqueeze::<3>();
        let plain = match (&base.bias, dropped) {
            (_, true) => whole(rows.matmul(base.weight.dense()).mul_scalar(up)),
            (Some(bias), false) => y.clone() - bias.clone().unsqueeze(),
            (None, false) => y.clone(),
        };
        y + plain * gain.clone().sub_scalar(1.0) + side * gain
    }

    /// The side path, on rows so that both factors stay plain matrices.
    ///
    /// # Shapes
    /// - `rows`: `[rows, d_in]` → `[rows, d_out]`
    fn side(&self, rows: Tensor<2>, up: f64) -> Tensor<2> {
        let (a, b) = self.pair(self.lora_a.val(), self.lora_b.val());
        let side = low_rank(rows, a, b, self.scale * up);
        match &self.bias {
            Some(bias) => side + bias.val().mul_scalar(self.scale).unsqueeze(),
            None => side,
        }
    }

    /// The factors of all that is added to the weight: the trained ones beside those of the start.
    ///
    /// # Shapes
    /// - `[d_in, rank]`, `[rank, d_out]` → the same, or with twice the rank
    fn pair(&self, a: Tensor<2>, b: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        match &self.start {
            None => (a, b),
            Some(start) => (
                Tensor::cat(vec![a, start.a.clone()], 1),
                Tensor::cat(vec![b, start.b.clone().neg()], 0),
            ),
        }
    }

    fn as_pair(&self) -> Pair {
        let (a, b) = self.plain_pair();
        Pair {
            part: "factors",
            names: ["lora_a", "lora_b"],
            a: Matrix::of(a),
            b: Matrix::of(b),
            scale: self.scale,
        }
    }

    fn plain_pair(&self) -> (Tensor<2>, Tensor<2>) {
        self.pair(frozen::plain(&self.lora_a), frozen::plain(&self.lora_b))
    }
}

/// The input of a site while training, with a share of its values dropped, and what makes up for
/// those.
pub(crate) fn dropped_rows(
    rows: Tensor<2>,
    share: f64,
    site: SiteId,
    pass: Pass,
) -> (Tensor<2>, f64) {
    match pass {
        Pass::Training { seed } if share > 0.0 => {
            let random = HostRandom::new(seed, site.index() as u64);
            (drop_out(rows, share, random), 1.0 / (1.0 - share))
        }
        _ => (rows, 1.0),
    }
}

/// Sets a share of the values to zero (Srivastava et al. 2014); scaling up the rest is left to the
/// caller. The mask is drawn on the host: every device, and every thread that works on a piece of a
/// batch, drops the same values under the same seed.
pub(crate) fn drop_out(rows: Tensor<2>, share: f64, mut random: HostRandom) -> Tensor<2> {
    let device = rows.device().without_autodiff();
    let dropped = random.chances(rows.dims(), share);
    rows.mask_fill(Tensor::<2, Bool>::from_data(dropped, &device), 0.0)
}

impl Method for Lora {
    fn name(&self) -> &'static str {
        METHOD
    }

    fn sites(&self) -> Vec<SiteId> {
        let weights = self.factors.sites().chain(self.tables.sites());
        weights.chain(self.biases.sites()).collect()
    }

    fn replaces(&self) -> Vec<SiteId> {
        bias::sites(&self.biases)
    }

    fn replace_linear(&self, base: &Linear) -> Option<Linear> {
        bias::replace_linear(&self.biases, base)
    }

    fn replace_norm(&self, base: &Norm) -> Option<Norm> {
        bias::replace_norm(&self.biases, base)
    }

    fn wraps(&self) -> Vec<SiteId> {
        self.factors.sites().collect()
    }

    fn next_to_base(&self) -> Vec<SiteId> {
        let has_lengths = |site: &SiteId| {
            let factors = self.factors.get(*site);
            factors.is_some_and(|factors| factors.dora.is_some())
        };
        self.factors.sites().filter(has_lengths).collect()
    }

    fn linear(&self, base: &Linear, x: Tensor<3>, pass: Pass, inner: Inner<'_>) -> Tensor<3> {
        match self.factors.get(base.site) {
            Some(factors) => factors.forward(base, x.clone(), inner(x), pass),
            None => inner(x),
        }
    }

    fn merge_linear(&self, inner: Linear) -> Result<Linear, AdapterError> {
        let Some(factors) = self.factors.get(inner.site) else {
            return Ok(inner);
        };
        let (a, b) = factors.plain_pair();
        let delta = a.matmul(b).mul_scalar(factors.scale);
        let bias = match (&factors.bias, inner.bias) {
            (None, bias) => bias,
            (Some(own), Some(bias)) => Some(bias + frozen::plain(own).mul_scalar(factors.scale)),
            (Some(_), None) => {
                return Err(AdapterError::NotMergeable {
                    method: METHOD,
                    reason: "lora_bias has no place in a layer without a bias",
                });
            }
        };
        let sum = inner.weight.dense() + delta;
        Ok(Linear {
            site: inner.site,
            weight: match &factors.dora {
                Some(dora) => dora.merged(sum),
                None => sum,
            }
            .into(),
            bias,
        })
    }

    fn embedding(&self, base: &Embedding, ids: &Tensor<2, Int>, y: Tensor<3>) -> Tensor<3> {
        match self.tables.get(base.site) {
            Some(table) => table.forward(ids.clone(), y),
            None => y,
        }
    }

    fn merge_embedding(&self, inner: Embedding) -> Embedding {
        match self.tables.get(inner.site) {
            Some(table) => table.merge(inner),
            None => inner,
        }
    }
}

#[cfg(test)]
mod tests;
