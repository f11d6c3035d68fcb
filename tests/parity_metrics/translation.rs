//! BLEU, chrF, chrF++ and TER against sacreBLEU.

use std::collections::BTreeMap;

use hybrid_eval::{
    Bleu, BleuScore, BleuTokenizer, Chrf, CorpusMetric, Smoothing, Ter, TextFigures, TextTask,
};
use serde_json::Value;

use super::{Checks, list, text, texts};

const TOKENIZERS: [BleuTokenizer; 4] = [
    BleuTokenizer::V13a,
    BleuTokenizer::International,
    BleuTokenizer::Characters,
    BleuTokenizer::None,
];

/// Words of case names that settings of the signature, or nothing but the name, tell.
const NAMED_SETTINGS: [&str; 17] = [
    "13a",
    "add",
    "char",
    "effective",
    "exp",
    "floor",
    "intl",
    "k",
    "lowercase",
    "none",
    "nopunct",
    "normalized",
    "order",
    "sentence",
    "smooth",
    "tok",
    "whitespace",
];

pub(super) fn check(checks: &Checks, cases: &Value) {
    let hypotheses = texts(&cases["hypotheses"]);
    let references: Vec<Vec<&str>> = list(&cases["references"]).iter().map(texts).collect();
    for (name, expected) in cases.as_object().expect("cases by name") {
        match name.as_str() {
            "hypotheses" | "references" => {}
            "tokenized_13a" => {
                let tokenized = hypotheses
                    .iter()
                    .map(|text| BleuTokenizer::V13a.tokenize(text));
                assert_eq!(tokenized.collect::<Vec<_>>(), texts(expected), "{name}");
            }
            "low_overlap" => low_overlap(checks, expected),
            _ => {
                let case = Case::of(name, &hypotheses, &references, expected);
                match case.metric {
                    "bleu" => case.bleu(checks),
                    "chrf" | "chrf++" => case.chrf(checks),
                    "ter" => case.ter(checks),
                    unknown => panic!("unknown metric {unknown:?} in {name}"),
                }
                case.as_text_figures(checks);
            }
        }
    }
}

/// Few matches, so that the smoothing methods differ.
fn low_overlap(checks: &Checks, case: &Value) {
    let hypotheses = texts(&case["hypotheses"]);
    let references: Vec<[&str; 1]> = list(&case["references"])
        .iter()
        .map(|reference| [text(reference)])
        .collect();
    for (name, expected) in case.as_object().expect("figures by name") {
        let smoothing = match name.as_str() {
            "hypotheses" | "references" => continue,
            name => name
                .strip_prefix("bleu_smooth_")
                .unwrap_or_else(|| panic!("unknown figure {name:?} in low_overlap")),
        };
        let bleu = Bleu {
            smoothing: smoothing_named(smoothing),
            ..Bleu::default()
        };
        let counts = bleu.counts(&hypotheses, &references).unwrap();
        let score = bleu.score(&counts.iter().sum());
        for (key, expected) in expected.as_object().expect("figures by name") {
            bleu_figure(
                checks,
                &format!("low_overlap.{name}"),
                key,
                &score,
                expected,
            );
        }
    }
}

/// One entry: a metric with its settings, for the first few references of each row.
struct Case<'f> {
    name: &'f str,
    metric: &'f str,
    beta: u32,
    settings: BTreeMap<&'f str, &'f str>,
    hypotheses: &'f [&'f str],
    references: Vec<&'f [&'f str]>,
    expected: &'f Value,
}

