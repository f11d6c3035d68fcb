//! Several LoRAs at one site, each beside its own part of the rows.

use burn::tensor::{Bool, Tensor, TensorData};
use hybrid_models::{SiteId, low_rank_of_parts};

use super::Factors;
use crate::method::Pass;
use crate::random::HostRandom;

/// What each adds to its part of the rows; where there are no factors, nothing. Lower ranks are filled
/// up with zeros, so that one product serves all. Each part drops what its factors alone would drop.
///
/// # Shapes
/// - `x`: `[parts, rows, d_in]` → `[parts, rows, d_out]`
///
/// # Panics
/// Where no part has factors.
pub(crate) fn of_parts(
    factors: &[Option<&Factors>],
    x: Tensor<3>,
    site: SiteId,
    pass: Pass,
) -> Tensor<3> {
    let share = |factors: &Option<&Factors>| match pass {
        Pass::Training { .. } => factors.map_or(0.0, |factors| factors.dropout),
        Pass::Inference => 0.0,
    };
    let shares: Vec<f64> = factors.iter().map(share).collect();
    let plain = x.device().without_autodiff();
    let zeros = |dims: [usize; 2]| Tensor::<2>::zeros(dims, &plain);
    let pair = |(factors, share): (&Option<&Factors>, &f64)| {
        factors.map(|factors| {
            let (a, b) = factors.pair(factors.lora_a.val(), factors.lora_b.val());
            (a.mul_scalar(factors.scale / (1.0 - share)), b)
        })
    };
    let pairs: Vec<Option<(Tensor<2>, Tensor<2>)>> =
        factors.iter().zip(&shares).map(pair).collect();
    let dims = |pair: &(Tensor<2>, Tensor<2>)| [pair.0.dims(), pair.1.dims()];
    let all = pairs.iter().flatten().map(dims);
    let [[d_in, rank], [_, d_out]] = all
        .max_by_key(|[[_, rank], _]| *rank)
        .expect("a part has factors");
    let filled = |pair: Option<(Tensor<2>, Tensor<2>)>| match pair {
        None => (zeros([d_in, rank]), zeros([rank, d_out])),
        Some((a, b)) => match rank - a.dims()[1] {
            0 => (a, b),
            missing => (
                Tensor::cat(vec![a, zeros([d_in, missing])], 1),
                Tensor::cat(vec![b, zeros([missing, d_out])], 0),
            ),
        },
    };
    let (a, b): (Vec<Tensor<2>>, Vec<Tensor<2>>) = pairs.into_iter().map(filled).unzip();
    let x = match pass {
        Pass::Training { seed } if shares.iter().any(|share| *share > 0.0) => {
            x.clone().mask_fill(dropped(&x, &shares, site, seed), 0.0)
        }
        _ => x,
    };
    low_rank_of_parts(x, Tensor::stack(a, 0), Tensor::stack(b, 0))
}

/// Which values of each part are dropped.
///
/// # Shapes
/// - `x`: `[parts, rows, d_in]` → the same
fn dropped(x: &Tensor<3>, shares: &[f64], site: SiteId, seed: u64) -> Tensor<3, Bool> {
    let [n_parts, rows, d_in] = x.dims();
    let mut mask: Vec<bool> = Vec::with_capacity(n_parts * rows * d_in);
    for share in shares {
        match *share > 0.0 {
            true => {
                let mut random = HostRandom::new(seed, site.index() as u64);
                mask.extend(random.chances([rows, d_in], *share).iter::<bool>());
            }
            false => mask.resize(mask.len() + rows * d_in, false),
        }
    }
    let device = x.device().without_autodiff();
    Tensor::from_data(TensorData::new(mask, x.dims()), &device)
}
