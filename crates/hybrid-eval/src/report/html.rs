//! `report.html`: one page, no scripts, no network, light and dark, made for a phone first.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior, Value};

use super::lineage::Descent;
use super::texts::TextReport;
use super::{ConfusionReport, Final, Report, format, lineage, plot};
use crate::{Calibration, EvalError};

const NAME: &str = "report.html";
const TEMPLATE: &str = include_str!("report.html");
const MOST_CONFUSED: usize = 10;
/// Label words shown for a candidate before the rest is summed up.
const LABEL_WORDS: usize = 8;
/// Characters of an input or output that are shown; report.json has all.
const LONGEST_TEXT: usize = 600;

#[derive(serde::Serialize)]
struct Confused<'r> {
    actual: &'r str,
    predicted: &'r str,
    count: u64,
    share: f64,
}

/// What the template sees.
#[derive(serde::Serialize)]
struct Page<'r> {
    report: &'r Report,
    #[serde(rename = "final")]
    final_result: &'r Final,
    confusion: Option<&'r ConfusionReport>,
    calibration: Option<&'r Calibration>,
    texts: Option<&'r TextReport>,
    baseline: Option<f64>,
    lineage: Vec<Descent>,
    /// For each candidate, its methods and head in words.
    adapters: Vec<Vec<String>>,
    label_words: usize,
    confused: Vec<Confused<'r>>,
    searches: Vec<SearchPlot<'r>>,
    curves: Vec<CurvePlot<'r>>,
    stages_svg: Value,
    cost_svg: Value,
    confusion_svg: Option<Value>,
    calibration_svg: Option<Value>,
    outputs: Vec<Output>,
}

/// An example of an output, with long texts shortened.
#[derive(serde::Serialize)]
struct Output {
    input: String,
    wanted: Vec<String>,
    output: String,
}

#[derive(serde::Serialize)]
struct SearchPlot<'r> {
    candidate: &'r str,
    trials: usize,
    decides: &'r str,
    svg: Value,
}

#[derive(serde::Serialize)]
struct CurvePlot<'r> {
    candidate: &'r str,
    updates: usize,
    svg: Value,
}

/// The whole page.
pub(super) fn render(report: &Report) -> Result<String, EvalError> {
    let mut searches = Vec::new();
    for curve in &report.searches {
        if let Some(svg) = plot::search(curve)? {
            searches.push(SearchPlot {
                candidate: &curve.candidate,
                trials: curve.points.len(),
                decides: &curve.decides,
                svg: safe(svg),
            });
        }
    }
    let mut curves = Vec::new();
    for curve in &report.curves {
        if let Some(svg) = plot::curve(curve)? {
            curves.push(CurvePlot {
                candidate: &curve.candidate,
                updates: curve.points.len(),
                svg: safe(svg),
            });
        }
    }
    let page = Page {
        report,
        final_result: &report.final_result,
        confusion: report.confusion.as_ref(),
        calibration: report.calibration.as_ref(),
        texts: report.texts.as_ref(),
        baseline: report
            .candidates
            .first()
            .and_then(|first| first.select.get(&report.final_result.metric))
            .copied(),
        lineage: lineage::descents(report),
        adapters: report.candidates.iter().map(describe_adapter).collect(),
        label_words: LABEL_WORDS,
        confused: most_confused(report),
        searches,
        curves,
        stages_svg: safe(plot::stages(report)?),
        cost_svg: safe(plot::cost(report)?),
        confusion_svg: drawn(report.confusion.as_ref(), plot::confusion)?,
        calibration_svg: drawn(report.calibration.as_ref(), plot::calibration)?,
        outputs: outputs(report),
    };
    let fault = |source| EvalError::Template {
        template: NAME,
        source,
    };
    environment()
        .and_then(|environment| environment.get_template(NAME)?.render(Serde(page)))
        .map_err(fault)
}

