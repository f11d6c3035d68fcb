//! Which ranks of AdaLoRA stay: importance, budget and masks over a training (Zhang et al. 2023,
//! section 3.2 and algorithm 1).
//!
//! The sensitivity of a value is `I = |w g|`, its mean over the steps `Ī ← β₁Ī + (1-β₁)I`, the mean
//! distance from that `Ū ← β₂Ū + (1-β₂)|I - Ī|`, and its score `Ī Ū` (equations 8 to 10). A rank
//! scores its singular value's score plus the mean scores of its two vectors (equation 7). The
//! budget of ranks falls as a cubic from all to the target (equation 12).

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Tensor, TensorData};

use super::{AdaloraConfig, METHOD, Triplets};
use crate::any_method::AnyMethod;
use crate::{AdapterConfig, AdapterError, Adapters, frozen, named_tensors};

/// What is known of one parameter.
#[derive(Debug, Clone)]
struct Importance<const D: usize> {
    /// `Ī`.
    sensitivity: Tensor<D>,
    /// `Ū`.
    uncertainty: Tensor<D>,
}

impl<const D: usize> Importance<D> {
    fn of(param: &Param<Tensor<D>>) -> Self {
        let zeros = frozen::plain(param).zeros_like();
        Self {
            sensitivity: zeros.clone(),
            uncertainty: zeros,
        }
    }

    fn observe(
        &mut self,
        param: &Param<Tensor<D>>,
        gradients: &GradientsParams,
        scale: f64,
        config: &AdaloraConfig,
    ) {
        let Some(gradient) = gradients.get::<D>(param.id) else {
            return;
        };
        let now = (frozen::plain(param) * gradient.mul_scalar(scale)).abs();
        let mean = |old: &Tensor<D>, new: Tensor<D>, beta: f64| {
            old.clone().mul_scalar(beta) + new.mul_scalar(1.0 - beta)
        };
        self.sensitivity = mean(&self.sensitivity, now.clone(), config.beta1);
        let distance = (now - self.sensitivity.clone()).abs();
        self.uncertainty = mean(&self.uncertainty, distance, config.beta2);
    }

    fn score(&self) -> Tensor<D> {
        self.sensitivity.clone() * self.uncertainty.clone()
    }
}

/// What is known of one site.
#[derive(Debug, Clone)]
struct SiteImportance {
    path: String,
    a: Importance<2>,
    e: Importance<1>,
    b: Importance<2>,
}

impl SiteImportance {
    fn of(path: &str, site: &Triplets) -> Self {
        Self {
            path: path.to_owned(),
            a: Importance::of(&site.lora_a),
            e: Importance::of(&site.lora_e),
            b: Importance::of(&site.lora_b),
        }
    }

    fn observe(
        &mut self,
        site: &Triplets,
        gradients: &GradientsParams,
        scale: f64,
        config: &AdaloraConfig,
    ) {
        self.a.observe(&site.lora_a, gradients, scale, config);
        self.e.observe(&site.lora_e, gradients, scale, config);
        self.b.observe(&site.lora_b, gradients, scale, config);
    }

    /// One score a rank.
    fn scores(&self) -> Vec<f32> {
        let of_vectors = self.a.score().mean_dim(0).squeeze_dim::<1>(0)
            + self.b.score().mean_dim(1).squeeze_dim::<1>(1);
        let scores = (self.e.score() + of_vectors).into_data();
        scores.iter::<f32>().collect()
    }
}

/// The ranks of one method of a stack.
#[derive(Debug)]
struct Allocation {
    /// Place in the stack.
    position: usize,
    config: AdaloraConfig,
    total_step: usize,
    sites: Vec<SiteImportance>,
    /// The ranks that are left by site, once that is settled.
    settled: Option<Vec<Vec<bool>>>,
}

/// Chooses the ranks of the AdaLoRA methods of a stack while it trains.
///
/// An adapter that has been trained before keeps the ranks that it has.
#[derive(Debug)]
pub struct RankAllocator {
    step: usize,
    /// Of the update that comes next.
    gradients: GradientsParams,
    methods: Vec<Allocation>,
}

