//! What sites see, for LoRAs that start at it (see `eva`).

use std::cell::RefCell;
use std::collections::BTreeMap;

use burn::tensor::{Device, Int, Tensor, TensorData};
use hybrid_models::{Base, Hooks, Linear, Site, SiteId, SiteKind};

use super::config::wrong;
use super::{EvaConfig, LoraConfig};
use crate::any_method::AnyMethod;
use crate::decomposition::Matrix;
use crate::principal::Principal;
use crate::{AdapterConfig, AdapterError, Adapters};

/// What the sites of a stack's LoRAs see, before those start at it
/// (`init_lora_weights = "eva"`).
///
/// ```no_run
/// # use hybrid_adapters::{AdapterConfig, AdapterError, Adapters, ExplainedVariance};
/// # use hybrid_models::{EncoderBatch, Model};
/// # fn start(model: &Model, batches: &[EncoderBatch], configs: &[AdapterConfig])
/// #     -> Result<Adapters, AdapterError> {
/// let device = batches[0].input_ids.device();
/// let mut seen = ExplainedVariance::new(configs, model, 42, &device)?;
/// for batch in batches {
///     model.encoder.forward(batch, &seen.of_tokens(&batch.attention_mask, None));
///     if seen.update() {
///         break;
///     }
/// }
/// seen.init(model)
/// # }
/// ```
#[derive(Debug)]
pub struct ExplainedVariance {
    /// With the ranks that the settings name.
    stack: Adapters,
    seed: u64,
    device: Device,
    loras: Vec<Observed>,
}

/// One LoRA that starts by explained variance.
#[derive(Debug)]
struct Observed {
    /// Its place in the stack.
    position: usize,
    eva: EvaConfig,
    sites: Vec<ObservedSite>,
    /// Of the inputs that sites see; none before the first batch.
    inputs: Vec<Principal>,
    /// What is shown until the next update, by site: rows one after the other.
    shown: RefCell<BTreeMap<SiteId, Vec<f64>>>,
}

#[derive(Debug)]
struct ObservedSite {
    id: SiteId,
    path: String,
    d_in: usize,
    /// The rank as the settings name it.
    own: usize,
    /// The smaller side of the weight.
    side: usize,
    /// The largest rank that it may get.
    most: usize,
    /// Which of the inputs it sees.
    input: usize,
    /// The rank as all batches so far have it.
    rank: usize,
}

impl ExplainedVariance {
    /// The sites of all LoRAs of a stack that start so and wait for inputs, of which nothing was seen
    /// yet.
    ///
    /// # Errors
    /// As [`Adapters::init`].
    pub fn new(
        configs: &[AdapterConfig],
        base: &dyn Base,
        seed: u64,
        device: &Device,
    ) -> Result<Self, AdapterError> {
        let stack = Adapters::init(&with_ranks(configs, &BTreeMap::new()), base, seed, device)?;
        let mut loras = Vec::new();
        let methods = configs.iter().zip(stack.stack()).enumerate();
        for (position, pair) in methods {
            if let (AdapterConfig::Lora(config), AnyMethod::Lora(lora)) = pair
                && config.waits_for_inputs()
            {
                let sites = lora.factors().sites().map(|id| base.sites().get(id));
                loras.push(Observed::new(position, config, sites)?);
            }
        }
        Ok(Self {
            stack,
            seed,
            device: device.clone(),
            loras,
        })
    }

    /// Whether no LoRA of the stack waits for inputs.
    pub fn is_empty(&self) -> bool {
        self.loras.is_empty()
    }

    /// The stack as it would start without data: every site has the rank that the settings name.
    pub fn without_data(&self) -> &Adapters {
        &self.stack
    }