/// The plot of what is there.
fn drawn<T>(
    subject: Option<&T>,
    plot: impl FnOnce(&T) -> Result<String, EvalError>,
) -> Result<Option<Value>, EvalError> {
    subject.map(|subject| plot(subject).map(safe)).transpose()
}

fn safe(svg: String) -> Value {
    Value::from_safe_string(svg)
}

/// Text is escaped because the template's name ends in `.html`.
fn environment() -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()?,
    );
    environment.add_filter("percent", format::percent);
    environment.add_filter("bare_percent", |share: f64| format!("{:.1}", 100.0 * share));
    environment.add_filter("breakable", |text: &str| breakable(text));
    environment.add_filter("fine_percent", format::fine_percent);
    environment.add_filter("figure", |value: f64, metric: &str| {
        format::figure(value, metric)
    });
    environment.add_filter("difference", |value: f64, metric: &str| {
        format::difference(value, metric)
    });
    environment.add_filter("interval", |bounds: Serde<[f64; 2]>, metric: &str| {
        format::interval(*bounds, metric)
    });
    environment.add_filter("metric_name", |metric: &str| format::metric_name(metric));
    environment.add_filter("duration", format::duration);
    environment.add_filter("grouped", format::count);
    environment.add_filter("with_prefix", |number: f64, unit: &str| {
        format::with_prefix(number, unit)
    });
    environment.add_filter("p_value", format::p_value);
    environment.add_template(NAME, TEMPLATE)?;
    Ok(environment)
}

/// Escaped text that may break after the separators in names.
fn breakable(text: &str) -> Value {
    let mut html = String::new();
    for character in text.chars() {
        match character {
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '&' => html.push_str("&amp;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            '_' | '/' | '.' => {
                html.push(character);
                html.push_str("<wbr>");
            }
            other => html.push(other),
        }
    }
    safe(html)
}

fn describe_adapter(candidate: &super::CandidateReport) -> Vec<String> {
    let Some(adapter) = &candidate.adapter else {
        return Vec::new();
    };
    let methods = adapter.methods.iter().map(format::describe_config);
    let head = adapter
        .head
        .iter()
        .map(|head| format!("head · {}", format::describe_config(head)));
    methods.chain(head).collect()
}

/// The most frequent errors, most frequent first.
fn most_confused(report: &Report) -> Vec<Confused<'_>> {
    let Some(confusion) = &report.confusion else {
        return Vec::new();
    };
    let mut pairs: Vec<Confused<'_>> = Vec::new();
    for (actual, row) in confusion.counts.iter().enumerate() {
        let total = row.iter().sum::<u64>();
        for (predicted, count) in row
            .iter()
            .enumerate()
            .filter(|(predicted, count)| *predicted != actual && **count > 0)
        {
            pairs.push(Confused {
                actual: &confusion.labels[actual],
                predicted: &confusion.labels[predicted],
                count: *count,
                share: *count as f64 / total as f64,
            });
        }
    }
    pairs.sort_by_key(|pair| std::cmp::Reverse(pair.count));
    pairs.truncate(MOST_CONFUSED);
    pairs
}

