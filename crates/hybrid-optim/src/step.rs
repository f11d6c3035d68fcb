//! Gradients to updates: accumulate, clip, move the parameters.

use std::marker::PhantomData;

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

use crate::groups::Groups;
use crate::slots::Slots;
use crate::{GroupConfig, OptimError, OptimizerConfig, ScheduleConfig};

/// Added to the norm before dividing by it, as `torch.nn.utils.clip_grad_norm_` does.
const CLIP_EPSILON: f64 = 1e-6;

/// What one update did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Updates so far, this one included.
    pub step: usize,
    /// Rate of this update, before the factors of the groups.
    pub learning_rate: f64,
    /// L2 norm of the gradient over all parameters, before clipping.
    pub grad_norm: f64,
    /// The same after clipping.
    pub grad_norm_clipped: f64,
}

/// Updates the parameters of a module from the gradients of one or more pieces of a batch.
///
/// The loss of each piece is to be divided by the number of targets in the *whole* batch; the sum
/// of the gradients then is that of the batch in one piece.
///
/// The optimizer's state is kept by the parameter's path, so it can be stored and loaded into
/// another process on another device: see [`Self::state_tensors`].
pub struct Updater<M> {
    pub(crate) groups: Groups,
    pub(crate) slots: Slots,
    pub(crate) steps: usize,
    pub(crate) accumulated: GradientsParams,
    pub(crate) foreign: usize,
    base_lr: f64,
    schedule: ScheduleConfig,
    max_grad_norm: Option<f64>,
    total_steps: usize,
    module: PhantomData<fn(M) -> M>,
}

impl<M: Module> Updater<M> {
    /// An updater for the parameters of `module` over a training of `total_steps` updates.
    /// `max_grad_norm` bounds the gradient's L2 norm over all parameters together.
    ///
    /// # Errors
    /// [`OptimError::InvalidSetting`], [`OptimError::GroupPattern`], [`OptimError::EmptyGroup`].
    pub fn new(
        optimizer: OptimizerConfig,
        groups: &[GroupConfig],
        schedule: ScheduleConfig,
        max_grad_norm: Option<f64>,
        total_steps: usize,
        module: &M,
    ) -> Result<Self, OptimError> {
        optimizer.validate()?;
        schedule.validate()?;
        if let Some(bound) = max_grad_norm.filter(|bound| !bound.is_finite() || *bound <= 0.0) {
            let expected = "a finite number above 0";
            return Err(OptimError::InvalidSetting {
                key: "max_grad_norm",
                expected,
                found: bound.to_string(),
            });
        }
        let groups = Groups::new(&optimizer, groups)?;
        let slots = Slots::of(module, &groups);
        groups.check_all_used(
            &slots
                .iter()
                .map(|slot| slot.path.as_str())
                .collect::<Vec<_>>(),
        )?;
        Ok(Self {
            groups,
            slots,
            steps: 0,
            accumulated: GradientsParams::new(),
            foreign: 0,
            base_lr: optimizer.learning_rate(),
            schedule,
            max_grad_norm,
            total_steps,
            module: PhantomData,
        })
    }

    /// Adds the gradients of one piece of the batch to those of the pieces before.
    pub fn accumulate(&mut self, mut gradients: GradientsParams) {
        self.slots.add(&mut self.accumulated, &mut gradients);
        self.foreign += gradients.len();
    }

    /// The gradients that the next [`Self::step`] will use.
    pub fn accumulated(&self) -> &GradientsParams {
        &self.accumulated
    }

    /// Moves the parameters by the accumulated gradients, which are used up, also by an error.
    /// Parameters without a gradient stay as they are.
    ///
    /// # Errors
    /// [`OptimError::NoGradients`], [`OptimError::ForeignGradients`],
    /// [`OptimError::NonFiniteGradient`], [`OptimError::Device`]. The optimizer's state is then as
    /// it was before the call, except after `ForeignGradients`.
    pub fn step(&mut self, module: M) -> Result<(M, StepReport), OptimError> {
        let mut gradients = std::mem::take(&mut self.accumulated);
        let foreign = std::mem::take(&mut self.foreign);
        let step = self.steps + 1;
        if foreign > 0 {
            return Err(OptimError::ForeignGradients {
                step,
                found: foreign,
            });
        }
        if gradients.is_empty() {
            return Err(OptimError::NoGradients { step });
        }
        let grad_norm = self.slots.norm(&gradients)?;
        if !grad_norm.is_finite() {
            return Err(OptimError::NonFiniteGradient {
                step,
                norm: grad_norm,
            });
        }
        let scale = self
            .max_grad_norm
            .map_or(1.0, |bound| (bound / (grad_norm + CLIP_EPSILON)).min(1.0));
        let learning_rate = self
            .schedule
            .rate(self.base_lr, self.steps, self.total_steps);
        let (groups, slots) = (&self.groups, &mut self.slots);
        let module = module.map(&mut Move {
            groups,
            slots,
            gradients: &mut gradients,
            scale,
            learning_rate,
        });
        if !gradients.is_empty() {
            return Err(OptimError::ForeignGradients {
                step,
                found: gradients.len(),
            });
        }
        self.steps = step;
        Ok((
            module,
            StepReport {
                step,
                learning_rate,
                grad_norm,
                grad_norm_clipped: grad_norm * scale,
            },
        ))
    }
}

