//! Poly: a low-rank side path that each task mixes out of skills that all tasks share (Ponti et al.
//! 2022, section 2; Caccia et al. 2022 for the splits).
//!
//! `y = f(x) + x A_t B_t / r` with `A_t = sum over s of w_ts A_s` and `B_t = sum over s of w_ts B_s`,
//! where `w_ts = sigmoid(z_ts) / sum over s' of sigmoid(z_ts')`. With splits, each block of inputs and
//! of outputs has weights of its own. While training the sigmoids are drawn from relaxed Bernoulli
//! distributions with those logits and temperature 1, for each row.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor, TensorData, activation};
use hybrid_models::Linear;

use crate::AdapterError;
use crate::method::{Inner, Pass};
use crate::random::HostRandom;
use crate::site_map::SiteMap;
use crate::site_method::{ANY_START, Act, PeftForm, SiteMethod, Written, in_rows, site_settings};
use crate::site_place::Place;

pub(crate) const FORM: PeftForm = PeftForm {
    method: METHOD,
    peft_type: "POLY",
    keys: &[
        "r",
        "n_tasks",
        "n_skills",
        "n_splits",
        "target_modules",
        "exclude_modules",
    ],
    neutral: &[ANY_START],
    only: &[("poly_type", Written::Text("poly"))],
    fan_in_fan_out: false,
};

const METHOD: &str = "poly";

site_settings! {
    /// Poly's settings, with PEFT's names and meanings.
    PolyConfig as FORM {
        /// Rank of each skill.
        #[schemars(range(min = 1))]
        r: usize = 8,
        /// Number of tasks.
        #[schemars(range(min = 1))]
        n_tasks: usize = 1,
        /// Number of skills.
        #[schemars(range(min = 1))]
        n_skills: usize = 4,
        /// Blocks of inputs and outputs that mix skills apart: a divisor of their numbers.
        #[schemars(range(min = 1))]
        n_splits: usize = 1,
        /// The task that is computed and trained, counted from 0.
        #[serde(skip_serializing_if = "is_first")]
        task: usize = 0,
        /// Whether the adapted base starts as the base.
        init_weights: bool = true,
    }
}

fn is_first(task: &usize) -> bool {
    *task == 0
}

/// The skills of one site and how tasks mix them.
#[derive(Module, Debug)]
pub(crate) struct Poly {
    /// `[n_splits, n_skills, d_in / n_splits, r]`.
    poly_lora_a: Param<Tensor<4>>,
    /// `[n_splits, n_skills, r, d_out / n_splits]`.
    poly_lora_b: Param<Tensor<4>>,
    /// `[n_tasks, n_splits * n_skills]`.
    module_logits: Param<Tensor<2>>,
    /// The task of all rows, or of each.
    #[module(skip)]
    tasks: Vec<usize>,
}

/// The sites' tensors with the task of every row of a batch.
///
/// # Errors
/// [`AdapterError::Setting`] for a task that there is not.
pub(crate) fn for_tasks(
    sites: SiteMap<Poly>,
    tasks: &[usize],
) -> Result<SiteMap<Poly>, AdapterError> {
    let first = sites.iter().next();
    let n_tasks = first.map_or(0, |(_, site)| site.module_logits.dims()[0]);
    match tasks.iter().find(|task| **task >= n_tasks) {
        Some(task) => Err(AdapterError::Setting {
            method: METHOD,
            key: "task",
            expected: "below n_tasks, as tasks count from 0",
            found: task.to_string(),
        }),
        None => Ok(sites.map_each(|_, site| Poly {
            tasks: tasks.to_vec(),
            ..site
        })),
    }
}

impl Poly {
    /// How the rows mix skills.
    ///
    /// # Shapes
    /// - `[1 or batch, n_splits, 1, n_skills]`
    fn mixing(&self, base: &Linear, batch: usize, pass: Pass) -> Tensor<4> {
        let [n_splits, n_skills, _, _] = self.poly_lora_a.dims();
        let logits = self.module_logits.val();
        let device = logits.device().without_autodiff();
        let mut tasks: Vec<i32> = self.tasks.iter().map(|task| *task as i32).collect();
        if let (Pass::Training { .. }, [task]) = (pass, tasks.as_slice()) {
            tasks = vec![*task; batch];
        }
        let rows = tasks.len();
        let tasks: Tensor<1, Int> = Tensor::from_data(TensorData::new(tasks, [rows]), &device);
        let logits = logits.select(0, tasks);
        let logits = match pass {
            Pass::Inference => logits,
            Pass::Training { seed } => {
                // Apart from the numbers of dropout at the same site.
                let stream = 1 << 32 | base.site.index() as u64;
                let drawn = HostRandom::new(seed, stream).uniform(logits.dims(), 0.5);
                let drawn = Tensor::<2>::from_data(drawn, &device) + 0.5;
                let drawn = drawn.clamp(f32::EPSILON, 1.0 - f32::EPSILON);
                logits + drawn.clone().log() - (drawn.neg() + 1.0).log()
            }
        };
        let weights = activation::sigmoid(logits).reshape([rows, n_splits, n_skills]);
        let sum = weights.clone().sum_dim(2) + 1e-12;
        (weights / sum).unsqueeze_dim(2)
    }

