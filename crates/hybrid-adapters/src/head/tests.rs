//! Heads by their tensors, and what they compute.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData, Tolerance};
use hybrid_models::Pooling;

use super::{ClassifierHead, HeadConfig, HeadForm, head_from_tensors, head_to_tensors};
use crate::AdapterError;

fn config(normalize: bool, scale: f64) -> HeadConfig {
    HeadConfig {
        pooling: Pooling::Mean,
        normalize,
        scale,
        form: HeadForm::Linear,
    }
}

fn of_form(form: HeadForm) -> HeadConfig {
    HeadConfig {
        form,
        ..config(false, 1.0)
    }
}

fn named<const N: usize>(tensors: [(&str, TensorData); N]) -> BTreeMap<String, TensorData> {
    let tensors = tensors.into_iter();
    tensors
        .map(|(name, data)| (name.to_owned(), data))
        .collect()
}

#[test]
fn label_vectors_make_a_scaled_cosine() {
    let device = Device::flex();
    let vectors = vec![vec![3.0, 4.0, 0.0], vec![0.0, 0.0, 2.0]];
    let head = ClassifierHead::from_label_vectors(config(true, 10.0), vectors, &device).unwrap();
    let pooled = Tensor::<2>::from_data([[6.0, 8.0, 0.0], [1.0, 0.0, 1.0]], &device);
    let root = 0.5f32.sqrt();
    let expected = TensorData::from([[10.0, 0.0], [6.0 * root, 10.0 * root]]);
    head.forward(pooled)
        .into_data()
        .assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-5));
    assert_eq!((head.n_labels(), head.n_parameters()), (2, 8));
}

#[test]
fn without_normalisation_a_head_is_a_linear_layer() {
    let device = Device::flex();
    let tensors = BTreeMap::from([
        (
            "weight".to_owned(),
            TensorData::from([[1.0f32, 2.0], [3.0, 4.0], [5.0, 6.0]]),
        ),
        ("bias".to_owned(), TensorData::from([0.5f32, -0.5, 0.25])),
    ]);
    let head = head_from_tensors(config(false, 1.0), 2, 3, &tensors, &device).unwrap();
    let logits = head
        .forward(Tensor::from_data([[1.0, -1.0]], &device))
        .into_data();
    logits.assert_approx_eq::<f32>(
        &TensorData::from([[-0.5, -1.5, -0.75]]),
        Tolerance::absolute(1e-6),
    );
    assert_eq!(
        head_to_tensors(&head)
            .into_iter()
            .collect::<BTreeMap<_, _>>(),
        tensors
    );
    let training = head.clone().train_on(&device.autodiff());
    assert_eq!(training.named_tensors(), head.named_tensors());
}

#[test]
fn a_layer_may_stand_before_the_class_vectors() {
    let device = Device::flex();
    let tensors = named([
        (
            "dense.weight",
            TensorData::from([[1.0f32, 0.0], [2.0, -1.0]]),
        ),
        ("dense.bias", TensorData::from([0.5f32, -1.0])),
        ("weight", TensorData::from([[1.0f32, 2.0]])),
        ("bias", TensorData::from([0.25f32])),
    ]);
    // The layer gives [-0.5, 0.0] and [1.5, 2.0].
    let pooled = || Tensor::<2>::from_data([[-1.0, -3.0], [1.0, -1.0]], &device);
    let t = |x: f32| x.tanh();
    for (form, expected) in [
        (HeadForm::Relu, [[0.25], [5.75]]),
        (
            HeadForm::Tanh,
            [[t(-0.5) + 0.25], [t(1.5) + 2.0 * t(2.0) + 0.25]],
        ),
    ] {
        let head = head_from_tensors(of_form(form), 2, 1, &tensors, &device).unwrap();
        head.forward(pooled())
            .into_data()
            .assert_approx_eq::<f32>(&TensorData::from(expected), Tolerance::absolute(1e-6));
        let again: BTreeMap<_, _> = head_to_tensors(&head).into_iter().collect();
        assert_eq!(again, tensors);
        assert_eq!((head.n_labels(), head.n_parameters()), (1, 9));
        let twice = head.with_classes(&[0, 0]);
        let logits = twice.forward(pooled()).into_data();
        let both = expected.map(|[logit]| [logit, logit]);
        logits.assert_approx_eq::<f32>(&TensorData::from(both), Tolerance::absolute(1e-6));
    }
    let error = head_from_tensors(of_form(HeadForm::Linear), 2, 1, &tensors, &device);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("dense.bias, dense.weight"), "{error}");
}