impl<'f> Case<'f> {
    /// Reads `METRIC_SETTINGS_NUMBERref`. The signature tells the settings, all but chrF's beta.
    fn of(
        name: &'f str,
        hypotheses: &'f [&'f str],
        references: &'f [Vec<&'f str>],
        expected: &'f Value,
    ) -> Self {
        let mut words: Vec<&str> = name.split('_').collect();
        let number = words
            .pop()
            .and_then(|word| word.trim_end_matches('s').strip_suffix("ref"))
            .and_then(|number| number.parse().ok())
            .unwrap_or_else(|| panic!("unknown key {name:?}"));
        let mut beta = 2;
        for word in &words[1..] {
            if let Some(value) = word.strip_prefix("beta") {
                beta = value.parse().expect("a number for beta");
            } else {
                assert!(
                    NAMED_SETTINGS.contains(word),
                    "unknown setting {word:?} in {name}"
                );
            }
        }
        let settings = text(&expected["signature"]).split('|').map(|setting| {
            setting
                .split_once(':')
                .unwrap_or_else(|| panic!("{setting:?} in the signature of {name}"))
        });
        let references = references.iter().map(|row| &row[..number]);
        Self {
            name,
            metric: words[0],
            beta,
            settings: settings.collect(),
            hypotheses,
            references: references.collect(),
            expected,
        }
    }

    fn bleu(&self, checks: &Checks) {
        let tokenizer = TOKENIZERS
            .into_iter()
            .find(|tokenizer| tokenizer.name() == self.settings["tok"])
            .unwrap_or_else(|| panic!("{}: unknown tokenizer", self.name));
        let smoothing = self.settings["smooth"].split('[').next().expect("a name");
        let bleu = Bleu {
            tokenizer,
            smoothing: smoothing_named(smoothing),
            lowercase: self.settings["case"] == "lc",
            effective_order: self.settings["eff"] == "yes",
        };
        self.figures(checks, &bleu, |key, counts, expected| {
            bleu_figure(checks, self.name, key, &bleu.score(counts), expected);
        });
    }

    /// The figures of the task, whose settings are the defaults, and for single sentences BLEU's
    /// effective order.
    fn as_text_figures(&self, checks: &Checks) {
        let settings = self.name.split('_').count() - 2;
        let of_sentences = self.name.starts_with("bleu_sentence_effective_order");
        if (settings > 0 && !of_sentences) || self.metric == "chrf++" {
            return;
        }
        let task = TextTask::Translation;
        let figures = TextFigures::of(task, self.hypotheses, &self.references).unwrap();
        let what = format!("text {}", self.name);
        if let Some(score) = self.expected.get("score") {
            checks.figure(&what, figures.value(self.metric).unwrap(), score);
        }
        if let Some(scores) = self.expected.get("sentence_scores") {
            checks.figures(&what, &figures.per_example(self.metric).unwrap(), scores);
        }
    }

    fn chrf(&self, checks: &Checks) {
        let chrf = Chrf {
            word_order: self.settings["nw"].parse().expect("a number of words"),
            beta: self.beta,
            whitespace: self.settings["space"] == "yes",
        };
        let is_plus_plus = self.metric == "chrf++";
        assert_eq!(
            chrf.word_order,
            if is_plus_plus { 2 } else { 0 },
            "{}",
            self.name
        );
        self.figures(checks, &chrf, |key, _, _| {
            panic!("unknown figure {key:?} in {}", self.name)
        });
    }

    fn ter(&self, checks: &Checks) {
        let ter = Ter {
            normalized: self.settings["norm"] == "yes",
            no_punctuation: self.settings["punct"] == "no",
        };
        self.figures(checks, &ter, |key, counts, expected| {
            let figure = match key {
                "num_edits" => counts.edits as f64,
                "ref_length" => counts.reference_length,
                unknown => panic!("unknown figure {unknown:?} in {}", self.name),
            };
            checks.figure(&format!("{}.{key}", self.name), figure, expected);
        });
    }

    /// Checks the figures that all metrics have, and hands on the `others`.
    fn figures<M: CorpusMetric>(
        &self,
        checks: &Checks,
        metric: &M,
        others: impl Fn(&str, &M::Counts, &Value),
    ) {
        let rows = metric.counts(self.hypotheses, &self.references).unwrap();
        let counts = rows.iter().sum();
        for (key, expected) in self.expected.as_object().expect("figures by name") {
            let what = format!("{}.{key}", self.name);
            match key.as_str() {
                "signature" => {
                    assert_eq!(metric.signature(&self.references), text(expected), "{what}");
                }
                "score" => {
                    let score = metric.corpus(self.hypotheses, &self.references).unwrap();
                    checks.figure(&what, score, expected);
                }
                "sentence_scores" => {
                    let pairs = self.hypotheses.iter().zip(&self.references);
                    let scores: Vec<f64> = pairs
                        .map(|(hypothesis, row)| metric.sentence(hypothesis, row).unwrap())
                        .collect();
                    checks.figures(&what, &scores, expected);
                }
                other => others(other, &counts, expected),
            }
        }
    }
}

fn bleu_figure(checks: &Checks, case: &str, key: &str, score: &BleuScore, expected: &Value) {
    let what = format!("{case}.{key}");
    match key {
        "score" => checks.figure(&what, score.score, expected),
        "counts" => checks.figures(&what, &score.counts, expected),
        "totals" => checks.figures(&what, &score.totals, expected),
        "precisions" => checks.figures(&what, &score.precisions, expected),
        "bp" => checks.figure(&what, score.brevity_penalty, expected),
        "sys_len" => checks.figure(&what, score.hypothesis_length as f64, expected),
        "ref_len" => checks.figure(&what, score.reference_length as f64, expected),
        unknown => panic!("unknown figure {unknown:?} in {case}"),
    }
}

fn smoothing_named(name: &str) -> Smoothing {
    match name {
        "exp" => Smoothing::Exponential,
        "floor" => Smoothing::Floor,
        "add-k" => Smoothing::AddOne,
        "none" => Smoothing::None,
        unknown => panic!("unknown smoothing {unknown:?}"),
    }
}
