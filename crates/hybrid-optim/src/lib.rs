//! Losses to updates: objectives, parameter groups, schedules, accumulation and clipping.
//!
//! An [`Updater`] moves the parameters of one module. Each update takes the gradients of one batch,
//! in as many pieces as memory asks for:
//!
//! ```
//! use burn::nn::{Linear, LinearConfig};
//! use burn::optim::GradientsParams;
//! use burn::tensor::{Device, Int, Tensor, TensorData};
//! use hybrid_optim::{OptimizerConfig, ScheduleConfig, Updater, cross_entropy_sum};
//!
//! # fn main() -> Result<(), hybrid_optim::OptimError> {
//! let device = Device::flex();
//! let mut module: Linear = LinearConfig::new(2, 3).init(&device.clone().autodiff());
//! let optimizer = OptimizerConfig::Sgd { lr: 0.1, momentum: 0.0, weight_decay: 0.0 };
//! let mut updater = Updater::new(optimizer, &[], ScheduleConfig::default(), Some(1.0), 100, &module)?;
//!
//! let pieces = [([1.0f32, 2.0], 0), ([3.0, -1.0], 2)];
//! for (features, target) in pieces {
//!     let features = Tensor::<1>::from_data(TensorData::from(features), &device).unsqueeze();
//!     let targets = Tensor::<1, Int>::from_data(TensorData::from([target]), &device);
//!     let loss = cross_entropy_sum(module.forward(features), targets, 0.0) / pieces.len() as f64;
//!     updater.accumulate(GradientsParams::from_grads(loss.backward(), &module));
//! }
//! let (moved, report) = updater.step(module)?;
//! module = moved;
//! assert_eq!((report.step, report.learning_rate), (1, 0.1));
//! # Ok(())
//! # }
//! ```

#![recursion_limit = "256"]

mod error;
mod groups;
mod objective;
mod optimizer;
mod schedule;
mod slots;
mod state;
mod step;
mod stopping;
#[cfg(test)]
mod toy;

pub use error::OptimError;
pub use groups::GroupConfig;
pub use objective::{cross_entropy_sum, with_margin};
pub use optimizer::OptimizerConfig;
pub use schedule::{ScheduleConfig, ScheduleKind};
pub use step::{StepReport, Updater};
pub use stopping::{EarlyStopping, EarlyStoppingConfig};