    /// The factors that rows with these weights have, the first one scaled.
    ///
    /// # Shapes
    /// - `mixing`: `[rows, n_splits, 1, n_skills]` → `[rows, d_in, r]` and `[rows, r, d_out]`
    fn factors(&self, mixing: Tensor<4>) -> (Tensor<3>, Tensor<3>) {
        let (a, b) = (self.poly_lora_a.val(), self.poly_lora_b.val());
        let [rows, ..] = mixing.dims();
        let [n_splits, n_skills, d_in, r] = a.dims();
        let [_, _, _, d_out] = b.dims();
        let mixed = |skills: Tensor<4>, size: usize| {
            let skills = skills.reshape([1, n_splits, n_skills, size]);
            let skills = skills.expand([rows, n_splits, n_skills, size]);
            mixing.clone().matmul(skills)
        };
        let a = mixed(a, d_in * r).reshape([rows, n_splits * d_in, r]);
        let b = mixed(b, r * d_out).reshape([rows, n_splits, r, d_out]);
        let b = b.swap_dims(1, 2).reshape([rows, r, n_splits * d_out]);
        (a.div_scalar(r as f64), b)
    }
}

impl SiteMethod for Poly {
    type Config = PolyConfig;

    const FORM: &'static PeftForm = &FORM;

    const ACT: Act = Act::Beside;