/// Moves each parameter by its gradient.
struct Move<'u> {
    groups: &'u Groups,
    slots: &'u mut Slots,
    gradients: &'u mut GradientsParams,
    /// Factor on the gradients.
    scale: f64,
    learning_rate: f64,
}

impl ModuleMapper for Move<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(slot) = self.slots.get_mut(param.id) else {
            return param;
        };
        let Some(gradient) = self.gradients.remove::<D>(param.id) else {
            return param;
        };
        let gradient = if self.scale < 1.0 {
            gradient.mul_scalar(self.scale)
        } else {
            gradient
        };
        let group = self.groups.get(slot.group);
        let (id, value, mapper) = param.consume();
        let checkpointing = value.gradient_checkpointing_strategy();
        let (moved, state) = group.optimizer.step_dyn(
            D,
            self.learning_rate * group.lr_scale,
            value.without_autodiff().into_bridge(),
            gradient.into_bridge(),
            slot.state.take(),
        );
        slot.state = state;
        // A leaf of its own: the graph of the last step ends here.
        let mut leaf = Tensor::<D>::from_bridge(moved).autodiff();
        if let Some(strategy) = checkpointing {
            leaf = leaf.with_gradient_checkpointing_strategy(strategy);
        }
        Param::from_mapped_value(id, leaf.require_grad(), mapper)
    }
}

#[cfg(test)]
mod tests {
    use super::Updater;
    use crate::toy::{ROWS, Toy, difference};
    use crate::{GroupConfig, OptimError, OptimizerConfig, ScheduleConfig, ScheduleKind};

    fn sgd(lr: f64) -> OptimizerConfig {
        OptimizerConfig::Sgd {
            lr,
            momentum: 0.0,
            weight_decay: 0.0,
        }
    }

    fn adamw(lr: f64) -> OptimizerConfig {
        OptimizerConfig::Adamw {
            lr,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.1,
        }
    }

    fn updater(optimizer: OptimizerConfig, max_grad_norm: Option<f64>, toy: &Toy) -> Updater<Toy> {
        Updater::new(
            optimizer,
            &[],
            ScheduleConfig::default(),
            max_grad_norm,
            10,
            toy,
        )
        .unwrap()
    }

    /// The gradient, as the difference that plain SGD of rate 1 makes.
    fn gradient(toy: &Toy) -> Vec<f32> {
        let before = toy.values();
        let (after, _) = toy.clone().updated(&mut updater(sgd(1.0), None, toy));
        let after = after.values();
        before
            .values()
            .flatten()
            .zip(after.values().flatten())
            .map(|(before, after)| before - after)
            .collect()
    }

    #[test]
    fn plain_sgd_is_theta_minus_rate_times_gradient() {
        let toy = Toy::new();
        let mut step = 1e-3f32;
        let slope: f32 = gradient(&toy).iter().map(|g| g * g).sum();
        let loss = |toy: &Toy| toy.loss(0..ROWS).into_scalar::<f32>();
        let (after, _) = toy
            .clone()
            .updated(&mut updater(sgd(f64::from(step)), None, &toy));
        // The loss falls by rate times squared norm, to first order.
        step *= slope;
        assert!(
            ((loss(&toy) - loss(&after)) / step - 1.0).abs() < 0.01,
            "{}",
            (loss(&toy) - loss(&after)) / step
        );
    }

    #[test]
    fn pieces_of_a_batch_add_up_to_the_batch() {
        for optimizer in [sgd(0.5), adamw(0.05)] {
            let (mut whole, mut pieces) = (Toy::new(), Toy::new());
            let mut of_whole = updater(optimizer.clone(), Some(0.1), &whole);
            let mut of_pieces = updater(optimizer, Some(0.1), &pieces);
            for _ in 0..5 {
                for rows in [0..1, 1..4, 4..ROWS] {
                    of_pieces.accumulate(pieces.gradients(rows));
                }
                let (report, norm);
                (pieces, report) = of_pieces.step(pieces).unwrap();
                (whole, norm) = whole.updated(&mut of_whole);
                assert!((report.grad_norm - norm.grad_norm).abs() < 1e-6);
                assert!(difference(&whole.values(), &pieces.values()) < 1e-5);
            }
            assert!(difference(&whole.values(), &Toy::new().values()) > 0.01);
        }
    }