    /// The hooks of a forward of the base, which they leave as it is, over rows with these tokens.
    /// `wanted` tells those among them that a language model is to write. Sites that see other
    /// positions than tokens are seen whole.
    ///
    /// # Shapes
    /// - `tokens`, 1 for tokens and 0 for padding: `[batch, seq]`, `wanted`: the same
    pub fn of_tokens(
        &self,
        tokens: &Tensor<2, Int>,
        wanted: Option<&Tensor<2, Int>>,
    ) -> impl Hooks + '_ {
        let host = |mask: &Tensor<2, Int>| {
            let mask = mask.clone().into_data();
            mask.iter::<i64>()
                .map(|seen| seen != 0)
                .collect::<Vec<bool>>()
        };
        let all = host(tokens);
        let both = |wanted: &Tensor<2, Int>| {
            let pairs = host(wanted).into_iter().zip(&all);
            pairs.map(|(wanted, token)| wanted && *token).collect()
        };
        Showing {
            loras: &self.loras,
            shape: tokens.dims(),
            wanted: wanted.map_or_else(|| all.clone(), both),
            all,
        }
    }

    /// Takes in what was shown since the last call. Whether all vectors that are to be used have
    /// settled, so that more rows would change little.
    pub fn update(&mut self) -> bool {
        let mut settled = true;
        for lora in &mut self.loras {
            settled &= lora.update();
        }
        settled
    }

    /// The stack with its first values: `A` of the LoRAs at the vectors, of the ranks that
    /// [`EvaConfig::ranks`] then names, all else as [`Adapters::init`] has it. Sites that no forward
    /// reached get no rank.
    ///
    /// # Errors
    /// [`AdapterError::Setting`] for a site that saw fewer rows than it may have ranks; else as
    /// [`Adapters::init`].
    pub fn init(self, base: &dyn Base) -> Result<Adapters, AdapterError> {
        if self.is_empty() {
            return Ok(self.stack);
        }
        let (mut ranks, mut first) = (BTreeMap::new(), BTreeMap::new());
        for lora in &self.loras {
            let any = lora.sites.iter().any(|site| lora.was_reached(site));
            let used = |site: &&ObservedSite| !any || lora.was_reached(site);
            for site in lora.sites.iter().filter(used) {
                let (position, path) = (lora.position, &site.path);
                let a = lora.first(site)?;
                if site.rank > 0 {
                    first.insert(format!("stack.{position}.Lora.factors.{path}.lora_a"), a);
                }
            }
            let by_path = lora.sites.iter().map(|site| (site.path.clone(), site.rank));
            ranks.insert(lora.position, by_path.collect());
        }
        let configs = with_ranks(self.stack.configs(), &ranks);
        let adapters = Adapters::init(&configs, base, self.seed, &self.device)?;
        let mut tensors: BTreeMap<_, _> = adapters.named_tensors().into_iter().collect();
        tensors.extend(first);
        adapters.load_named_tensors(&tensors)
    }
}

/// The stack with the ranks that were chosen, by place and path. What waits for inputs and has none
/// here gets no other ranks than its own.
fn with_ranks(
    configs: &[AdapterConfig],
    ranks: &BTreeMap<usize, BTreeMap<String, usize>>,
) -> Vec<AdapterConfig> {
    let mut configs = configs.to_vec();
    for (position, config) in configs.iter_mut().enumerate() {
        let chosen = ranks.get(&position);
        if let AdapterConfig::Lora(lora) = config
            && (chosen.is_some() || lora.waits_for_inputs())
        {
            let eva = lora.eva_config.get_or_insert_default();
            eva.ranks = Some(chosen.cloned().unwrap_or_default());
        }
    }
    configs
}

