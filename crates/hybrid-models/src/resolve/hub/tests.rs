//! A hub of one thread, and hubs that fail.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use super::super::wheel::sha256;
use super::{Hub, is_id, wanted_files};
use crate::ModelError;

fn hub(cache: &Path, endpoint: &str) -> Hub {
    Hub {
        cache: cache.to_owned(),
        endpoint: Some(endpoint.to_owned()),
        token: None,
        offline: false,
        first_answer: Duration::from_secs(5),
    }
}

/// A hub with `files`, each under the etag that is given; serves until the test ends.
fn serve(files: &'static [(&'static str, &'static str)], etag: fn(&str) -> String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = answer(stream, files, etag);
        }
    });
    endpoint
}

fn answer(
    mut stream: TcpStream,
    files: &[(&str, &str)],
    etag: fn(&str) -> String,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().unwrap_or(Ok(String::new()))?;
    let head: Vec<String> = lines
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
        .collect();
    let path = request.split(' ').nth(1).unwrap_or_default();
    let (status, headers, body) = if path.starts_with("/api/models/") {
        let siblings: Vec<String> = files
            .iter()
            .map(|(name, _)| format!("{{\"rfilename\":\"{name}\"}}"))
            .collect();
        let body = format!(
            "{{\"sha\":\"c0ffee\",\"siblings\":[{}]}}",
            siblings.join(",")
        );
        (
            "200 OK",
            "content-type: application/json\r\n".to_owned(),
            body,
        )
    } else if let Some((_, text)) = files
        .iter()
        .find(|(name, _)| path.ends_with(&format!("/resolve/main/{name}")))
    {
        let probe = head
            .iter()
            .any(|line| line.eq_ignore_ascii_case("range: bytes=0-0"));
        let (end, body) = if probe {
            (1, &text[..1])
        } else {
            (text.len(), *text)
        };
        let range = format!("content-range: bytes 0-{}/{}\r\n", end - 1, text.len());
        let headers = format!(
            "etag: \"{}\"\r\nx-repo-commit: c0ffee\r\n{range}",
            etag(text)
        );
        ("206 Partial Content", headers, body.to_owned())
    } else {
        ("404 Not Found", String::new(), String::new())
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

const FILES: &[(&str, &str)] = &[
    ("config.json", "{\"model_type\":\"bert\"}"),
    ("tokenizer.json", "{ }"),
    ("model.safetensors", "weights"),
    ("onnx/model.onnx", "not wanted"),
    ("train_script.py", "not wanted"),
];

fn content_hash(text: &str) -> String {
    sha256(&mut text.as_bytes()).unwrap()
}

#[test]
fn a_download_lands_in_the_cache_and_serves_from_then_on() {
    let cache = tempfile::tempdir().unwrap();
    let hub = hub(cache.path(), &serve(FILES, content_hash));
    assert!(hub.cached("org/tiny").is_err());
    let folder = hub.download("org/tiny", &|_| {}).unwrap();
    assert!(
        folder.ends_with("models--org--tiny/snapshots/c0ffee"),
        "{}",
        folder.display()
    );
    assert_eq!(
        fs::read_to_string(folder.join("model.safetensors")).unwrap(),
        "weights"
    );
    assert!(!folder.join("train_script.py").exists() && !folder.join("onnx").exists());
    assert_eq!(hub.cached("org/tiny"), Ok(folder));
}

#[test]
fn content_that_is_not_what_the_hub_names_is_not_kept() {
    let cache = tempfile::tempdir().unwrap();
    let hub = hub(
        cache.path(),
        &serve(FILES, |text| content_hash(&format!("{text}!"))),
    );
    let error = hub.download("org/tiny", &|_| {}).unwrap_err();
    assert!(matches!(error, ModelError::HubMismatch { .. }), "{error}");
    assert!(hub.cached("org/tiny").is_err());
}

#[test]
fn an_unknown_repository_and_a_closed_port_are_errors_at_once() {
    let cache = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let error = hub(cache.path(), "http://127.0.0.1:9")
        .download("org/tiny", &|_| {})
        .unwrap_err();
    assert!(matches!(error, ModelError::Hub { .. }), "{error}");
    let endpoint = serve(&[], content_hash);
    let error = hub(cache.path(), &endpoint)
        .download("org/tiny", &|_| {})
        .unwrap_err();
    assert!(matches!(error, ModelError::HubLacks { .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_silent_hub_is_given_up() {
    let cache = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut hub = hub(
        cache.path(),
        &format!("http://{}", listener.local_addr().unwrap()),
    );
    hub.first_answer = Duration::from_millis(200);
    let error = hub.download("org/tiny", &|_| {}).unwrap_err();
    assert!(matches!(error, ModelError::HubSilent { .. }), "{error}");
}

#[test]
fn an_offline_hub_is_not_asked() {
    let cache = tempfile::tempdir().unwrap();
    let mut hub = hub(cache.path(), "http://127.0.0.1:9");
    hub.offline = true;
    let error = hub.download("org/tiny", &|_| {}).unwrap_err();
    assert!(
        matches!(
            error,
            ModelError::Offline {
                variable: "HF_HUB_OFFLINE"
            }
        ),
        "{error}"
    );
}

#[test]
fn weights_are_wanted_in_one_format() {
    let names = |names: &[&str]| {
        names
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>()
    };
    let both = names(&[
        "pytorch_model.bin",
        "model.safetensors",
        "config.json",
        "rust_model.ot",
    ]);
    assert_eq!(wanted_files(&both), ["config.json", "model.safetensors"]);
    let sharded = names(&[
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "model-../../etc.safetensors",
    ]);
    assert_eq!(
        wanted_files(&sharded),
        [
            "config.json",
            "model.safetensors.index.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors"
        ]
    );
    assert_eq!(
        wanted_files(&names(&["pytorch_model.bin"])),
        ["pytorch_model.bin"]
    );
}

#[test]
fn ids_are_told_from_paths() {
    for id in ["gpt2", "sentence-transformers/all-MiniLM-L6-v2", "a/b_c.d"] {
        assert!(is_id(id), "{id}");
    }
    for path in [
        "",
        "./model",
        "/model",
        "a/b/c",
        "../model",
        "a/..",
        "~/model",
        "C:\\model",
        "a b",
    ] {
        assert!(!is_id(path), "{path}");
    }
}
