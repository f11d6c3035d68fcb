//! The model card: what the artifact is, how to load it, how good it is and where it ends.

use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior, Value};

use super::{CandidateReport, Final, Report, format};
use crate::{EvalError, TextTask, higher_is_better};

const NAME: &str = "card.md";
const TEMPLATE: &str = include_str!("card.md");

/// What loading the artifact takes beyond the report.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct CardDetails {
    /// Folder of the artifact as a reader would write it.
    pub artifact: String,
    /// Longest input in tokens.
    pub max_length: usize,
    /// Folder of the adapter in PEFT's format, relative to the artifact; none without one.
    pub peft_folder: Option<String>,
    /// The classifier head; none for a prompt alone and where answers are texts.
    pub head: Option<HeadDetails>,
    /// The span head, and how it is asked; where answers are pieces of a passage.
    pub spans: Option<SpanDetails>,
}

/// How answers are found in passages.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct SpanDetails {
    /// The head's safetensors file, relative to the artifact: `weight` `[2, d_model]` and `bias`
    /// `[2]`; none where nothing was trained.
    pub file: Option<String>,
    /// Tokens that neighbouring windows of a passage share.
    pub stride: usize,
    /// Most tokens of an answer.
    pub max_answer_length: usize,
}

/// A classifier head on disk.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct HeadDetails {
    /// Its safetensors file, relative to the artifact: `weight` `[n_labels, d_model]` and `bias`
    /// `[n_labels]`.
    pub file: String,
    /// `cls`, `mean` or `pooler`.
    pub pooling: String,
    /// Whether the pooled vector is scaled to unit length first.
    pub normalize: bool,
    /// Whether PEFT's file holds the head, too.
    pub in_peft: bool,
}

/// What the template sees.
#[derive(serde::Serialize)]
struct Card<'r> {
    report: &'r Report,
    #[serde(rename = "final")]
    final_result: &'r Final,
    winner: Option<&'r CandidateReport>,
    /// The task's name on model hubs.
    hub_task: &'static str,
    /// Figures for the model index: the hub's name of each, ours where it needs one, the value.
    hub_figures: Vec<HubFigure>,
    /// The labels; none where answers are texts.
    labels: Option<&'r [String]>,
    calibration_error: Option<f64>,
    /// By how much choosing on select flattered the deciding figure.
    flattery: f64,
    /// The winner's methods in words.
    methods: Vec<String>,
    /// Whether the base has a name that others can load too.
    hub_base: bool,
    details: &'r CardDetails,
    /// Whether PEFT's file holds the classifier too, in the place where the base keeps its own.
    peft_classifier: bool,
    /// An input in JSON, which Python reads as well.
    example: String,
}

/// A figure as model hubs name it.
#[derive(serde::Serialize)]
struct HubFigure {
    /// The metric.
    metric: &'static str,
    /// Which of the metric's figures it is, where that has several.
    name: Option<String>,
    value: f64,
}

/// The whole card.
pub(super) fn render(report: &Report, details: &CardDetails) -> Result<String, EvalError> {
    let winner = report.candidate(&report.final_result.candidate);
    let adapter = winner.and_then(|winner| winner.adapter.as_ref());
    let card = Card {
        report,
        final_result: &report.final_result,
        winner,
        hub_task: hub_task(report),
        hub_figures: hub_figures(report),
        labels: report
            .confusion
            .as_ref()
            .map(|confusion| confusion.labels.as_slice()),
        calibration_error: report
            .calibration
            .as_ref()
            .map(|calibration| calibration.ece),
        flattery: if higher_is_better(&report.generalisation.metric) {
            report.generalisation.gap
        } else {
            -report.generalisation.gap
        },
        methods: adapter.map_or_else(Vec::new, |adapter| {
            adapter
                .methods
                .iter()
                .map(format::describe_config)
                .collect()
        }),
        hub_base: !Path::new(&report.base).is_absolute() && !report.base.starts_with('.'),
        details,
        peft_classifier: details.head.as_ref().is_some_and(|head| head.in_peft),
        example: example(winner.map_or("", |winner| &winner.prompt.template), "..."),
    };
    let fault = |source| EvalError::Template {
        template: NAME,
        source,
    };
    environment()
        .and_then(|environment| environment.get_template(NAME)?.render(Serde(card)))
        .map_err(fault)
}

fn hub_task(report: &Report) -> &'static str {
    match report.texts.as_ref().map(|texts| texts.task) {
        None => "text-classification",
        Some(TextTask::QuestionAnswering) => "question-answering",
        Some(TextTask::Translation) => "translation",
        Some(TextTask::Summarization) => "summarization",
    }
}

