//! LoRA by its own rules: what is allocated, computed and dropped.

use burn::module::Param;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use hybrid_models::{Linear, SiteId, SiteKind, SiteTable};

use super::{Factors, Lora};
use crate::method::{Method, Pass};
use crate::site_map::SiteMap;

fn lora(d_in: usize, d_out: usize, rank: usize, device: &Device) -> (Lora, SiteTable) {
    let mut sites = SiteTable::default();
    sites.add(
        "wide",
        None,
        false,
        SiteKind::Linear {
            d_in,
            d_out,
            bias: false,
        },
    );
    let filled = |rows, columns| {
        let values: Vec<f32> = (0..rows * columns)
            .map(|i| ((i % 7) as f32 - 3.0) / 4.0)
            .collect();
        Param::from_data(TensorData::new(values, [rows, columns]), device)
    };
    let factors = SiteMap::build(sites.iter(), |_| {
        Ok::<_, ()>(Factors {
            lora_a: filled(d_in, rank),
            lora_b: filled(rank, d_out),
            bias: None,
            dora: None,
            start: None,
            scale: 1.5,
            dropout: 0.0,
        })
    });
    (
        Lora {
            factors: factors.unwrap(),
            tables: SiteMap::empty(),
            biases: SiteMap::empty(),
        },
        sites,
    )
}

/// A base layer of which the side path needs the site only.
fn layer(site: SiteId, device: &Device) -> Linear {
    Linear {
        site,
        weight: Tensor::zeros([1, 1], device).into(),
        bias: None,
    }
}

/// A dense `A B`, or a gradient of its size, would take 16 TiB here: more than can be allocated.
#[test]
fn neither_dense_weight_nor_dense_gradient_is_formed() {
    let device = Device::flex();
    let d = 1 << 21;
    let (lora, sites) = lora(d, d, 1, &device.clone().autodiff());
    let site = sites.find("wide").unwrap().id;
    let x = Tensor::<3>::ones([1, 2, d], &device)
        .autodiff()
        .require_grad();
    let y = lora.linear(&layer(site, &device), x.clone(), Pass::Inference, &|x| x);
    let mut gradients = y.sum().backward();
    let dx = x.grad(&gradients).unwrap();
    assert_eq!(dx.dims(), [1, 2, d]);
    let gradients = GradientsParams::from_module(&mut gradients, &lora);
    assert_eq!(gradients.len(), 2);
    let factors = lora.factors.get(site).unwrap();
    assert_eq!(
        gradients.get::<2>(factors.lora_a.id).unwrap().dims(),
        [d, 1]
    );
    assert_eq!(
        gradients.get::<2>(factors.lora_b.id).unwrap().dims(),
        [1, d]
    );
}

/// The side path and its gradients equal those of the dense sum.
#[test]
fn the_side_path_equals_the_dense_sum() {
    let device = Device::flex();
    let (lora, sites) = lora(4, 3, 2, &device.clone().autodiff());
    let site = sites.find("wide").unwrap().id;
    let factors = lora.factors.get(site).unwrap().clone();
    let x = Tensor::<3>::from_data([[[1.0, -2.0, 0.5, 3.0], [0.1, 0.2, 0.3, 0.4]]], &device);
    let side = lora.linear(&layer(site, &device), x.clone(), Pass::Inference, &|x| {
        x.slice([0..1, 0..2, 0..3])
    });
    let dense = factors
        .lora_a
        .val()
        .matmul(factors.lora_b.val())
        .mul_scalar(1.5);
    let sum = x.clone().slice([0..1, 0..2, 0..3]) + x.matmul(dense.unsqueeze());
    let of = |y: Tensor<3>| {
        let value = y.clone().into_data();
        let mut gradients = y.powi_scalar(2).sum().backward();
        let gradients = GradientsParams::from_module(&mut gradients, &lora);
        let get = |id| gradients.get::<2>(id).unwrap().into_data();
        [value, get(factors.lora_a.id), get(factors.lora_b.id)]
    };
    for (side, sum) in of(side).into_iter().zip(of(sum)) {
        side.assert_approx_eq::<f32>(&sum, burn::tensor::Tolerance::absolute(1e-4));
    }
}

#[test]
fn only_passes_that_train_drop_and_the_seed_says_what() {
    let device = Device::flex();
    let (mut lora, sites) = lora(4, 3, 2, &device);
    lora.factors = SiteMap::build(sites.iter(), |site| {
        Ok::<_, ()>(Factors {
            dropout: 0.6,
            ..lora.factors.get(site.id).unwrap().clone()
        })
    })
    .unwrap();
    let site = sites.find("wide").unwrap().id;
    let run = |pass| {
        let x = Tensor::<3>::ones([1, 8, 4], &device);
        let y = lora.linear(&layer(site, &device), x, pass, &|x| {
            x.slice([0..1, 0..8, 0..3]) * 0.0
        });
        y.into_data().iter::<f32>().collect::<Vec<f32>>()
    };
    let whole = run(Pass::Inference);
    assert!(whole.chunks(3).all(|row| row == &whole[..3]));
    let dropped = run(Pass::Training { seed: 1 });
    assert_ne!(dropped, whole);
    assert_eq!(dropped, run(Pass::Training { seed: 1 }));
    assert_ne!(dropped, run(Pass::Training { seed: 2 }));
}
