//! Tests of scoring with a language model.

use std::collections::BTreeMap;

use hybrid_data::Example;

use super::{Objective, classify_language, score_language};
use crate::demonstration::{Demonstration, Demonstrations};
use crate::error::PromptError;
use crate::fake_language_model::{FakeLanguageModel, LanguageFault};
use crate::fake_model::{example, labels};
use crate::label_scoring::{Calibration, LabelScoring};
use crate::language_model::GenerateOptions;
use crate::output::{Output, OutputKind};
use crate::prompt::Prompt;
use crate::prompted_model::PromptedModel;

fn prompt() -> Prompt {
    Prompt {
        instruction: "Judge the film.".to_owned(),
        template: "Review: {{ text }}\nSentiment:".to_owned(),
        label_words: BTreeMap::from([
            ("neg".to_owned(), vec![" bad".to_owned()]),
            ("pos".to_owned(), vec![" good".to_owned()]),
        ]),
        ..Prompt::default()
    }
}

fn examples() -> Vec<Example> {
    [
        ("a fine film", "pos"),
        ("a dull film", "neg"),
        ("lovely and warm", "pos"),
        ("awful and grey", "neg"),
    ]
    .map(|(text, label)| example(text, label))
    .to_vec()
}

#[test]
fn label_words_answer() {
    let (examples, labels) = (examples(), labels(&["neg", "pos"]));
    let mut model = FakeLanguageModel::default();
    let mut prompted = PromptedModel::new(&mut model, "m");
    let scoring = LabelScoring::default();
    let objective = Objective::Labels(&scoring);
    let scores = score_language(&prompt(), &examples, &labels, objective, &mut prompted).unwrap();
    assert_eq!(scores.accuracy, 1.0, "{scores:?}");
    assert_eq!(scores.answers, ["pos", "neg", "pos", "neg"]);
    assert_eq!((scores.n_cut, scores.n_dropped), (0, 0));
    let inputs: Vec<_> = examples
        .iter()
        .map(|example| example.fields.clone())
        .collect();
    let classes = classify_language(&prompt(), &inputs, &labels, &scoring, &mut prompted).unwrap();
    assert_eq!(classes.log_probabilities, scores.log_probabilities);
    assert_eq!(
        model.scored.len(),
        3 + 4,
        "three inputs without content, each question once"
    );
    assert!(
        model.scored[0].contains("Review: N/A\n"),
        "{}",
        model.scored[0]
    );
    assert!(
        model.scored[3].ends_with("Sentiment:| bad| good"),
        "{}",
        model.scored[3]
    );
}

#[test]
fn calibration_takes_away_the_bias() {
    let (examples, labels) = (examples(), labels(&["neg", "pos"]));
    let accuracy = |scoring: &LabelScoring| {
        let mut model = FakeLanguageModel {
            bias: 5.0,
            ..FakeLanguageModel::default()
        };
        let mut prompted = PromptedModel::new(&mut model, "m");
        let objective = Objective::Labels(scoring);
        score_language(&prompt(), &examples, &labels, objective, &mut prompted)
            .unwrap()
            .accuracy
    };
    assert_eq!(
        accuracy(&LabelScoring::uncalibrated()),
        0.5,
        "everything is good"
    );
    assert_eq!(accuracy(&LabelScoring::default()), 1.0);
    let seen = examples.iter().map(|example| example.fields.clone());
    let by_inputs = LabelScoring {
        calibration: Calibration::Inputs(seen.collect()),
        ..LabelScoring::default()
    };
    assert_eq!(accuracy(&by_inputs), 1.0);
}