impl RankAllocator {
    /// For a training of a stack from its present values on; none for a stack without ranks to
    /// choose.
    ///
    /// # Errors
    /// [`AdapterError::Setting`] for a method whose `total_step` is left out.
    pub fn new(adapters: &Adapters) -> Result<Option<Self>, AdapterError> {
        let mut methods = Vec::new();
        let stack = adapters.stack().iter().zip(adapters.configs());
        for (position, (method, config)) in stack.enumerate() {
            let (AnyMethod::Adalora(method), AdapterConfig::Adalora(config)) = (method, config)
            else {
                continue;
            };
            let total_step = config.total_step.ok_or(AdapterError::Setting {
                method: METHOD,
                key: "total_step",
                expected: "the steps of the training",
                found: "left out".to_owned(),
            })?;
            let triplets = method.triplets();
            let kept = |site: &Triplets| -> Vec<bool> {
                let values = named_tensors::read(frozen::plain(&site.lora_e));
                values.iter::<f32>().map(|value| value != 0.0).collect()
            };
            let left: Vec<Vec<bool>> = triplets.iter().map(|(_, site)| kept(site)).collect();
            let is_trained = left.iter().flatten().any(|kept| *kept);
            methods.push(Allocation {
                position,
                config: config.clone(),
                total_step,
                sites: triplets
                    .iter()
                    .map(|(path, site)| SiteImportance::of(path, site))
                    .collect(),
                settled: is_trained.then_some(left),
            });
        }
        Ok((!methods.is_empty()).then(|| Self {
            step: 0,
            gradients: GradientsParams::new(),
            methods,
        }))
    }

    /// To be called before every update with the gradients that will make it.
    pub fn observe(&mut self, adapters: &Adapters, gradients: &GradientsParams) {
        self.gradients = GradientsParams::new();
        let mut keep = Keep {
            from: gradients,
            to: &mut self.gradients,
        };
        for method in &self.methods {
            adapters.stack()[method.position].visit(&mut keep);
        }
    }

    /// To be called after every update, which made the gradients `scale` times as large: the adapters
    /// without the ranks that have to go.
    #[must_use]
    pub fn allocate(&mut self, adapters: Adapters, scale: f64) -> Adapters {
        let step = self.step;
        self.step += 1;
        let gradients = std::mem::take(&mut self.gradients);
        self.methods.iter_mut().fold(adapters, |adapters, method| {
            match method.step(&adapters, step, &gradients, scale) {
                Some(kept) => adapters.with_ranks(method.position, &kept),
                None => adapters,
            }
        })
    }

    /// Everything that a training which goes on elsewhere needs.
    pub fn state_tensors(&self) -> BTreeMap<String, TensorData> {
        let vector = |values: Vec<f32>| {
            let n = values.len();
            TensorData::new(values, [n])
        };
        let mut tensors = BTreeMap::from([("step".to_owned(), vector(vec![self.step as f32]))]);
        for method in &self.methods {
            for (index, site) in method.sites.iter().enumerate() {
                let stem = format!("{}.{}", method.position, site.path);
                for (name, [sensitivity, uncertainty]) in [
                    ("a", site.a.state()),
                    ("e", site.e.state()),
                    ("b", site.b.state()),
                ] {
                    tensors.insert(format!("{stem}.{name}.sensitivity"), sensitivity);
                    tensors.insert(format!("{stem}.{name}.uncertainty"), uncertainty);
                }
                if let Some(settled) = &method.settled {
                    let kept = settled[index].iter().map(|kept| f32::from(u8::from(*kept)));
                    tensors.insert(format!("{stem}.kept"), vector(kept.collect()));
                }
            }
        }
        tensors
    }

    /// Takes over a state that [`Self::state_tensors`] gave for the same stack.
    ///
    /// # Errors
    /// [`AdapterError::Missing`], [`AdapterError::Shape`] or [`AdapterError::NotFinite`].
    pub fn load_state_tensors(
        &mut self,
        tensors: &BTreeMap<String, TensorData>,
    ) -> Result<(), AdapterError> {
        let get = |name: &str| {
            tensors.get(name).ok_or_else(|| AdapterError::Missing {
                name: name.to_owned(),
            })
        };
        let step = get("step")?.iter::<f32>().next().unwrap_or(0.0);
        for method in &mut self.methods {
            let mut settled = Vec::new();
            for site in &mut method.sites {
                let stem = format!("{}.{}", method.position, site.path);
                site.a.load(&format!("{stem}.a"), get)?;
                site.e.load(&format!("{stem}.e"), get)?;
                site.b.load(&format!("{stem}.b"), get)?;
                if let Some(kept) = tensors.get(&format!("{stem}.kept")) {
                    settled.push(kept.iter::<f32>().map(|kept| kept != 0.0).collect());
                }
            }
            method.settled = (!settled.is_empty()).then_some(settled);
        }
        self.step = step as usize;
        Ok(())
    }
}

/// Copies the gradients of the parameters that it visits.
struct Keep<'g> {
    from: &'g GradientsParams,
    to: &'g mut GradientsParams,
}

impl ModuleVisitor for Keep<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.from.get::<D>(param.id) {
            self.to.register(param.id, gradient);
        }
    }
}

