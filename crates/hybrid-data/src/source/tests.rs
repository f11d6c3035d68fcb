//! Tests over real files of every text format.

use std::path::{Path, PathBuf};

use burn_dataset::Dataset;
use proptest::collection::vec;
use proptest::prelude::{any, proptest};

use super::{into_dataset, open, read_examples};
use crate::error::DataError;
use crate::example::{Example, FieldMapping};

/// A folder with one file of these bytes.
fn file(name: &str, bytes: impl AsRef<[u8]>) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}

const GOOD: &str = "{\"query\": \"a\", \"intent\": \"x\"}";

fn mapping() -> FieldMapping {
    FieldMapping::new([("text", "query")], Some("intent"))
}

fn read(name: &str, bytes: impl AsRef<[u8]>) -> Result<Vec<Example>, DataError> {
    let (_folder, path) = file(name, bytes);
    read_examples(&path, &mapping())
}

/// The message without the folder.
fn message(name: &str, bytes: impl AsRef<[u8]>) -> String {
    let message = read(name, bytes).unwrap_err().to_string();
    message[message.find(name).unwrap()..].to_owned()
}

fn facts(examples: &[Example]) -> Vec<(usize, &str, &str)> {
    examples
        .iter()
        .map(|example| {
            (
                example.origin.line,
                example.fields["text"].as_str(),
                example.label.as_deref().unwrap(),
            )
        })
        .collect()
}

#[test]
fn json_lines_skip_blank_lines_and_byte_order_mark() {
    let bytes = "\u{feff}{\"query\": \"a \\\"b\\\"\", \"intent\": \"x\", \"n\": 1}\r\n\n  \n{\"intent\": \"y\", \"query\": \"ü\"}";
    let examples = read("rows.jsonl", bytes).unwrap();
    assert_eq!(facts(&examples), [(1, "a \"b\"", "x"), (4, "ü", "y")]);
}

#[test]
fn csv_fields_may_hold_commas_quotes_and_lines() {
    let bytes = "intent,query\nx,\"a, \"\"b\"\"\nc\"\ny,d\n";
    let examples = read("rows.csv", bytes).unwrap();
    assert_eq!(facts(&examples), [(2, "a, \"b\"\nc", "x"), (4, "d", "y")]);
}

#[test]
fn a_folder_is_read_in_name_order() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &str| std::fs::write(folder.path().join(name), bytes).unwrap();
    write("b.jsonl", "{\"query\": \"second\", \"intent\": \"x\"}");
    write("a.csv", "query,intent\nfirst,x\n");
    write("NOTICE.md", "not data");
    let examples = read_examples(folder.path(), &mapping()).unwrap();
    let texts: Vec<&str> = examples
        .iter()
        .map(|example| example.fields["text"].as_str())
        .collect();
    assert_eq!(texts, ["first", "second"]);
    assert_eq!(examples[0].origin.file.file_name().unwrap(), "a.csv");
    assert_eq!(open(folder.path()).unwrap().len(), 2);
}

#[test]
fn examples_serve_as_a_burn_dataset() {
    let examples = read("rows.csv", "query,intent\na,x\nb,y\n").unwrap();
    let dataset = into_dataset(examples.clone());
    assert_eq!(dataset.len(), 2);
    assert_eq!(dataset.get(1).unwrap(), examples[1]);
}

#[test]
fn a_mapping_without_label_reads_unlabelled_rows() {
    let (_folder, path) = file("rows.jsonl", "{\"query\": \"a\"}");
    let examples = read_examples(&path, &FieldMapping::new([("text", "query")], None)).unwrap();
    assert_eq!(examples[0].label, None);
}

/// The label and the references of each row, without fields.
type Answers = Vec<(Option<String>, Vec<String>)>;

fn read_answers(name: &str, bytes: impl AsRef<[u8]>) -> Result<Answers, DataError> {
    let (_folder, path) = file(name, bytes);
    let mapping = FieldMapping {
        references: Some("answers".to_owned()),
        ..FieldMapping::new([], None)
    };
    let examples = read_examples(&path, &mapping)?.into_iter();
    Ok(examples
        .map(|example| (example.label, example.references))
        .collect())
}