#[test]
fn an_example_is_never_told_its_answer() {
    let (examples, labels) = (examples(), labels(&["neg", "pos"]));
    let mut prompt = prompt();
    let shown = examples
        .iter()
        .map(|example| Demonstration::of(example).unwrap());
    prompt.demonstrations = Demonstrations::fixed(shown.collect());
    let scoring = LabelScoring::uncalibrated();
    let mut embed_by_length = |texts: &[String]| {
        Ok(texts
            .iter()
            .map(|text| vec![1.0, text.len() as f32])
            .collect())
    };
    for nearest in [None, Some(2), Some(4)] {
        prompt.demonstrations.nearest = nearest;
        let mut model = FakeLanguageModel::default();
        let mut prompted = PromptedModel::new(&mut model, "m").embedding(&mut embed_by_length);
        let objective = Objective::Labels(&scoring);
        score_language(&prompt, &examples, &labels, objective, &mut prompted).unwrap();
        for (read, example) in model.scored.iter().zip(&examples) {
            assert_eq!(
                read.matches(example.fields["text"].as_str()).count(),
                1,
                "{read}"
            );
            let n_shown = read.matches("Sentiment: ").count();
            assert_eq!(n_shown, nearest.unwrap_or(3).min(3), "{read}");
        }
    }
    let mut model = FakeLanguageModel::default();
    let mut prompted = PromptedModel::new(&mut model, "m");
    let refused = score_language(
        &prompt,
        &examples,
        &labels,
        Objective::Labels(&scoring),
        &mut prompted,
    );
    assert!(matches!(refused, Err(PromptError::NoEmbedding)));
}

#[test]
fn wanted_texts_are_scored_by_their_probability() {
    let examples = [
        example("a fine film", "good"),
        example("a dull film", "good good"),
    ];
    let mut model = FakeLanguageModel::default();
    let mut prompted = PromptedModel::new(&mut model, "m");
    let objective = Objective::Likelihood;
    let scores =
        score_language(&prompt(), &examples, &labels(&[]), objective, &mut prompted).unwrap();
    let rows = prompted.answers().len();
    assert_eq!((rows, scores.answers.len(), scores.values.len()), (2, 0, 2));
    let logs: Vec<f64> = scores.values.iter().map(|value| value.ln()).collect();
    let expected = -(logs[0] + 2.0 * logs[1]) / 3.0;
    assert!(
        (scores.log_loss - expected).abs() < 1e-9,
        "the mean is over tokens"
    );
    assert!((scores.accuracy - (scores.values[0] + scores.values[1]) / 2.0).abs() < 1e-12);
    assert!(
        model.scored[1].ends_with("Sentiment:| good good"),
        "{}",
        model.scored[1]
    );
}

#[test]
fn generated_outputs_are_read_and_valued() {
    let (examples, labels) = (examples(), labels(&["neg", "pos"]));
    let options = GenerateOptions {
        max_tokens: 4,
        ..GenerateOptions::default()
    };
    let metric = |output: &Output, example: &Example| {
        let class = labels.index_of(example.label.as_deref().unwrap()).unwrap();
        if *output == Output::Label(class) {
            0.9
        } else {
            0.1
        }
    };
    let objective = |output| Objective::Generated {
        options: &options,
        output,
        metric: &metric,
    };
    let mut model = FakeLanguageModel::default();
    let mut prompted = PromptedModel::new(&mut model, "m");
    let kind = OutputKind::Label;
    let scores = score_language(
        &prompt(),
        &examples,
        &labels,
        objective(&kind),
        &mut prompted,
    )
    .unwrap();
    assert_eq!(scores.values, [0.9; 4]);
    assert_eq!(scores.answers, ["good", "bad", "good", "bad"]);
    assert!((scores.accuracy - 0.9).abs() < 1e-12);
    let kind = OutputKind::Span {
        field: "text".to_owned(),
    };
    let scores = score_language(
        &prompt(),
        &examples,
        &labels,
        objective(&kind),
        &mut prompted,
    )
    .unwrap();
    assert_eq!(scores.values, [0.0; 4], "not understood");
    assert_eq!(model.generated.len(), 4, "nothing is generated twice");

    let wild = |_: &Output, _: &Example| f64::NAN;
    let objective = Objective::Generated {
        options: &options,
        output: &OutputKind::Text,
        metric: &wild,
    };
    let mut prompted = PromptedModel::new(&mut model, "m");
    let refused = score_language(&prompt(), &examples, &labels, objective, &mut prompted);
    assert!(matches!(refused, Err(PromptError::NotFinite { .. })));
}

