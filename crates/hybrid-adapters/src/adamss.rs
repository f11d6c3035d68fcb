//! AdaMSS, adaptive multi-subspaces: outputs that are alike in a weight's leading singular
//! directions get low-rank updates of their own within those (NeurIPS 2025, in PEFT's
//! formulation).
//!
//! `y = f(x) + P (B_1 A_1, ..., B_K A_K) N (x, 1)`, where the rows of `N: [r, d_in + 1]` are the
//! leading right singular vectors of the weight with its bias as a column (without one where there
//! is none), the outputs are clustered by their rows of the left ones, and `P` puts each cluster's
//! outputs where they belong. Files hold `N`, and of the clusters their sizes alone: what PEFT
//! draws for them is drawn again, and near ties between clusters can fall differently. PEFT's
//! allocation of subspaces while training (`use_asa`) is left out; what it stores is read.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor, TensorData};
use hybrid_models::Linear;

use crate::AdapterError;
use crate::decomposition::{Matrix, Singular, leading_right, randomised, singular};
use crate::method::Pass;
use crate::site_method::{Act, KeptTensor, Owner, PeftForm, SiteMethod, Written, site_settings};
use crate::site_place::Place;
use crate::torch_random::TorchRandom;

mod clusters;

pub(crate) const FORM: PeftForm = PeftForm {
    method: "adamss",
    peft_type: "ADAMSS",
    keys: &[
        "r",
        "num_subspaces",
        "subspace_rank",
        "use_dynamic_rank",
        "svd_threshold",
        "random_seed",
        "target_modules",
        "layers_to_transform",
        "layers_pattern",
    ],
    neutral: &[
        ("init_weights", Written::Text("orthogonal")),
        ("use_asa", Written::Flag(false)),
        ("asa_target_subspaces", Written::Whole(50)),
        ("init_warmup", Written::Whole(50)),
        ("final_warmup", Written::Whole(1000)),
        ("mask_interval", Written::Whole(100)),
        ("asa_importance_beta", Written::Number(0.85)),
        ("asa_uncertainty_beta", Written::Number(0.85)),
        ("asa_schedule_exponent", Written::Number(3.0)),
    ],
    only: &[],
    fan_in_fan_out: false,
};

site_settings! {
    /// AdaMSS' settings, with PEFT's names and meanings.
    AdamssConfig as FORM {
        /// Number of singular directions, less than a layer's outputs; at most as many as it has
        /// are used.
        #[schemars(range(min = 1))]
        r: usize = 100,
        /// Number of clusters; at most as many as a layer has outputs are made.
        #[schemars(range(min = 1))]
        num_subspaces: usize = 5,
        /// Rank of each cluster's update, where it has as many outputs.
        #[schemars(range(min = 1))]
        subspace_rank: usize = 1,
        /// Whether ranks are lower where a cluster's outputs have few directions.
        use_dynamic_rank: bool = false,
        /// The share of the largest eigenvalue that one must exceed to be counted among those.
        svd_threshold: f64 = 0.1,
        /// Seed of the directions in which singular vectors are looked for.
        random_seed: u64 = 0,
    }
}

/// The subspaces of one site.
#[derive(Module, Debug)]
pub(crate) struct Adamss {
    /// `[rank, r]` of each cluster.
    adamss_a: Vec<Param<Tensor<2>>>,
    /// `[outputs, rank]` of each cluster.
    adamss_b: Vec<Param<Tensor<2>>>,
    /// `N`, `[r, d_in]` or `[r, d_in + 1]`.
    #[module(skip)]
    directions: Tensor<2>,
    /// Where each output stands among those of the clusters, one after the other: `[d_out]`.
    #[module(skip)]
    order: Tensor<1, Int>,
}

const KEY_DIRECTIONS: &str = "adamss_newB";

impl SiteMethod for Adamss {
    type Config = AdamssConfig;

    const FORM: &'static PeftForm = &FORM;

    const ACT: Act = Act::Beside;

    const SHIFTS: bool = true;

    const RENAMED: &'static [(&'static str, &'static str)] =
        &[("adamss_a", "adamss_A"), ("adamss_b", "adamss_B")];

    /// `A` at the leading directions of the cluster's outputs, `B` zero, so the adapted base starts
    /// as the base.
    fn init(
        config: &AdamssConfig,
        place: &Place<'_>,
        _made: &[Self],
    ) -> Result<Self, AdapterError> {
        for (key, number) in [
            ("r", config.r),
            ("num_subspaces", config.num_subspaces),
            ("subspace_rank", config.subspace_rank),
        ] {
            if number == 0 {
                return Err(place.wrong(key, "1 or more", number));
            }
        }
        let threshold = place.finite("svd_threshold", config.svd_threshold)?;
        let weight = match place.bias() {
            Some(bias) => Tensor::cat(vec![place.weight(), bias.unsqueeze()], 0),
            None => place.weight(),
        };
        let weight = Matrix::of(weight.transpose());
        let r = config.r.min(weight.rows).min(weight.columns);
        if r == weight.rows {
            // All outputs are as far from each other then, and rounding would cluster them.
            return Err(place.wrong(
                "r",
                "less than the outputs of every adapted layer",
                config.r,
            ));
        }
        let draw = |n| {
            let drawn = TorchRandom::new(config.random_seed).normal([n], 1.0);
            drawn.iter::<f32>().collect::<Vec<f32>>()
        };
        let Singular { u, v, .. } = randomised(&weight, r, 2, draw);
        let clusters = clusters::clusters(&u, config.num_subspaces.min(u.rows));
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for (index, cluster) in clusters.iter().enumerate() {
            if cluster.is_empty() {
                let expected = "no more than there are different outputs";
                return Err(place.wrong("num_subspaces", expected, config.num_subspaces));
            }
            let values = cluster.iter().flat_map(|row| u.row(*row).to_vec());
            let own = Matrix::new(cluster.len(), r, values.collect());
            let most = config.subspace_rank.min(cluster.len()).min(r);
            let stored = place.stored_shape(&format!("adamss_A.{index}"));
            let rank = match stored.as_deref() {
                Some([rank, _]) => (*rank).clamp(1, r),
                _ if config.use_dynamic_rank => n_directions(&own, threshold).clamp(1, most),
                _ => most,
            };
            let (_, leading) = leading_right(&own, rank);
            a.push(place.param(data(&leading)));
            b.push(place.filled([cluster.len(), rank], 0.0));
        }
        let mut order = vec![0i64; place.d_out];
        for (at, output) in clusters.iter().flatten().enumerate() {
            order[*output] = at as i64;
        }
        let order = TensorData::new(order, [place.d_out]);
        Ok(Self {
            adamss_a: a,
            adamss_b: b,
            directions: place.frozen(data(&v)),
            order: Tensor::from_data(order, &place.device()),
        })
    }