#[test]
fn a_score_has_no_bias() {
    let device = Device::flex();
    let score = of_form(HeadForm::Score { padding_id: None });
    let tensors = named([("weight", TensorData::from([[1.0f32, 2.0], [3.0, 4.0]]))]);
    let head = head_from_tensors(score.clone(), 2, 2, &tensors, &device).unwrap();
    let head = head.with_classes(&[1, 0]);
    let logits = head.forward(Tensor::from_data([[1.0, -2.0]], &device));
    assert_eq!(logits.into_data(), TensorData::from([[-5.0f32, -3.0]]));
    assert_eq!(head.named_tensors().len(), 1);
    let fresh = ClassifierHead::init(score.clone(), 3, 2, 7, &device);
    assert_eq!((fresh.n_labels(), fresh.n_parameters()), (2, 6));
    let error = ClassifierHead::from_label_vectors(score, vec![vec![1.0]], &device);
    assert!(error.unwrap_err().to_string().contains("form"));
}

#[test]
fn forms_are_written_only_where_they_are_not_plain() {
    let plain = serde_json::to_string(&of_form(HeadForm::Linear)).unwrap();
    assert!(!plain.contains("form"), "{plain}");
    for form in [
        HeadForm::Linear,
        HeadForm::Tanh,
        HeadForm::Score { padding_id: None },
        HeadForm::Score {
            padding_id: Some(7),
        },
    ] {
        let text = serde_json::to_string(&of_form(form)).unwrap();
        assert_eq!(
            serde_json::from_str::<HeadConfig>(&text).unwrap(),
            of_form(form)
        );
    }
}

#[test]
fn faulty_tensors_are_named() {
    let device = Device::flex();
    let good = || {
        BTreeMap::from([
            ("weight".to_owned(), TensorData::from([[1.0f32, 2.0]])),
            ("bias".to_owned(), TensorData::from([0.5f32])),
        ])
    };
    let error = |change: fn(&mut BTreeMap<String, TensorData>)| {
        let mut tensors = good();
        change(&mut tensors);
        head_from_tensors(config(false, 1.0), 2, 1, &tensors, &device).unwrap_err()
    };
    let missing = error(|tensors| drop(tensors.remove("bias")));
    assert!(
        matches!(missing, AdapterError::Missing { ref name } if name == "bias"),
        "{missing}"
    );
    let extra =
        error(|tensors| drop(tensors.insert("more".to_owned(), TensorData::from([0.0f32]))));
    assert!(
        matches!(extra, AdapterError::Unexpected { ref names } if names == &["more"]),
        "{extra}"
    );
    let shape =
        error(|tensors| drop(tensors.insert("bias".to_owned(), TensorData::from([0.0f32, 1.0]))));
    assert_eq!(shape.to_string(), "bias: expected shape [1], found [2]");
    let narrow =
        error(|tensors| drop(tensors.insert("weight".to_owned(), TensorData::from([[1.0f32]]))));
    assert_eq!(
        narrow.to_string(),
        "weight: expected shape [1, 2], found [1, 1]"
    );
    let nan =
        error(|tensors| drop(tensors.insert("bias".to_owned(), TensorData::from([f32::NAN]))));
    assert!(
        matches!(nan, AdapterError::NotFinite { index: 0, .. }),
        "{nan}"
    );
}

#[test]
fn vectors_that_make_no_head_are_refused() {
    let device = Device::flex();
    for vectors in [
        Vec::new(),
        vec![vec![1.0, 0.0], vec![1.0]],
        vec![vec![1.0, 0.0], vec![0.0, 0.0]],
        vec![vec![f32::NAN, 0.0]],
    ] {
        let error =
            ClassifierHead::from_label_vectors(config(true, 1.0), vectors, &device).unwrap_err();
        assert!(matches!(error, AdapterError::LabelVector { .. }), "{error}");
    }
}