impl<const D: usize> Importance<D> {
    fn state(&self) -> [TensorData; 2] {
        [&self.sensitivity, &self.uncertainty].map(|tensor| named_tensors::read(tensor.clone()))
    }

    fn load<'t>(
        &mut self,
        stem: &str,
        get: impl Fn(&str) -> Result<&'t TensorData, AdapterError>,
    ) -> Result<(), AdapterError> {
        for (name, tensor) in [
            ("sensitivity", &mut self.sensitivity),
            ("uncertainty", &mut self.uncertainty),
        ] {
            let name = format!("{stem}.{name}");
            let data = named_tensors::checked(&name, get(&name)?, &tensor.dims())?;
            *tensor = Tensor::from_data(data, &tensor.device());
        }
        Ok(())
    }
}

impl Allocation {
    /// The ranks that stay after a step, when some have to go.
    fn step(
        &mut self,
        adapters: &Adapters,
        step: usize,
        gradients: &GradientsParams,
        scale: f64,
    ) -> Option<Vec<Vec<bool>>> {
        if let Some(settled) = &self.settled {
            return Some(settled.clone());
        }
        let last = self.total_step - self.config.tfinal;
        let AnyMethod::Adalora(method) = &adapters.stack()[self.position] else {
            unreachable!("the stack that the allocator was made for")
        };
        if step < last {
            for (known, (_, site)) in self.sites.iter_mut().zip(method.triplets().iter()) {
                known.observe(site, gradients, scale, &self.config);
            }
        }
        if step <= self.config.tinit || step < last && !step.is_multiple_of(self.config.delta_t) {
            return None;
        }
        let scores: Vec<Vec<f32>> = self.sites.iter().map(SiteImportance::scores).collect();
        let kept = best(&scores, self.budget(step));
        if step >= last {
            self.settled = Some(kept.clone());
        }
        Some(kept)
    }

    /// How many ranks all sites may have together at a step.
    fn budget(&self, step: usize) -> usize {
        let (tinit, last) = (self.config.tinit, self.total_step - self.config.tfinal);
        let n_sites = self.sites.len();
        let (first, target) = (self.config.init_r * n_sites, self.config.target_r * n_sites);
        let left = 1.0 - (step.min(last) - tinit) as f64 / (last - tinit) as f64;
        ((first - target) as f64 * left.powi(3) + target as f64) as usize
    }
}

/// The ranks whose scores are above that of the best one that has to go.
fn best(scores: &[Vec<f32>], budget: usize) -> Vec<Vec<bool>> {
    let mut all: Vec<f32> = scores.iter().flatten().copied().collect();
    all.sort_by(f32::total_cmp);
    let n_gone = all.len().saturating_sub(budget);
    let bound = n_gone.checked_sub(1).map(|place| all[place]);
    let keep = |scores: &Vec<f32>| -> Vec<bool> {
        scores
            .iter()
            .map(|score| bound.is_none_or(|bound| *score > bound))
            .collect()
    };
    scores.iter().map(keep).collect()
}

impl Adapters {
    /// The stack with zero in place of the singular values of all ranks but `kept`, by site.
    fn with_ranks(self, position: usize, kept: &[Vec<bool>]) -> Self {
        self.change(position, |method| {
            let AnyMethod::Adalora(method) = method else {
                return method;
            };
            let mut kept = kept.iter();
            let triplets = method.triplets.map_each(|_, site| {
                let kept = kept.next().into_iter().flatten();
                let gone: Vec<bool> = kept.map(|kept| !kept).collect();
                let n = gone.len();
                let lora_e = site.lora_e.map(|values| {
                    let device = values.device().without_autodiff();
                    let gone = Tensor::from_data(TensorData::new(gone, [n]), &device);
                    let plain = values.clone().without_autodiff().mask_fill(gone, 0.0);
                    match values.is_autodiff() {
                        true => plain.autodiff().require_grad(),
                        false => plain,
                    }
                });
                Triplets { lora_e, ..site }
            });
            AnyMethod::Adalora(super::Adalora { triplets, ..method })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::best;

    #[test]
    fn the_best_ranks_stay_whatever_their_site() {
        let scores = [vec![0.5, 0.1, 0.9], vec![0.2, 0.8, 0.05]];
        let kept = best(&scores, 3);
        assert_eq!(kept, [[true, false, true], [false, true, false]]);
        assert!(best(&scores, 6).iter().flatten().all(|kept| *kept));
        // What ties with one that has to go goes too, as in PEFT.
        let tied = [vec![0.0, 0.0], vec![0.0, 1.0]];
        assert_eq!(best(&tied, 3), [[false, false], [false, true]]);
    }
}
