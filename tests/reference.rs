//! Scripts that compare with the reference stack itself. They run only where it is installed:
//! `HYBRID_REFERENCE_PYTHON` names its interpreter.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

/// The interpreter that has the reference stack, if one is named.
pub(crate) fn python() -> Option<OsString> {
    std::env::var_os("HYBRID_REFERENCE_PYTHON")
}

/// Hands cases to a script of this folder, which fails where the reference disagrees.
pub(crate) fn compare(python: OsString, script: &str, folder: &Path, cases: Vec<Value>) {
    let path = folder.join("cases.json");
    std::fs::write(&path, json!(cases).to_string()).unwrap();
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests");
    let output = Command::new(python)
        .arg(scripts.join(script))
        .arg(&path)
        .output()
        .expect("the interpreter runs");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{text}");
}
