//! A whole GGUF file with one thing wrong at a time, through the command line.

use std::path::PathBuf;

use crate::fixtures;
use crate::tiny_task::{hybrid, messages, printed};

/// A file of the fixtures and its bytes.
fn whole_file() -> (PathBuf, Vec<u8>) {
    let fixtures = fixtures::of_kind("gguf");
    let mut whole = fixtures
        .iter()
        .filter_map(|fixture| Some(fixture.folder.join(fixture.meta["file"].as_str()?)));
    let path = whole.next().expect("a whole GGUF file");
    let bytes = std::fs::read(&path).unwrap();
    (path, bytes)
}

/// Where the number of axes of a tensor stands.
fn axes_of(bytes: &[u8], tensor: &str) -> usize {
    let name = [&(tensor.len() as u64).to_le_bytes(), tensor.as_bytes()].concat();
    let start = bytes
        .windows(name.len())
        .position(|window| window == name)
        .unwrap_or_else(|| panic!("no tensor {tensor}"));
    start + name.len()
}

#[test]
fn parity_files_that_are_damaged_are_refused_by_name() {
    let (_, whole) = whole_file();
    let words = "token_embd.weight";
    let axes = axes_of(&whole, words);
    let n_axes = u32::from_le_bytes(whole[axes..axes + 4].try_into().unwrap()) as usize;
    let rows = axes + 4 + 8 * (n_axes - 1);
    let kind = axes + 4 + 8 * n_axes;
    let vocab = u64::from_le_bytes(whole[rows..rows + 8].try_into().unwrap());
    let changed = |place: usize, bytes: &[u8]| {
        let mut changed = whole.clone();
        changed[place..place + bytes.len()].copy_from_slice(bytes);
        changed
    };
    let fewer = (vocab - 1).to_string();
    let vocab = vocab.to_string();
    let cases: [(Vec<u8>, &[&str]); 6] = [
        (changed(0, b"GGML"), &["magic", "`GGUF`", "GGML"]),
        (
            changed(kind, &999u32.to_le_bytes()),
            &[words, "unknown type 999", "known are F32"],
        ),
        (
            changed(kind, &16u32.to_le_bytes()),
            &[words, "unknown type 16 (IQ2_XXS)"],
        ),
        (
            changed(8, &u64::MAX.to_le_bytes()),
            &["number of tensors", "expected at most"],
        ),
        (
            whole[..whole.len() - 100].to_vec(),
            &["tensor `", "bytes at offset"],
        ),
        (
            changed(rows, &fewer.parse::<u64>().unwrap().to_le_bytes()),
            &["vocab", &vocab, &fewer],
        ),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    for (bytes, parts) in cases {
        std::fs::write(&path, bytes).unwrap();
        for dtype in ["float32", "keep"] {
            let mut generate = hybrid();
            generate.args(["generate", "--dtype", dtype, "--model"]);
            let output = generate.arg(&path).arg("Hello").assert().code(2);
            let said = messages(&output);
            for part in parts.iter().chain(&["model.gguf"]) {
                assert!(said.contains(part), "{part:?} is not in: {said}");
            }
            assert!(!said.contains("panicked"), "{said}");
            assert_eq!(printed(&output), "");
        }
    }
}