#[test]
fn references_are_strings_lists_of_them_or_objects_with_text() {
    let answers = |texts: &[&str]| {
        let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
        (texts.first().cloned(), texts)
    };
    let rows = concat!(
        r#"{"answers": ["in Köln", "Köln"]}"#,
        "\n",
        r#"{"answers": [{"text": "Bonn", "start": 27}, {"start": 3, "text": "Ulm"}]}"#,
        "\n",
        r#"{"answers": []}"#,
        "\n",
        r#"{"answers": "Jena"}"#,
    );
    assert_eq!(
        read_answers("rows.jsonl", rows).unwrap(),
        [
            answers(&["in Köln", "Köln"]),
            answers(&["Bonn", "Ulm"]),
            answers(&[]),
            answers(&["Jena"]),
        ]
    );
    assert_eq!(
        read_answers("rows.csv", "answers\n\"[\"\"a\"\"]\"\n").unwrap(),
        [answers(&["[\"a\"]"])],
        "CSV has no lists"
    );
}

#[test]
fn faults_of_references_name_file_line_and_field() {
    let expected = "expected a string or a list of strings";
    for (value, found) in [
        ("null", "null"),
        ("7", "a number"),
        ("{\"text\": \"a\"}", "an object"),
        ("[\"a\", null]", "a list with null in it"),
        ("[true]", "a list with a boolean in it"),
        ("[\"a\", 7]", "a list with a number in it"),
        ("[[\"a\"]]", "a list with a list in it"),
        (
            "[{\"start\": 27}]",
            "a list with an object without a string `text`",
        ),
        (
            "[{\"text\": \"a\", \"start\": -1}]",
            "a list with an object whose `start` is no whole number",
        ),
        (
            "[{\"text\": 7}]",
            "a list with an object without a string `text`",
        ),
    ] {
        let rows = format!("{{\"answers\": []}}\n{{\"answers\": {value}}}\n");
        let message = read_answers("rows.jsonl", rows).unwrap_err().to_string();
        let wanted = format!("rows.jsonl:2: field `answers` is {found}, {expected}");
        assert!(message.ends_with(&wanted), "{value}: {message}");
    }
    for (name, rows, wanted) in [
        (
            "rows.jsonl",
            "{\"answers\": [\"a\", \" \"]}",
            "rows.jsonl:1: field `answers` holds an empty reference",
        ),
        (
            "rows.csv",
            "answers,n\n,1\n",
            "rows.csv:2: field `answers` holds an empty reference",
        ),
        (
            "rows.jsonl",
            "{\"answer\": [\"a\"]}",
            "rows.jsonl:1: no field `answers`; the row has `answer`",
        ),
    ] {
        let message = read_answers(name, rows).unwrap_err().to_string();
        assert!(message.ends_with(wanted), "{message}");
    }
}

#[test]
fn faults_of_rows_name_file_line_and_field() {
    let cases = [
        (
            "{\"intent\": \"x\", \"text\": \"a\"}",
            "rows.jsonl:2: no field `query`; the row has `intent`, `text`",
        ),
        (
            "{\"query\": \"a\", \"intent\": 3}",
            "rows.jsonl:2: field `intent` is a number, expected a string",
        ),
        (
            "{\"query\": \"a\", \"intent\": [\"x\"]}",
            "rows.jsonl:2: field `intent` is a list, expected a string",
        ),
        (
            "{\"query\": null, \"intent\": \"x\"}",
            "rows.jsonl:2: field `query` is null, expected a string",
        ),
        (
            "{\"query\": \"a\", \"intent\": \" \"}",
            "rows.jsonl:2: field `intent` holds an empty label",
        ),
        ("[1, 2]", "rows.jsonl:2: not a JSON object"),
        ("{\"query\": \"a\"", "rows.jsonl:2: not a JSON object"),
        ("{} {}", "rows.jsonl:2: not a JSON object"),
    ];
    for (row, expected) in cases {
        assert_eq!(
            message("rows.jsonl", format!("{GOOD}\n{row}\n")),
            expected,
            "{row}"
        );
    }
    assert_eq!(
        message("rows.csv", "text,intent\na,x\n"),
        "rows.csv:2: no field `query`; the row has `intent`, `text`"
    );
    assert_eq!(
        message("rows.csv", "query,intent\na,x\nb\n"),
        "rows.csv:3: bad CSV row"
    );
    assert_eq!(
        message("rows.csv", "query,intent\na,\n"),
        "rows.csv:2: field `intent` holds an empty label"
    );
}

#[test]
fn a_line_that_is_no_json_is_counted_in_the_file() {
    use std::error::Error;
    let error = read(
        "rows.jsonl",
        "{}\n\n{\"query\": nothing}\n".replace("{}", GOOD),
    )
    .unwrap_err();
    let source = error.source().unwrap().to_string();
    assert!(source.contains("line 3 column "), "{source}");
}