#[test]
fn long_inputs_are_cut_and_counted() {
    let long = format!("a fine film {}", "and so on ".repeat(40));
    let (examples, labels) = (
        [example("a dull film", "neg"), example(&long, "pos")],
        labels(&["neg", "pos"]),
    );
    let mut prompt = prompt();
    prompt.demonstrations =
        Demonstrations::fixed(vec![Demonstration::of(&example("warm", "pos")).unwrap()]);
    let scoring = LabelScoring::default();
    let scores = |context_length, limit| {
        let mut model = FakeLanguageModel {
            context_length,
            ..FakeLanguageModel::default()
        };
        let mut prompted = PromptedModel::new(&mut model, "m").limited_to(limit);
        let objective = Objective::Labels(&scoring);
        score_language(&prompt, &examples, &labels, objective, &mut prompted)
    };
    let scored = scores(40, 4000).unwrap();
    assert_eq!(
        (scored.n_cut, scored.n_dropped, scored.accuracy),
        (1, 1, 1.0)
    );
    let scored = scores(4000, 39).unwrap();
    assert_eq!((scored.n_cut, scored.n_dropped), (1, 1));
    assert!(matches!(
        scores(4000, 5),
        Err(PromptError::DoesNotFit { limit: 5, .. })
    ));
}

#[test]
fn inputs_that_calibrate_do_not_count_as_cut() {
    let long = format!("a fine film {}", "and so on ".repeat(40));
    let (examples, labels) = ([example("a dull film", "neg")], labels(&["neg", "pos"]));
    let scoring = LabelScoring {
        calibration: Calibration::Inputs(vec![example(&long, "pos").fields]),
        ..LabelScoring::default()
    };
    let mut model = FakeLanguageModel {
        context_length: 40,
        ..FakeLanguageModel::default()
    };
    let mut prompted = PromptedModel::new(&mut model, "m");
    let objective = Objective::Labels(&scoring);
    let scores = score_language(&prompt(), &examples, &labels, objective, &mut prompted).unwrap();
    assert_eq!(scores.n_cut, 0);
    assert!(model.scored[0].contains("and so on"), "{:?}", model.scored);
    assert!(!model.scored[0].contains(&long), "{:?}", model.scored);
}

#[test]
fn faults_are_typed() {
    let (examples, two) = (examples(), labels(&["neg", "pos"]));
    let scoring = LabelScoring::default();
    let refused = |prompt: &Prompt, examples: &[Example], mut model: FakeLanguageModel| {
        let mut prompted = PromptedModel::new(&mut model, "m");
        let objective = Objective::Labels(&scoring);
        score_language(prompt, examples, &two, objective, &mut prompted).unwrap_err()
    };
    let with = |fault| FakeLanguageModel {
        fault: Some(fault),
        ..FakeLanguageModel::default()
    };
    for (fault, what) in [
        (LanguageFault::TooFewRows, "rows of scores"),
        (LanguageFault::TooFewScores, "scores a prompt"),
    ] {
        let error = refused(&prompt(), &examples, with(fault));
        assert!(
            matches!(error, PromptError::ModelShape { what: found, .. } if found == what),
            "{error:?}"
        );
    }
    let error = refused(&prompt(), &examples, with(LanguageFault::NotANumber));
    assert!(matches!(error, PromptError::NotFinite { .. }), "{error:?}");
    let error = refused(&prompt(), &examples, with(LanguageFault::NoTokens));
    assert_eq!(
        error.to_string(),
        "` bad` has no tokens, so it cannot be scored"
    );
    let dying = FakeLanguageModel {
        fails_after: Some(2),
        ..FakeLanguageModel::default()
    };
    let error = refused(&prompt(), &examples, dying);
    assert_eq!(
        std::error::Error::source(&error).unwrap().to_string(),
        "out of memory"
    );
    let error = refused(&prompt(), &[], FakeLanguageModel::default());
    assert!(matches!(error, PromptError::EmptySpace { what: "example" }));
    let error = refused(
        &prompt(),
        &[example("x", "other")],
        FakeLanguageModel::default(),
    );
    assert!(matches!(error, PromptError::Data(_)));
    let mut shared = prompt();
    shared
        .label_words
        .insert("neg".to_owned(), vec!["good".to_owned()]);
    let error = refused(&shared, &examples, FakeLanguageModel::default());
    assert!(matches!(error, PromptError::SharedLabelWord { .. }));
}