/// Those of the report's figures that hubs know.
fn hub_figures(report: &Report) -> Vec<HubFigure> {
    let known = [
        ("accuracy", "accuracy"),
        ("macro_f1", "f1"),
        ("mcc", "matthews_correlation"),
        ("f1", "f1"),
        ("exact_match", "exact_match"),
        ("chrf", "chrf"),
        ("bleu", "bleu"),
        ("ter", "ter"),
        ("rouge1", "rouge"),
        ("rouge2", "rouge"),
        ("rougeL", "rouge"),
    ];
    let value = |figure: &str| report.final_result.per_metric.get(figure).copied();
    let told = known.into_iter().filter_map(|(figure, metric)| {
        Some(HubFigure {
            metric,
            name: (figure == "macro_f1" || metric == "rouge").then(|| format::metric_name(figure)),
            value: value(figure)?,
        })
    });
    told.collect()
}

/// An input with every field that the template uses.
fn example(template: &str, value: &str) -> String {
    let environment = Environment::new();
    let used = environment
        .template_from_str(template)
        .map(|template| template.undeclared_variables(false));
    let mut fields: Vec<String> = used.unwrap_or_default().into_iter().collect();
    fields.sort();
    let quoted =
        |field: &String| format!("{}: \"{value}\"", serde_json::Value::from(field.as_str()));
    format!(
        "{{{}}}",
        fields.iter().map(quoted).collect::<Vec<_>>().join(", ")
    )
}

fn environment() -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .keep_trailing_newline(true)
            .build()?,
    );
    environment.add_filter("cell", |text: &str| cell(text));
    environment.add_filter("code", |text: &str| code(text));
    environment.add_filter("block", |text: &str, language: &str| block(text, language));
    environment.add_filter("plain", |text: &str| text.replace(['`', '\n', '\r'], " "));
    environment.add_filter("shell", |text: &str| {
        format!("'{}'", text.replace('\'', "'\\''"))
    });
    environment.add_filter("quoted", quoted);
    environment.add_filter("difference", |value: f64, metric: &str| {
        format::difference(value, metric)
    });
    environment.add_filter("p_value", format::p_value);
    environment.add_filter("rounded", |value: f64| format!("{value:.4}"));
    environment.add_filter("percent", format::percent);
    environment.add_filter("interval", |bounds: Serde<[f64; 2]>, metric: &str| {
        format::interval(*bounds, metric)
    });
    environment.add_filter("figure", |value: f64, metric: &str| {
        format::figure(value, metric)
    });
    environment.add_filter("metric_name", |metric: &str| format::metric_name(metric));
    environment.add_filter("grouped", format::count);
    environment.add_filter("duration", format::duration);
    environment.add_template(NAME, TEMPLATE)?;
    Ok(environment)
}

/// Text that Markdown takes literally, on one line.
fn cell(text: &str) -> String {
    let mut literal = String::new();
    for character in text.chars() {
        match character {
            '\n' | '\r' => literal.push(' '),
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '#' => {
                literal.extend(['\\', character])
            }
            other => literal.push(other),
        }
    }
    literal
}

/// Text in a code span, which may itself hold backticks.
fn code(text: &str) -> String {
    let text = text.replace(['\n', '\r'], " ").replace('|', "\\|");
    let longest = text
        .split(|character| character != '`')
        .map(str::len)
        .max()
        .unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    if longest > 0 {
        format!("{fence} {text} {fence}")
    } else {
        format!("{fence}{text}{fence}")
    }
}

/// A fenced block, which may itself hold fences.
fn block(text: &str, language: &str) -> String {
    let longest = text
        .split(|character| character != '`')
        .map(str::len)
        .max()
        .unwrap_or(0);
    let fence = "`".repeat((longest + 1).max(3));
    format!("{fence}{language}\n{}\n{fence}", text.trim_end())
}

/// A JSON string or list of strings, which YAML and Python read alike.
fn quoted(value: Value) -> Result<String, minijinja::Error> {
    serde_json::to_string(&value).map_err(|error| {
        minijinja::Error::new(minijinja::ErrorKind::BadSerialization, "not plain data")
            .with_source(error)
    })
}

#[cfg(test)]
mod tests {
    use super::{CardDetails, HeadDetails, SpanDetails, cell, code, render};
    use crate::report::sample::sample;
    use crate::report::text_sample::text_sample;
    use crate::{Generalisation, SharedTexts, TextTask};

    fn details() -> CardDetails {
        CardDetails {
            artifact: "runs/banking77/artifact".to_owned(),
            max_length: 64,
            peft_folder: Some("adapter".to_owned()),
            head: Some(HeadDetails {
                file: "head.safetensors".to_owned(),
                pooling: "mean".to_owned(),
                normalize: true,
                in_peft: false,
            }),
            spans: None,
        }
    }