    #[test]
    fn the_norm_is_over_all_parameters_and_is_bounded() {
        let toy = Toy::new();
        let gradient = gradient(&toy);
        let norm = gradient
            .iter()
            .map(|g| f64::from(g * g))
            .sum::<f64>()
            .sqrt();
        let bound = norm / 4.0;
        let (after, report) = toy
            .clone()
            .updated(&mut updater(sgd(1.0), Some(bound), &toy));
        assert!((report.grad_norm - norm).abs() < 1e-5, "{report:?}");
        assert!(
            (report.grad_norm_clipped - bound).abs() < 1e-5,
            "{report:?}"
        );
        let (before, after) = (toy.values(), after.values());
        let moved = before.values().flatten().zip(after.values().flatten());
        for ((before, after), gradient) in moved.zip(gradient) {
            assert!((before - after - gradient / 4.0).abs() < 1e-5);
        }
        let (_, report) = toy
            .clone()
            .updated(&mut updater(sgd(1.0), Some(norm * 2.0), &toy));
        assert_eq!(report.grad_norm, report.grad_norm_clipped);
    }

    #[test]
    fn at_rate_zero_only_the_moments_move() {
        let schedule = ScheduleConfig {
            kind: ScheduleKind::Linear,
            warmup_steps: Some(1),
            warmup_ratio: None,
        };
        let toy = Toy::new();
        let mut updater = Updater::new(adamw(0.1), &[], schedule, None, 4, &toy).unwrap();
        let (toy, report) = toy.updated(&mut updater);
        assert_eq!((report.step, report.learning_rate), (1, 0.0));
        assert_eq!(toy.values(), Toy::new().values());
        let moments = updater.state_tensors();
        assert!(
            moments["moments/body.weight.momentum.moment_1"]
                .iter::<f32>()
                .any(|value| value != 0.0)
        );
        let (toy, report) = toy.updated(&mut updater);
        assert_eq!((report.step, report.learning_rate), (2, 0.1));
        assert!(difference(&toy.values(), &Toy::new().values()) > 0.01);
    }

    #[test]
    fn a_group_has_its_own_rate_and_decay() {
        let group = |pattern: &str, lr_scale, weight_decay| GroupConfig {
            pattern: pattern.to_owned(),
            lr_scale,
            weight_decay,
        };
        let toy = Toy::new();
        let groups = [
            group(r"^body\.weight$", 0.0, None),
            group("^head", 1.0, Some(0.0)),
        ];
        let mut grouped = Updater::new(
            adamw(0.1),
            &groups,
            ScheduleConfig::default(),
            None,
            4,
            &toy,
        )
        .unwrap();
        let (grouped, _) = toy.clone().updated(&mut grouped);
        let (plain, _) = toy.clone().updated(&mut updater(adamw(0.1), None, &toy));
        let (grouped, plain, before) = (grouped.values(), plain.values(), toy.values());
        assert_eq!(grouped["body.weight"], before["body.weight"]);
        assert_eq!(grouped["body.bias"], plain["body.bias"]);
        for ((grouped, plain), before) in grouped["head.weight"]
            .iter()
            .zip(&plain["head.weight"])
            .zip(&before["head.weight"])
        {
            assert!((grouped - plain - 0.1 * 0.1 * before).abs() < 1e-6);
        }
    }

    #[test]
    fn a_diverged_loss_is_an_error_that_leaves_the_state_alone() {
        let toy = Toy::new();
        let mut updater = updater(adamw(0.1), Some(1.0), &toy);
        let before = updater.state_tensors();
        let loss = toy.loss(0..ROWS) * f32::INFINITY;
        updater.accumulate(burn::optim::GradientsParams::from_grads(
            loss.backward(),
            &toy,
        ));
        assert!(matches!(
            updater.step(toy.clone()),
            Err(OptimError::NonFiniteGradient { step: 1, .. })
        ));
        assert_eq!(updater.state_tensors(), before);
        let (_, report) = toy.updated(&mut updater);
        assert_eq!(report.step, 1);
    }

    #[test]
    fn gradients_of_another_module_are_refused() {
        let (toy, other) = (Toy::new(), Toy::new());
        let mut updater = updater(sgd(0.1), None, &toy);
        assert!(matches!(
            updater.step(toy.clone()),
            Err(OptimError::NoGradients { step: 1 })
        ));
        updater.accumulate(other.gradients(0..ROWS));
        assert!(matches!(
            updater.step(toy.clone()),
            Err(OptimError::ForeignGradients { found: 4, .. })
        ));
        updater.accumulate(toy.gradients(0..ROWS));
        assert!(matches!(
            updater.step(other),
            Err(OptimError::ForeignGradients { found: 4, .. })
        ));
    }

    #[test]
    fn a_bound_of_zero_is_refused() {
        let toy = Toy::new();
        for bound in [0.0, -1.0, f64::NAN] {
            let made = Updater::new(
                sgd(0.1),
                &[],
                ScheduleConfig::default(),
                Some(bound),
                1,
                &toy,
            );
            assert!(matches!(
                made,
                Err(OptimError::InvalidSetting {
                    key: "max_grad_norm",
                    ..
                })
            ));
        }
    }
}
