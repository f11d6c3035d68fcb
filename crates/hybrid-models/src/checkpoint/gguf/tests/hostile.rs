//! Damaged and hostile GGUF files: errors that name the place, and never a panic.

use proptest::prelude::{any, prop, proptest};

use super::writer::{ARRAY, TEXT, Writer, array, floats, message, parse, tiny_llama};
use super::{GgufFile, GgufValue};
use crate::ModelError;

#[test]
fn every_truncation_is_an_error() {
    let whole = tiny_llama().bytes();
    for length in 0..whole.len() {
        let error = parse(whole[..length].to_vec()).unwrap_err();
        assert!(
            matches!(error, ModelError::Gguf { .. }),
            "{length}: {error}"
        );
    }
    parse(whole).unwrap();
}

#[test]
fn hostile_metadata_is_refused_by_name() {
    let with =
        |value_type, bytes: Vec<u8>| message(Writer::new().key("k", value_type, bytes).bytes());
    let huge = u64::MAX.to_le_bytes();
    let deep = (0..6).fold(array(0, 0, &[]), |inner, _| array(ARRAY, 1, &inner));
    for (found, expected) in [
        (
            with(13, vec![]),
            "metadata key `k`: expected a value type from 0 to 12, found 13",
        ),
        (
            with(TEXT, huge.to_vec()),
            "expected 18446744073709551615 more bytes, found",
        ),
        (
            with(ARRAY, array(4, u64::MAX / 2, &[])),
            "metadata key `k`: expected 18446744073709551615 more",
        ),
        (
            with(ARRAY, array(TEXT, 1 << 60, &[])),
            "metadata key `k`: expected 9223372036854775808 more",
        ),
        (
            with(ARRAY, array(ARRAY, 1 << 40, &[])),
            "metadata key `k`: expected 13194139533312 more",
        ),
        (
            with(ARRAY, array(77, 1, &[])),
            "metadata key `k`: expected a value type from 0 to 12, found 77",
        ),
        (
            with(ARRAY, deep),
            "metadata key `k`: expected arrays nested at most 4 deep",
        ),
    ] {
        assert!(found.contains(expected), "{found}");
    }
    let twice = message(Writer::new().u32("k", 1).u32("k", 2).bytes());
    assert_eq!(
        twice,
        "model.gguf: metadata key `k`: expected one value, found a second one"
    );
    let nameless = message(Writer::new().u32("", 1).bytes());
    assert!(
        nameless.contains("name of metadata key 0: expected a name of 1 to 65535"),
        "{nameless}"
    );
    let crooked = message(Writer::new().u32("general.alignment", 24).bytes());
    assert!(
        crooked.contains("`general.alignment`: expected a power of two"),
        "{crooked}"
    );
    let file = parse(
        Writer::new()
            .key("t", TEXT, vec![1, 0, 0, 0, 0, 0, 0, 0, 0xff])
            .bytes(),
    )
    .unwrap();
    let error = file.text("t").unwrap_err().to_string();
    assert!(
        error.contains("metadata key `t`: expected UTF-8"),
        "{error}"
    );
}

#[test]
fn hostile_heads_are_refused() {
    let whole = tiny_llama().bytes();
    let changed = |place: usize, bytes: &[u8]| {
        let mut whole = whole.clone();
        whole[place..place + bytes.len()].copy_from_slice(bytes);
        message(whole)
    };
    assert_eq!(
        changed(0, b"GGML"),
        "model.gguf: magic: expected the bytes `GGUF`, found GGML"
    );
    assert_eq!(
        changed(4, &[1]),
        "model.gguf: version: expected 2 or 3, found 1"
    );
    assert_eq!(
        changed(4, &[0, 0, 0, 3]),
        "model.gguf: version: expected 2 or 3, found 3 in big-endian order"
    );
    for (place, name) in [(8, "number of tensors"), (16, "number of metadata keys")] {
        let error = changed(place, &u64::MAX.to_le_bytes());
        assert!(
            error.contains(&format!("{name}: expected at most 65536")),
            "{error}"
        );
    }
    // One key more than there is: what follows is no key.
    let keys = tiny_llama().keys.len() as u64 + 1;
    assert!(!changed(16, &keys.to_le_bytes()).is_empty());
}