#[test]
fn invalid_utf8_names_its_line_and_field() {
    let bytes =
        b"{\"query\": \"a\", \"intent\": \"x\"}\n{\"query\": \"\xff\", \"intent\": \"x\"}\n";
    assert_eq!(
        message("rows.jsonl", bytes),
        "rows.jsonl:2: invalid UTF-8 in field `query`"
    );
    assert_eq!(
        message(
            "rows.jsonl",
            b"{\"a\": \"\xee\x80\x80\", \"b\": [\"x\xff\"]}\n"
        ),
        "rows.jsonl:1: invalid UTF-8 in field `b`"
    );
    assert_eq!(
        message("rows.jsonl", b"{\"a\": \xff\n"),
        "rows.jsonl:1: invalid UTF-8"
    );
    assert_eq!(
        message("rows.csv", b"query,intent\na,x\n\xc3,x\n"),
        "rows.csv:3: invalid UTF-8 in field `query`"
    );
    assert_eq!(
        message("rows.csv", b"query,\xc3\na,x\n"),
        "rows.csv:1: invalid UTF-8 in field `column 2`"
    );
}

#[test]
fn missing_empty_and_unknown_files_are_named() {
    for name in ["rows.jsonl", "rows.csv"] {
        assert_eq!(message(name, ""), format!("{name}: holds no examples"));
        assert_eq!(message(name, "\n \n"), format!("{name}: holds no examples"));
    }
    assert_eq!(
        message("rows.csv", "query,intent\n"),
        "rows.csv: holds no examples"
    );
    assert!(message("rows.txt", "a").starts_with("rows.txt: unknown format; known are .jsonl"));
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(
        read_examples(folder.path(), &mapping()),
        Err(DataError::Empty { .. })
    ));
    let missing = folder.path().join("rows.jsonl");
    assert!(matches!(
        read_examples(&missing, &mapping()),
        Err(DataError::Read { .. })
    ));
    #[cfg(not(feature = "parquet"))]
    assert!(message("rows.parquet", "").contains("--features hybrid/parquet -- train"));
}

#[test]
fn the_carried_sample_has_ten_and_three_shots_a_label() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/banking77");
    let mapping = FieldMapping::new([("text", "text")], Some("label"));
    let read = |name| read_examples(&folder.join(name), &mapping).unwrap();
    let (fit, select, report) = (
        read("fit.jsonl"),
        read("select.jsonl"),
        read("report.jsonl"),
    );
    let labels = crate::LabelSet::of(&fit).unwrap();
    assert_eq!((labels.len(), report.len()), (77, 3080));
    for (examples, shots) in [(&fit, 10), (&select, 3), (&report, 40)] {
        let targets = labels.targets(examples).unwrap();
        for class in 0..labels.len() {
            assert_eq!(
                targets.iter().filter(|&&target| target == class).count(),
                shots,
                "{}",
                labels.names()[class]
            );
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_make_a_reader_panic(bytes in vec(any::<u8>(), 0..200)) {
        let _ = read("rows.jsonl", &bytes);
        let _ = read("rows.csv", &bytes);
    }

    #[test]
    fn json_lines_keep_any_text(texts in vec(any::<String>(), 1..8)) {
        let lines: Vec<String> = texts
            .iter()
            .map(|text| serde_json::json!({"query": text, "intent": "x"}).to_string() + "\n")
            .collect();
        let examples = read("rows.jsonl", lines.concat()).unwrap();
        let read: Vec<&str> = examples.iter().map(|example| example.fields["text"].as_str()).collect();
        assert_eq!(read, texts);
    }

    #[test]
    fn lists_of_strings_and_of_objects_read_alike(texts in vec(any::<String>(), 0..8)) {
        // No reference is blank.
        let texts: Vec<String> = texts.iter().map(|text| format!("{text}.")).collect();
        let spans = texts.iter().map(|text| serde_json::json!({"text": text, "start": 0}));
        let spans: Vec<_> = spans.collect();
        let rows = format!(
            "{}\n{}\n",
            serde_json::json!({"answers": texts}),
            serde_json::json!({"answers": spans})
        );
        let answers = (texts.first().cloned(), texts);
        let rows = read_answers("rows.jsonl", rows).unwrap();
        assert_eq!(rows, [answers.clone(), answers]);
    }
}
