//! Rules for Rust files: first lines, lengths, names, imports, unfinished code, parity tests.

use std::path::Path;

use super::{Finding, SourceFile};

/// Longest file, tests included.
const LINES: usize = 500;

/// Names that say nothing about what a file holds.
const EMPTY_NAMES: [&str; 8] = [
    "util", "utils", "helper", "helpers", "common", "misc", "base", "prelude",
];

/// Macros that stand for code that is not there, and output left from debugging. They are written
/// in two parts so that this file keeps its own rule.
const UNFINISHED: [&str; 3] = [
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
    concat!("dbg", "!("),
];

/// Ways in which a test reads golden fixtures.
const FIXTURE_READS: [&str; 3] = [
    "fixtures::of_kind",
    "fixtures::language_models",
    "fixtures::Fixture",
];

pub(super) fn check(file: &SourceFile) -> Vec<Finding> {
    let path = file.path.display().to_string();
    let mut findings = Vec::new();
    if !file.text.starts_with("//! ") {
        findings.push(Finding::new(
            &path,
            "the first line must be a `//!` line that says what the file holds",
        ));
    }
    let n_lines = file.text.lines().count();
    if n_lines > LINES {
        findings.push(Finding::new(
            &path,
            format!("{n_lines} lines; split it at {LINES}"),
        ));
    }
    if let Some(name) = empty_name(&file.path) {
        findings.push(Finding::new(
            &path,
            format!("the name `{name}` says nothing about what is inside"),
        ));
    }
    for (index, line) in file.text.lines().enumerate() {
        if let Some(fault) = line_fault(line) {
            findings.push(Finding::new(format!("{path}:{}", index + 1), fault));
        }
    }
    findings.extend(parity_names(file, &path));
    findings
}

fn empty_name(path: &Path) -> Option<String> {
    let parts = path
        .components()
        .map(|part| part.as_os_str().to_string_lossy().into_owned());
    let stems = parts.map(|part| part.trim_end_matches(".rs").to_owned());
    stems.into_iter().find(|stem| {
        stem.split(['_', '-'])
            .any(|word| EMPTY_NAMES.contains(&word) && word != "base")
            || stem == "base"
    })
}

fn line_fault(line: &str) -> Option<String> {
    let code = line.trim_start();
    if code.starts_with("//") {
        return None;
    }
    let import = ["use ", "pub use ", "pub(crate) use ", "pub(super) use "]
        .iter()
        .any(|word| code.starts_with(word));
    if import && (code.contains("::*") || code.contains("{*")) {
        return Some("imports are named one by one".to_owned());
    }
    let unfinished = UNFINISHED.iter().find(|name| code.contains(**name))?;
    Some(format!(
        "`{unfinished}..)` stands for code that is not there"
    ))
}

/// Tests that read golden fixtures can be chosen by the word `parity` in their full names.
fn parity_names(file: &SourceFile, path: &str) -> Vec<Finding> {
    let module = file.path.file_stem().unwrap_or_default().to_string_lossy();
    if !file.path.starts_with("tests") || module.contains("parity") {
        return Vec::new();
    }
    let functions = functions(&file.text);
    let reads = |body: &str| FIXTURE_READS.iter().any(|read| body.contains(read));
    let mut readers: Vec<&str> = Vec::new();
    // A function that calls a reader is a reader; as many rounds as there are functions suffice.
    for _ in 0..functions.len() {
        let calls = |body: &str| {
            readers
                .iter()
                .any(|name| body.contains(&format!("{name}(")))
        };
        readers = functions
            .iter()
            .filter(|f| reads(f.body) || calls(f.body))
            .map(|f| f.name)
            .collect();
    }
    let unnamed = functions
        .iter()
        .filter(|f| f.test && readers.contains(&f.name) && !f.name.contains("parity"));
    unnamed
        .map(|f| {
            Finding::new(
                path,
                format!(
                    "test {} reads fixtures without `parity` in its name",
                    f.name
                ),
            )
        })
        .collect()
}

/// A function of a file, found by its text alone.
struct Function<'a> {
    name: &'a str,
    test: bool,
    body: &'a str,
}

fn functions(text: &str) -> Vec<Function<'_>> {
    let pieces: Vec<&str> = text.split("fn ").collect();
    let before = |index: usize| pieces[index].trim_end();
    (1..pieces.len())
        .map(|index| Function {
            name: pieces[index].split(['(', '<']).next().unwrap_or_default(),
            test: before(index - 1).ends_with("#[test]"),
            body: pieces[index].split_once('{').map_or("", |(_, body)| body),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{SourceFile, check};

    fn faults(path: &str, text: &str) -> Vec<String> {
        let file = SourceFile {
            path: path.into(),
            text: text.to_owned(),
        };
        check(&file)
            .into_iter()
            .map(|finding| finding.fault)
            .collect()
    }

    #[test]
    fn a_file_that_follows_the_rules_passes() {
        let text = "//! One linear layer.\nuse burn::tensor::Tensor;\nfn f() { g(a * b); }\n";
        assert_eq!(
            faults("crates/hybrid-models/src/linear.rs", text),
            Vec::<String>::new()
        );
    }

    #[test]
    fn each_rule_finds_its_fault() {
        let long = format!("//! Long.\n{}", "fn f() {}\n".repeat(500));
        let reader = "//! X.\nuse crate::fixtures;\nfn all() { fixtures::of_kind(\"model\"); }\n\
            #[test]\nfn equal() { all(); }\n#[test]\nfn parity() { all(); }\n#[test]\nfn free() {}\n";
        let cases = [
            ("crates/a/src/x.rs", "use a::b;\n".to_owned(), "first line"),
            ("crates/a/src/x.rs", long, "501 lines"),
            (
                "crates/a/src/tensor_utils.rs",
                "//! X.\n".to_owned(),
                "`tensor_utils`",
            ),
            (
                "crates/a/src/common/x.rs",
                "//! X.\n".to_owned(),
                "`common`",
            ),
            (
                "crates/a/src/x.rs",
                "//! X.\npub use a::*;\n".to_owned(),
                "one by one",
            ),
            (
                "crates/a/src/x.rs",
                format!("//! X.\nfn f() {{ {}) }}\n", concat!("todo", "!(")),
                "not there",
            ),
            ("tests/models.rs", reader.to_owned(), "test equal"),
        ];
        for (path, text, fault) in cases {
            let found = faults(path, &text);
            assert!(
                found.len() == 1 && found[0].contains(fault),
                "{path}: {found:?} instead of {fault}"
            );
        }
    }
}