impl Observed {
    fn new<'s>(
        position: usize,
        config: &LoraConfig,
        sites: impl Iterator<Item = &'s Site>,
    ) -> Result<Self, AdapterError> {
        let eva = config.eva_config.clone().unwrap_or_default();
        let mut observed = Vec::new();
        for site in sites {
            let SiteKind::Linear { d_in, d_out, .. } = site.kind else {
                unreachable!("factors are at linear sites")
            };
            let (own, _) = config.rank_and_alpha("", &site.path)?;
            observed.push(ObservedSite {
                id: site.id,
                path: site.path.clone(),
                d_in,
                own,
                side: d_in.min(d_out),
                most: (own as f64 * eva.rho).round_ties_even() as usize,
                input: 0,
                rank: own,
            });
        }
        Ok(Self {
            position,
            eva,
            sites: observed,
            inputs: Vec::new(),
            shown: RefCell::default(),
        })
    }

    /// Whether rows of this site are still of use: sites with the same input are seen once.
    fn wants(&self, id: SiteId) -> bool {
        let first_of_its_input = |(place, site): (usize, &ObservedSite)| {
            let mut before = self.sites[..place].iter();
            site.id == id && !before.any(|other| other.input == site.input)
        };
        match self.inputs.is_empty() {
            true => self.sites.iter().any(|site| site.id == id),
            false => self.sites.iter().enumerate().any(first_of_its_input),
        }
    }

    /// As [`ExplainedVariance::update`].
    fn update(&mut self) -> bool {
        let mut shown = self.shown.take();
        if self.inputs.is_empty() {
            if shown.is_empty() {
                return false;
            }
            self.tell_inputs_apart(&shown);
        }
        for index in 0..self.inputs.len() {
            let rank = self.largest_rank(index);
            let principal = &mut self.inputs[index];
            let site = self.sites.iter().find(|site| site.input == index);
            if let Some(site) = site
                && let Some(values) = shown.remove(&site.id)
                && (principal.shares().is_none() || !principal.has_settled(rank))
            {
                let n_rows = values.len() / site.d_in;
                let rows = Matrix::new(n_rows, site.d_in, values);
                principal.take(&rows, self.eva.tau);
            }
        }
        self.distribute();
        let settled = |index| {
            let principal: &Principal = &self.inputs[index];
            principal.is_empty()
                || principal.shares().is_some() && principal.has_settled(self.largest_rank(index))
        };
        (0..self.inputs.len()).all(settled)
    }

    /// The largest rank of the sites that see an input.
    fn largest_rank(&self, input: usize) -> usize {
        let sites = self.sites.iter().filter(|site| site.input == input);
        sites.map(|site| site.rank).max().unwrap_or(0)
    }

    /// Sites that saw the same rows share an input and the largest of their numbers of candidates.
    fn tell_inputs_apart(&mut self, shown: &BTreeMap<SiteId, Vec<f64>>) {
        let mut first: Vec<SiteId> = Vec::new();
        for site in &mut self.sites {
            let rows = shown.get(&site.id);
            let same = |other: &SiteId| rows.is_some() && shown.get(other) == rows;
            let known = first.iter().position(same);
            site.input = known.unwrap_or(first.len());
            if known.is_none() {
                first.push(site.id);
            }
        }
        for input in 0..first.len() {
            let same = || self.sites.iter().filter(|site| site.input == input);
            let most = same().map(|site| site.most).max().unwrap_or(0);
            let side = same().map(|site| site.side).max().unwrap_or(0);
            self.inputs.push(Principal::new(most.min(side)));
            let same = self.sites.iter_mut().filter(|site| site.input == input);
            same.for_each(|site| site.most = most.min(site.side));
        }
    }

    /// Whether rows came by a site; those that a forward does not reach get no rank.
    fn was_reached(&self, site: &ObservedSite) -> bool {
        let input = self.inputs.get(site.input);
        input.is_some_and(|input| !input.is_empty())
    }

    /// Hands the ranks of the sites that are reached out, when all of those have vectors.
    fn distribute(&mut self) {
        let reached = |site: &&ObservedSite| self.was_reached(site);
        let budget: usize = self.sites.iter().filter(reached).map(|site| site.own).sum();
        let mut candidates: Vec<(f64, usize)> = Vec::new();
        let sites = self.sites.iter().enumerate();
        for (place, site) in sites.filter(|(_, site)| reached(site)) {
            let Some(shares) = self.inputs[site.input].shares() else {
                return;
            };
            let shares = shares.into_iter().take(site.most);
            candidates.extend(shares.map(|share| (share, place)));
        }
        // Stable: of equal shares the site that the forward reaches first has the first.
        candidates.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        self.sites.iter_mut().for_each(|site| site.rank = 0);
        for (_, place) in candidates.into_iter().take(budget) {
            self.sites[place].rank += 1;
        }
    }

    /// The first `A` of a site, `[d_in, rank]`.
    fn first(&self, site: &ObservedSite) -> Result<TensorData, AdapterError> {
        let input = self.inputs.get(site.input);
        let Some(rows) = input.and_then(|input| input.first(site.rank, self.eva.whiten)) else {
            let n = input.map_or(0, |input| input.n_rows(site.d_in));
            return wrong(
                "init_lora_weights",
                "another start, or more batches: \"eva\" needs as many tokens at a site as the \
                 site has candidates",
                format!("\"eva\" with {n} tokens for {} at {}", site.most, site.path),
            );
        };
        let columns = rows.transposed();
        let values: Vec<f32> = columns.values.iter().map(|value| *value as f32).collect();
        Ok(TensorData::new(values, [site.d_in, site.rank]))
    }
}

/// The base as it is, while LoRAs see what enters their sites.
struct Showing<'e> {
    loras: &'e [Observed],
    /// `[batch, seq]`.
    shape: [usize; 2],
    all: Vec<bool>,
    wanted: Vec<bool>,
}

impl Hooks for Showing<'_> {
    fn linear(&self, base: &Linear, x: Tensor<3>) -> Tensor<3> {
        let [batch, seq, d_in] = x.dims();
        for lora in self.loras.iter().filter(|lora| lora.wants(base.site)) {
            let mask = match lora.eva.use_label_mask {
                true => &self.wanted,
                false => &self.all,
            };
            let values: Vec<f64> = x.clone().into_data().iter::<f64>().collect();
            let of_tokens = [batch, seq] == self.shape;
            let rows = values.chunks(d_in).enumerate();
            let seen = rows.filter(|(place, _)| !of_tokens || mask[*place]);
            let mut shown = lora.shown.borrow_mut();
            let shown = shown.entry(base.site).or_default();
            seen.for_each(|(_, row)| shown.extend_from_slice(row));
        }
        base.forward(x)
    }
}