    const RENAMED: &'static [(&'static str, &'static str)] = &[
        ("poly_lora_a", "poly_lora_A"),
        ("poly_lora_b", "poly_lora_B"),
        ("module_logits", "poly_router.module_logits"),
    ];

    /// `B` zero unless asked otherwise; the rest as PEFT draws it.
    fn init(config: &PolyConfig, place: &Place<'_>, _made: &[Self]) -> Result<Self, AdapterError> {
        let r = place.rank(config.r, place.d_in.min(place.d_out))?;
        let splits = place.divisor("n_splits", config.n_splits, &[place.d_in, place.d_out])?;
        let skills = config.n_skills;
        if skills == 0 {
            return Err(place.wrong("n_skills", "1 or more", skills));
        }
        if config.task >= config.n_tasks {
            let expected = "below n_tasks, as tasks count from 0";
            return Err(place.wrong("task", expected, config.task));
        }
        let [d_in, d_out] = [place.d_in / splits, place.d_out / splits];
        let mut random = place.random();
        let kaiming = |width: usize| 1.0 / (width as f64).sqrt();
        let a = random.uniform([splits, skills, d_in, r], kaiming(d_in));
        let logits = random.uniform([config.n_tasks, splits * skills], 1e-3);
        let shape = [splits, skills, r, d_out];
        Ok(Self {
            poly_lora_a: place.param(a),
            poly_lora_b: match config.init_weights {
                true => place.filled(shape, 0.0),
                false => place.param(random.uniform(shape, kaiming(r))),
            },
            module_logits: place.param(logits),
            tasks: vec![config.task],
        })
    }

    fn act(&self, base: &Linear, rows: Tensor<2>, pass: Pass) -> Tensor<2> {
        let (a, b) = self.factors(self.mixing(base, 1, pass));
        rows.matmul(a.squeeze_dim(0)).matmul(b.squeeze_dim(0))
    }

    /// # Panics
    /// If there is a task for each of another number of rows.
    fn forward(&self, base: &Linear, x: Tensor<3>, pass: Pass, inner: Inner<'_>) -> Tensor<3> {
        let y = inner(x.clone());
        let (a, b) = self.factors(self.mixing(base, x.dims()[0], pass));
        match a.dims() {
            [1, ..] => {
                let (a, b) = (a.squeeze_dim::<2>(0), b.squeeze_dim::<2>(0));
                y + in_rows(x, |rows| rows.matmul(a).matmul(b))
            }
            _ => y + x.matmul(a).matmul(b),
        }
    }

    fn mergeable(&self) -> Result<(), AdapterError> {
        match self.tasks.as_slice() {
            [_] => Ok(()),
            _ => Err(AdapterError::NotMergeable {
                method: METHOD,
                reason: "each row has a task of its own",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Param;
    use burn::tensor::{Device, Tensor, TensorData, Tolerance};
    use hybrid_models::{Linear, SiteKind, SiteTable};

    use super::Poly;
    use crate::method::Pass;
    use crate::site_method::SiteMethod;

    const SKILLS: usize = 3;
    const R: usize = 2;
    const D: usize = 4;
    const HALF: usize = 2;

    fn value(place: usize) -> f32 {
        ((place * 7 + 3) % 11) as f32 / 5.0 - 1.0
    }

    fn values(start: usize, n: usize) -> Vec<f32> {
        (start..start + n).map(value).collect()
    }

    fn base() -> Linear {
        let mut sites = SiteTable::default();
        let kind = SiteKind::Linear {
            d_in: D,
            d_out: D,
            bias: false,
        };
        Linear {
            site: sites.add("dense", Some(0), false, kind),
            weight: Tensor::zeros([D, D], &Device::flex()).into(),
            bias: None,
        }
    }

    fn poly(tasks: Vec<usize>) -> Poly {
        let device = Device::flex();
        let param = |start: usize, shape: [usize; 4]| {
            let n = shape.iter().product();
            Param::from_data(TensorData::new(values(start, n), shape), &device)
        };
        let logits = TensorData::new(values(80, 2 * 2 * SKILLS), [2, 2 * SKILLS]);
        Poly {
            poly_lora_a: param(0, [2, SKILLS, HALF, R]),
            poly_lora_b: param(40, [2, SKILLS, R, HALF]),
            module_logits: Param::from_data(logits, &device),
            tasks,
        }
    }

    /// What one task's row gets beside the base.
    fn plainly(task: usize, x: &[f32]) -> Vec<f32> {
        let sigmoid = |z: f32| 1.0 / (1.0 + (-z).exp());
        let logit = |split: usize, skill: usize| value(80 + (task * 2 + split) * SKILLS + skill);
        let weight = |split: usize, skill: usize| {
            let sum: f32 = (0..SKILLS).map(|skill| sigmoid(logit(split, skill))).sum();
            sigmoid(logit(split, skill)) / sum
        };
        let mut y = vec![0.0; D];
        for (i, o) in (0..D).flat_map(|i| (0..D).map(move |o| (i, o))) {
            for k in 0..R {
                let a: f32 = (0..SKILLS)
                    .map(|skill| {
                        let place = ((i / HALF * SKILLS + skill) * HALF + i % HALF) * R + k;
                        weight(i / HALF, skill) * value(place)
                    })
                    .sum();
                let b: f32 = (0..SKILLS)
                    .map(|skill| {
                        let place = ((o / HALF * SKILLS + skill) * R + k) * HALF + o % HALF;
                        weight(o / HALF, skill) * value(40 + place)
                    })
                    .sum();
                y[o] += x[i] * a * b / R as f32;
            }
        }
        y
    }

    #[test]
    fn each_row_has_the_mixture_of_its_task() {
        let device = Device::flex();
        let x = values(20, 2 * D);
        let rows = Tensor::<3>::from_data(TensorData::new(x.clone(), [2, 1, D]), &device);
        let close = |found: Tensor<3>, tasks: [usize; 2]| {
            let expected = [plainly(tasks[0], &x[..D]), plainly(tasks[1], &x[D..])].concat();
            let expected = TensorData::new(expected, [2, 1, D]);
            found
                .into_data()
                .assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-5));
        };
        let (base, pass) = (base(), Pass::Inference);
        let forward = |poly: &Poly| poly.forward(&base, rows.clone(), pass, &|x| base.forward(x));
        close(forward(&poly(vec![1, 0])), [1, 0]);
        close(forward(&poly(vec![1])), [1, 1]);
        let merged = poly(vec![1]).merge(base.clone());
        close(merged.forward(rows.clone()), [1, 1]);
        assert!(poly(vec![1]).mergeable().is_ok());
        assert!(poly(vec![1, 0]).mergeable().is_err());
    }

    #[test]
    fn rows_draw_their_mixtures_while_training() {
        let (base, poly) = (base(), poly(vec![1]));
        let drawn = |seed| {
            let weights = poly.mixing(&base, 2, Pass::Training { seed });
            assert_eq!(weights.dims(), [2, 2, 1, SKILLS]);
            weights.into_data().iter::<f32>().collect::<Vec<f32>>()
        };
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
        assert_ne!(drawn(1)[..2 * SKILLS], drawn(1)[2 * SKILLS..]);
        for weights in drawn(3).chunks(SKILLS) {
            assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        }
    }
}