    #[test]
    fn the_front_matter_names_base_and_figures() {
        let card = render(&sample(), &details()).unwrap();
        let (front, body) = card
            .strip_prefix("---\n")
            .and_then(|card| card.split_once("\n---\n"))
            .unwrap();
        assert!(
            front.contains("base_model: \"sentence-transformers/all-MiniLM-L6-v2\""),
            "{front}"
        );
        assert!(front.contains("library_name: peft"));
        assert!(front.lines().all(|line| !line.contains('\t')));
        assert!(body.contains("{\"text\": "));
        assert!(body.contains("PeftModel.from_pretrained") && body.contains("F.normalize"));
    }

    #[test]
    fn answers_out_of_passages_are_told_as_such() {
        let card = |file: Option<&str>| {
            let spans = SpanDetails {
                file: file.map(str::to_owned),
                stride: 33,
                max_answer_length: 21,
            };
            let details = CardDetails {
                head: None,
                spans: Some(spans),
                ..details()
            };
            render(&text_sample(TextTask::QuestionAnswering), &details).unwrap()
        };
        let trained = card(Some("span_head.safetensors"));
        for part in ["/span_head.safetensors", "stride=33", "tril(20)"] {
            assert!(trained.contains(part), "{part}: {trained}");
        }
        assert!(!trained.contains("AutoModelForCausalLM") && !trained.contains("| template"));
        let untrained = card(None);
        assert!(untrained.contains("by chance") && !untrained.contains("```python"));
    }

    #[test]
    fn a_classifier_in_pefts_file_is_loaded_with_it() {
        let head = HeadDetails {
            file: "head.safetensors".to_owned(),
            pooling: "pooler".to_owned(),
            normalize: false,
            in_peft: true,
        };
        let card = render(
            &sample(),
            &CardDetails {
                head: Some(head),
                ..details()
            },
        )
        .unwrap();
        assert!(
            card.contains(
                "AutoModelForSequenceClassification.from_pretrained(base, num_labels=11)"
            )
        );
        assert!(!card.contains("load_file"));
    }

    #[test]
    fn a_prompt_alone_needs_no_peft() {
        let card = render(
            &sample(),
            &CardDetails {
                peft_folder: None,
                head: None,
                ..details()
            },
        )
        .unwrap();
        assert!(!card.contains("peft"), "{card}");
    }

    #[test]
    fn texts_that_splits_share_are_counted() {
        let card = render(&sample(), &details()).unwrap();
        assert!(
            card.contains("report examples 5 have a text that was trained on"),
            "{card}"
        );
        let mut report = sample();
        report.data.shared_texts = SharedTexts::default();
        let card = render(&report, &details()).unwrap();
        assert!(card.contains("No text stands in two of them."), "{card}");
    }

    fn of_texts() -> CardDetails {
        CardDetails {
            head: None,
            ..details()
        }
    }

    #[test]
    fn texts_are_spoken_of_as_texts() {
        for (task, name, metrics) in [
            (
                TextTask::QuestionAnswering,
                "question-answering",
                "  - f1\n  - exact_match\n",
            ),
            (
                TextTask::Translation,
                "translation",
                "  - chrf\n  - bleu\n  - ter\n",
            ),
            (TextTask::Summarization, "summarization", "  - rouge\n"),
        ] {
            let card = render(&text_sample(task), &of_texts()).unwrap();
            assert!(card.contains(&format!("pipeline_tag: {name}\n")), "{card}");
            assert!(
                card.contains(&format!("metrics:\n{metrics}model-index")),
                "{card}"
            );
            assert!(card.contains("PeftModel.from_pretrained") && card.contains("generate("));
            for of_labels in ["label", "calibration", "classif", "\n\n\n\n"] {
                assert!(!card.contains(of_labels), "{of_labels:?} in {card}");
            }
            let prompt = render(
                &text_sample(task),
                &CardDetails {
                    peft_folder: None,
                    ..of_texts()
                },
            );
            assert!(!prompt.unwrap().to_lowercase().contains("peft"));
        }
        let card = render(&text_sample(TextTask::Summarization), &of_texts()).unwrap();
        assert!(card.contains("          - type: rouge\n            name: ROUGE-2\n"));
    }

    #[test]
    fn a_figure_of_errors_is_flattered_downwards() {
        let mut report = text_sample(TextTask::Translation);
        report.generalisation = Generalisation::of("ter", 40.0, 42.5);
        let card = render(&report, &of_texts()).unwrap();
        assert!(
            card.contains("flattered the translation edit rate by\n  +2.5 against"),
            "{card}"
        );
    }

    #[test]
    fn hostile_text_stays_text() {
        assert_eq!(cell("a|b\n# c"), "a\\|b \\# c");
        assert_eq!(code("a `b` | c"), "`` a `b` \\| c ``");
        let mut report = sample();
        report.task = "x\"\n---\nevil: true".to_owned();
        report.confusion.as_mut().unwrap().labels[0] = "\"\"\"\nimport os".to_owned();
        let card = render(&report, &details()).unwrap();
        assert!(!card.contains("\nevil: true"), "{card}");
        assert!(!card.contains("\nimport os"), "{card}");
    }
}