fn outputs(report: &Report) -> Vec<Output> {
    let short = |text: &String| format::shorten(text, LONGEST_TEXT);
    let examples = report.texts.iter().flat_map(|texts| &texts.examples);
    examples
        .map(|example| Output {
            input: short(&example.input),
            wanted: example.wanted.iter().map(short).collect(),
            output: short(&example.output),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{most_confused, render};
    use crate::TextTask;
    use crate::report::sample::{sample, sample_of};
    use crate::report::text_sample::text_sample;

    #[test]
    fn the_page_is_whole_and_needs_nothing_else() {
        let page = render(&sample()).unwrap();
        for id in [
            "verdict",
            "stages",
            "cost",
            "search-1",
            "curve-1",
            "calibration",
            "generalisation",
            "comparisons",
            "confusion",
        ] {
            assert!(page.contains(&format!("id=\"{id}\"")), "{id}");
        }
        for outside in ["<script", "http://", "https://", "src=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("name=\"viewport\"") && page.contains("prefers-color-scheme"));
        assert_eq!(
            page.matches("<svg ").count(),
            page.matches("role=\"img\" aria-label=").count()
        );
        assert_eq!(
            page.matches("<table>").count(),
            page.matches("</table>").count()
        );
    }

    #[test]
    fn hostile_text_stays_text() {
        let evil = "<img src=x onerror=alert(1)>\"'&".to_owned();
        let mut report = sample();
        report.task.clone_from(&evil);
        report.base.clone_from(&evil);
        report.confusion.as_mut().unwrap().labels[0].clone_from(&evil);
        report.candidates[1].id.clone_from(&evil);
        report.candidates[1].prompt.template.clone_from(&evil);
        report.candidates[1].prompt.instruction.clone_from(&evil);
        report.candidates[1]
            .prompt
            .label_words
            .insert(evil.clone(), vec![evil.clone()]);
        report.curves[0].candidate.clone_from(&evil);
        report.searches[0].candidate.clone_from(&evil);
        report.searches[0].unit.clone_from(&evil);
        report.searches[0].decides.clone_from(&evil);
        report.provenance.recipe.clone_from(&evil);
        report.provenance.versions.insert(evil.clone(), evil);
        let page = render(&report).unwrap();
        assert!(!page.contains("<img"));
        assert!(page.contains("&lt;img"));
    }

    #[test]
    fn texts_are_shown_in_place_of_labels() {
        let mut report = text_sample(TextTask::Translation);
        let examples = &mut report.texts.as_mut().unwrap().examples;
        examples[0].output = "<script>alert(1)</script>".to_owned();
        examples[1].input = "x".repeat(5000);
        examples[2].wanted.clear();
        let page = render(&report).unwrap();
        for id in ["verdict", "stages", "outputs", "lineage", "recipe"] {
            assert!(page.contains(&format!("id=\"{id}\"")), "{id}");
        }
        for id in ["calibration", "confusion", "confused", "labels"] {
            assert!(!page.contains(&format!("id=\"{id}\"")), "{id}");
        }
        assert!(!page.contains("<script") && page.contains("&lt;script"));
        assert!(!page.contains(&"x".repeat(601)) && page.contains(&"x".repeat(599)));
        assert!(page.contains("no answer"));
        assert!(!page.contains("Label words") && !page.contains("0 labels"));
        let output = &report.texts.unwrap().examples[3].output;
        assert!(page.contains(&format!("<td class=\"text\">{output}</td>")));
        let [low, high] = report.final_result.interval;
        assert!(page.contains(&format!("95 % interval {low:.1} – {high:.1}")));
        for task in [TextTask::QuestionAnswering, TextTask::Summarization] {
            let page = render(&text_sample(task)).unwrap();
            assert!(page.contains("id=\"outputs\""), "{task:?}");
        }
    }

    #[test]
    fn sparse_and_large_reports_are_laid_out_too() {
        render(&sample_of(77, 4)).unwrap();
        let mut report = sample_of(2, 1);
        report.target = None;
        report.comparisons.clear();
        report.curves.clear();
        report.searches.clear();
        report.candidates.truncate(1);
        report.final_result.candidate = "baseline".to_owned();
        report.generalisation.second_report = None;
        report.generalisation.out_of_scope = None;
        report.cost = crate::Cost::default();
        report.provenance.commit = None;
        render(&report).unwrap();
    }

    #[test]
    fn the_list_of_errors_matches_the_matrix() {
        let report = sample();
        let listed = most_confused(&report);
        assert!(listed.windows(2).all(|pair| pair[0].count >= pair[1].count));
        assert!(
            listed
                .iter()
                .all(|pair| pair.actual != pair.predicted && pair.share <= 1.0)
        );
    }
}
