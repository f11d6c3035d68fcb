//! The order of places.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Hub, Resolver, Source, wheel};
use crate::ModelError;

const MINILM: &str = "sentence-transformers/all-MiniLM-L6-v2";

/// A resolver that sees only `root` and no network.
fn resolver(root: &Path) -> Resolver {
    let hub = Hub {
        cache: root.join("hub"),
        endpoint: Some("http://127.0.0.1:9".to_owned()),
        token: None,
        offline: false,
        first_answer: Duration::from_secs(5),
    };
    Resolver {
        cache: root.join("cache"),
        offline: true,
        hub,
    }
}

fn write_model(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::write(folder.join(name), "{}").unwrap();
    }
}

fn write_hub_snapshot(root: &Path, folder_name: &str, branch: bool) -> PathBuf {
    let repo = root.join("hub").join(folder_name);
    let snapshot = repo.join("snapshots/0123abcd");
    write_model(&snapshot);
    if branch {
        fs::create_dir_all(repo.join("refs")).unwrap();
        fs::write(repo.join("refs/main"), "0123abcd").unwrap();
    }
    snapshot
}

/// Files of the right sizes where the wheel would have been unpacked.
fn write_unpacked(root: &Path) -> PathBuf {
    let wheel = wheel::known(MINILM).unwrap();
    let folder = root
        .join("cache/wheels")
        .join(format!("{}-{}", wheel.project, wheel.version));
    for file in wheel.files {
        let path = folder.join(file.path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::File::create(path).unwrap().set_len(file.size).unwrap();
    }
    folder
}

#[test]
fn a_folder_serves_itself() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("my model");
    write_model(&folder);
    let found = resolver(root.path())
        .resolve(folder.to_str().unwrap(), &|_| {})
        .unwrap();
    assert_eq!((found.source, found.folder), (Source::LocalFolder, folder));
}

#[test]
fn a_path_is_never_looked_up_elsewhere() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("absent");
    let error = resolver(root.path())
        .resolve(folder.to_str().unwrap(), &|_| {})
        .unwrap_err();
    assert!(matches!(error, ModelError::NoSuchFolder { .. }), "{error}");
    fs::create_dir(&folder).unwrap();
    let error = resolver(root.path())
        .resolve(folder.to_str().unwrap(), &|_| {})
        .unwrap_err();
    assert!(
        matches!(error, ModelError::IncompleteFolder { ref missing, .. } if missing == "config.json"),
        "{error}"
    );
}

#[test]
fn the_hub_cache_comes_before_the_wheel_cache() {
    let root = tempfile::tempdir().unwrap();
    let unpacked = write_unpacked(root.path());
    let found = resolver(root.path()).resolve(MINILM, &|_| {}).unwrap();
    assert_eq!((found.source, found.folder), (Source::WheelCache, unpacked));
    let snapshot = write_hub_snapshot(
        root.path(),
        "models--sentence-transformers--all-MiniLM-L6-v2",
        true,
    );
    let found = resolver(root.path()).resolve(MINILM, &|_| {}).unwrap();
    assert_eq!(
        (found.source, found.folder, found.name.as_str()),
        (Source::HubCache, snapshot, MINILM)
    );
}

#[test]
fn a_snapshot_without_a_branch_serves_if_it_is_the_only_one() {
    let root = tempfile::tempdir().unwrap();
    let snapshot = write_hub_snapshot(root.path(), "models--org--tiny", false);
    assert_eq!(
        resolver(root.path())
            .resolve("org/tiny", &|_| {})
            .unwrap()
            .folder,
        snapshot
    );
    fs::create_dir(snapshot.with_file_name("4567cdef")).unwrap();
    assert!(resolver(root.path()).resolve("org/tiny", &|_| {}).is_err());
}

#[test]
fn an_incomplete_snapshot_does_not_serve() {
    let root = tempfile::tempdir().unwrap();
    let snapshot = write_hub_snapshot(root.path(), "models--org--tiny", true);
    fs::remove_file(snapshot.join("model.safetensors")).unwrap();
    let error = resolver(root.path())
        .resolve("org/tiny", &|_| {})
        .unwrap_err();
    assert!(
        error.to_string().contains("model.safetensors is missing"),
        "{error}"
    );
}

#[test]
fn with_nothing_reachable_the_error_names_every_place_and_the_remedies() {
    let root = tempfile::tempdir().unwrap();
    let error = resolver(root.path())
        .with_offline(true)
        .resolve(MINILM, &|_| {})
        .unwrap_err();
    let ModelError::Unresolved { ref attempts, .. } = error else {
        panic!("{error}")
    };
    let sources: Vec<Source> = attempts.iter().map(|attempt| attempt.source).collect();
    assert_eq!(
        sources,
        [
            Source::LocalFolder,
            Source::HubCache,
            Source::Hub,
            Source::Wheel
        ]
    );
    let text = error.to_string();
    for words in ["HYBRID_OFFLINE", "local folder", "HF_HOME", "pip"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let error = resolver(root.path())
        .with_offline(false)
        .resolve("org/unknown", &|_| {})
        .unwrap_err();
    assert!(error.to_string().contains("no wheel is known"), "{error}");
}