    fn act(&self, _base: &Linear, rows: Tensor<2>, _pass: Pass) -> Tensor<2> {
        let [_, d_in] = rows.dims();
        let [r, with_bias] = self.directions.dims();
        let of_inputs = self.directions.clone().slice([0..r, 0..d_in]);
        let mut along = rows.matmul(of_inputs.transpose());
        if with_bias > d_in {
            let of_bias = self.directions.clone().slice([0..r, d_in..with_bias]);
            along = along + of_bias.transpose();
        }
        let outputs = |(a, b): (&Param<Tensor<2>>, &Param<Tensor<2>>)| {
            let inner = along.clone().matmul(a.val().transpose());
            inner.matmul(b.val().transpose())
        };
        let clusters = self.adamss_a.iter().zip(&self.adamss_b).map(outputs);
        Tensor::cat(clusters.collect(), 1).select(1, self.order.clone())
    }

    fn kept(&self) -> Vec<KeptTensor> {
        vec![KeptTensor {
            key: KEY_DIRECTIONS,
            data: self.directions.to_data(),
            owner: Owner::Site,
        }]
    }

    fn keep(&mut self, key: &str, data: &TensorData) -> Result<(), AdapterError> {
        if key == KEY_DIRECTIONS {
            let device = self.directions.device();
            self.directions = Tensor::from_data(data.clone(), &device);
        }
        Ok(())
    }
}

/// How many eigenvalues of `M Mᵀ` exceed a share of the largest.
fn n_directions(matrix: &Matrix, share: f64) -> usize {
    let Singular { s, .. } = singular(matrix, matrix.rows.min(matrix.columns));
    let least = share * s[0] * s[0];
    s.iter().filter(|s| *s * *s > least).count()
}

fn data(matrix: &Matrix) -> TensorData {
    let values: Vec<f32> = matrix.values.iter().map(|value| *value as f32).collect();
    TensorData::new(values, [matrix.rows, matrix.columns])
}

#[cfg(test)]
mod tests {
    use burn::module::Param;
    use burn::tensor::{Device, Tensor, TensorData, Tolerance};
    use hybrid_models::{Linear, SiteKind, SiteTable};

    use super::{Adamss, n_directions};
    use crate::decomposition::Matrix;
    use crate::method::Pass;
    use crate::site_method::SiteMethod;

    #[test]
    fn clusters_put_their_outputs_where_they_belong() {
        let device = Device::flex();
        let mut sites = SiteTable::default();
        let kind = SiteKind::Linear {
            d_in: 2,
            d_out: 3,
            bias: true,
        };
        let base = Linear {
            site: sites.add("dense", Some(0), false, kind),
            weight: Tensor::<2>::zeros([2, 3], &device).into(),
            bias: Some(Tensor::zeros([3], &device)),
        };
        let param = |values: &[f32], shape: [usize; 2]| {
            Param::from_data(TensorData::new(values.to_vec(), shape), &device)
        };
        let adamss = Adamss {
            adamss_a: vec![param(&[1.0, 0.0], [1, 2]), param(&[0.0, 2.0], [1, 2])],
            adamss_b: vec![param(&[1.0, -1.0], [2, 1]), param(&[3.0], [1, 1])],
            directions: Tensor::from_data([[1.0, 0.0, 0.5], [0.0, 1.0, -0.5]], &device),
            // The first cluster has the outputs 0 and 2.
            order: Tensor::from_data([0, 2, 1], &device),
        };
        let rows = Tensor::<2>::from_data([[2.0, 3.0]], &device);
        let found = adamss.act(&base, rows, Pass::Inference).into_data();
        // Along the directions 2.5 and 2.5.
        let expected = TensorData::from([[2.5, 15.0, -2.5]]);
        found.assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-6));
        let merged = adamss.merge(base);
        let weight = TensorData::from([[1.0, 0.0, -1.0], [0.0, 6.0, 0.0]]);
        let found = merged.weight.dense().into_data();
        found.assert_approx_eq::<f32>(&weight, Tolerance::absolute(1e-6));
        let bias = TensorData::from([0.5, -3.0, -0.5]);
        let found = merged.bias.unwrap().into_data();
        found.assert_approx_eq::<f32>(&bias, Tolerance::absolute(1e-6));
    }

    #[test]
    fn directions_count_from_a_share_of_the_largest() {
        let matrix = Matrix::new(3, 3, vec![2.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.1]);
        assert_eq!(n_directions(&matrix, 0.2), 2);
        assert_eq!(n_directions(&matrix, 0.3), 1);
        assert_eq!(n_directions(&matrix, 0.0), 3);
    }
}