#[test]
fn hostile_tensors_are_refused_by_name() {
    let with = |axes: &[u64], number, bytes| {
        message(Writer::new().tensor("t", axes, number, bytes).bytes())
    };
    for (found, expected) in [
        (
            with(&[], 0, vec![]),
            "tensor `t`: expected 1 to 4 axes, found 0",
        ),
        (
            with(&[1; 5], 0, vec![0; 4]),
            "tensor `t`: expected 1 to 4 axes, found 5",
        ),
        (
            with(&[4, 0], 0, vec![]),
            "tensor `t`: expected axes of 1 to 2^64 values in all, found 0",
        ),
        (
            with(&[1 << 40, 1 << 40], 0, vec![]),
            "expected axes of 1 to 2^64 values",
        ),
        (
            with(&[1 << 62], 0, vec![]),
            "tensor `t`: expected fewer than 2^64 bytes",
        ),
        (
            with(&[1 << 40], 0, vec![]),
            "tensor `t`: expected 4398046511104 bytes at offset 0 of the data, found 0",
        ),
        (
            with(&[33], 3, vec![0; 40]),
            "expected rows of whole Q4_1 blocks of 32 values, found rows of 33",
        ),
        (
            with(&[32], 16, vec![0; 66]),
            "model.gguf: tensor `t`: unknown type 16 (IQ2_XXS); known are F32, F16",
        ),
        (
            with(&[32], 999, vec![]),
            "tensor `t`: unknown type 999; known are",
        ),
    ] {
        assert!(found.contains(expected), "{found}");
    }
    // The offset is the last field before the data.
    let two =
        Writer::new()
            .tensor("a", &[8], 0, floats(&[0.; 8]))
            .tensor("b", &[8], 0, floats(&[0.; 8]));
    let header = 24 + 2 * (8 + 1 + 4 + 8 + 4 + 8);
    let moved = |offset: u64| {
        let mut bytes = two.bytes();
        bytes[header - 8..header].copy_from_slice(&offset.to_le_bytes());
        message(bytes)
    };
    assert!(moved(0).contains("tensor `b`: expected an offset of at least 32"));
    assert!(moved(33).contains("tensor `b`: expected an offset that is a multiple of 32"));
    assert!(moved(64).contains("tensor `b`: expected 32 bytes at offset 64"));
    assert!(moved(u64::MAX - 31).contains("tensor `b`: expected 32 bytes at offset"));
    let mut bytes = two.bytes();
    let second = bytes.iter().rposition(|byte| *byte == b'b').unwrap();
    bytes[second] = b'a';
    assert!(
        message(bytes).contains("tensor `a`: expected one tensor of this name, found a second")
    );
}

/// Uses all that a parsed file offers, as loading does.
fn use_all(file: &GgufFile) {
    for key in file.keys() {
        if let Ok(Some(GgufValue::Array(array))) = file.value(key) {
            let _ = array.values().filter(Result::is_err).count();
        }
    }
    let _ = file.config();
    let Ok(weights) = file.weights() else { return };
    for weight in weights.values() {
        let _ = weight.dequantize_rows(0..weight.n_rows());
    }
}

proptest! {
    #[test]
    fn damaged_files_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        length in any::<Option<prop::sample::Index>>(),
    ) {
        let mut bytes = tiny_llama().bytes();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if let Some(length) = length {
            bytes.truncate(length.index(bytes.len()));
        }
        if let Ok(file) = parse(bytes) {
            use_all(&file);
        }
    }

    #[test]
    fn damaged_numbers_never_panic(place in any::<prop::sample::Index>(), number in any::<u64>()) {
        let mut bytes = tiny_llama().bytes();
        let place = place.index(bytes.len() - 8);
        bytes[place..place + 8].copy_from_slice(&number.to_le_bytes());
        if let Ok(file) = parse(bytes) {
            use_all(&file);
        }
    }

    #[test]
    fn random_bytes_after_the_head_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let head = [&b"GGUF"[..], &3u32.to_le_bytes(), &2u64.to_le_bytes(), &2u64.to_le_bytes()].concat();
        if let Ok(file) = parse([head, bytes].concat()) {
            use_all(&file);
        }
    }
}
