//! Checkpoints in every layout, whole and damaged.

use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize};
use serde_json::json;

use super::Checkpoint;
use crate::ModelError;

fn write(path: &Path, tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) {
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (
            *name,
            TensorView::new(*dtype, shape.clone(), bytes).unwrap(),
        )
    });
    std::fs::write(path, serialize(views, None).unwrap()).unwrap();
}

fn floats(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

#[test]
fn every_float_type_is_read_as_float32() {
    let folder = tempfile::tempdir().unwrap();
    let values = [1.5f32, -2.0, 0.25];
    let half: Vec<u8> = values
        .iter()
        .flat_map(|value| f16::from_f32(*value).to_le_bytes())
        .collect();
    let brain: Vec<u8> = values
        .iter()
        .flat_map(|value| bf16::from_f32(*value).to_le_bytes())
        .collect();
    let double: Vec<u8> = values
        .iter()
        .flat_map(|value| f64::from(*value).to_le_bytes())
        .collect();
    let tensors = [
        ("half", Dtype::F16, vec![3], half),
        ("brain", Dtype::BF16, vec![3], brain),
        ("single", Dtype::F32, vec![3], floats(&values)),
        ("double", Dtype::F64, vec![3], double),
    ];
    write(&folder.path().join("model.safetensors"), &tensors);
    let mut checkpoint = Checkpoint::open(folder.path()).unwrap();
    for (name, ..) in &tensors {
        let data = checkpoint.take(name, &[3]).unwrap();
        assert_eq!(data.iter::<f32>().collect::<Vec<_>>(), values, "{name}");
    }
    checkpoint.finish(|_| false).unwrap();
}

#[test]
fn integers_are_no_weights() {
    let folder = tempfile::tempdir().unwrap();
    write(
        &folder.path().join("model.safetensors"),
        &[("ids", Dtype::I64, vec![1], vec![0; 8])],
    );
    let error = Checkpoint::open(folder.path())
        .unwrap()
        .take("ids", &[1])
        .unwrap_err();
    assert!(
        matches!(&error, ModelError::WrongDtype { found, .. } if found == "I64"),
        "{error}"
    );
}

#[test]
fn faults_name_the_tensor_and_both_shapes() {
    let folder = tempfile::tempdir().unwrap();
    write(
        &folder.path().join("model.safetensors"),
        &[("a", Dtype::F32, vec![2], floats(&[1.0, 2.0]))],
    );
    let open = || Checkpoint::open(folder.path()).unwrap();
    let missing = open().take("b", &[3]).unwrap_err().to_string();
    assert!(
        missing.contains("`b` is missing") && missing.contains("[3]"),
        "{missing}"
    );
    let shape = open().take("a", &[3]).unwrap_err().to_string();
    assert!(
        shape.contains("`a`: expected shape [3], found [2]"),
        "{shape}"
    );
    let extra = open().finish(|_| false).unwrap_err().to_string();
    assert!(extra.contains("`a` of shape [2] has no place"), "{extra}");
}

#[test]
fn old_names_of_norms_are_understood() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = ["x.LayerNorm.gamma", "x.LayerNorm.beta"]
        .map(|name| (name, Dtype::F32, vec![1], floats(&[1.0])));
    write(&folder.path().join("model.safetensors"), &tensors);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert!(checkpoint.contains("x.LayerNorm.weight") && checkpoint.contains("x.LayerNorm.bias"));
}

#[test]
fn an_empty_folder_lists_what_was_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    let error = Checkpoint::open(folder.path()).unwrap_err().to_string();
    assert!(
        error.contains("model.safetensors") && error.contains("pytorch_model.bin"),
        "{error}"
    );
}

#[test]
fn shards_are_read_through_their_index() {
    let folder = tempfile::tempdir().unwrap();
    write(
        &folder.path().join("one.safetensors"),
        &[("a", Dtype::F32, vec![1], floats(&[1.0]))],
    );
    write(
        &folder.path().join("two.safetensors"),
        &[("b", Dtype::F32, vec![1], floats(&[2.0]))],
    );
    let index = |map: &BTreeMap<&str, &str>| {
        let text = json!({"metadata": {}, "weight_map": map}).to_string();
        std::fs::write(folder.path().join("model.safetensors.index.json"), text).unwrap();
        Checkpoint::open(folder.path())
    };
    let mut checkpoint = index(&BTreeMap::from([
        ("a", "one.safetensors"),
        ("b", "two.safetensors"),
    ]))
    .unwrap();
    assert_eq!(
        checkpoint
            .take("b", &[1])
            .unwrap()
            .iter::<f32>()
            .collect::<Vec<_>>(),
        [2.0]
    );
    assert_eq!(
        checkpoint
            .take("a", &[1])
            .unwrap()
            .iter::<f32>()
            .collect::<Vec<_>>(),
        [1.0]
    );

    let error = index(&BTreeMap::from([("c", "one.safetensors")])).unwrap_err();
    assert!(
        matches!(&error, ModelError::MissingTensor { name, .. } if name == "c"),
        "{error}"
    );
    let error = index(&BTreeMap::from([("a", "three.safetensors")])).unwrap_err();
    assert!(matches!(&error, ModelError::Read { .. }), "{error}");
    for escape in ["../one.safetensors", "/etc/passwd", "", "."] {
        let error = index(&BTreeMap::from([("a", escape)])).unwrap_err();
        assert!(
            matches!(&error, ModelError::ShardName { .. }),
            "{escape}: {error}"
        );
    }
}

#[test]
fn a_pytorch_file_that_is_damaged_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("pytorch_model.bin"), [7u8; 100]).unwrap();
    let error = Checkpoint::open(folder.path()).unwrap_err();
    assert!(
        matches!(&error, ModelError::CorruptPytorch { .. }),
        "{error}"
    );
}
