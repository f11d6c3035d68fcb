//! Tests of layout, of what prompts share and of what gives way.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

use super::{Renderer, continuation};
use crate::chat_template::ChatTemplate;
use crate::demonstration::{Demonstration, Demonstrations};
use crate::error::PromptError;
use crate::fake_language_model::tokens;
use crate::language_model::PromptText;
use crate::prompt::{Prompt, PromptFormat};

const CHATML: &str = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}";
const NO_SYSTEM: &str = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}[{{ m.content }}]{% endfor %}";

fn fields(text: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("text".to_owned(), text.to_owned())])
}

fn shown(text: &str, answer: &str) -> Demonstration {
    Demonstration {
        answer: answer.to_owned(),
        fields: fields(text),
    }
}

fn prompt() -> Prompt {
    Prompt {
        instruction: "Judge the film.".to_owned(),
        template: "Review: {{ text }}\nSentiment:".to_owned(),
        label_words: BTreeMap::from([(
            "pos".to_owned(),
            vec![" good".to_owned(), "fine".to_owned()],
        )]),
        demonstrations: Demonstrations::fixed(vec![shown("warm", "pos"), shown("dull", "no idea")]),
        ..Prompt::default()
    }
}

fn chat_prompt() -> Prompt {
    Prompt {
        format: PromptFormat::Chat,
        ..prompt()
    }
}

fn count(text: &PromptText) -> Result<usize, PromptError> {
    Ok(tokens(&text.shared).len() + tokens(&text.own).len())
}

#[test]
fn plain_prompts_are_blocks() {
    let prompt = prompt();
    let mut renderer = Renderer::new(&prompt, None).unwrap();
    let text = renderer.render(&fields("cold"), &[0, 1]).unwrap();
    assert_eq!(
        text.whole(),
        "Judge the film.\n\nReview: warm\nSentiment: good\n\nReview: dull\nSentiment: no idea\n\n\
         Review: cold\nSentiment:"
    );
    assert!(text.shared.ends_with("no idea\n\nReview:"), "{text:?}");
    assert_eq!(
        (text.own.as_str(), text.has_special_tokens),
        (" cold\nSentiment:", false)
    );
    let text = renderer.render(&fields("cold"), &[]).unwrap();
    assert_eq!(&*text.shared, "Judge the film.\n\nReview:");
}

#[test]
fn chat_prompts_are_turns() {
    let prompt = chat_prompt();
    let chat = ChatTemplate::parse(CHATML, "", "").unwrap();
    let text = Renderer::new(&prompt, Some(&chat))
        .unwrap()
        .render(&fields("cold"), &[0])
        .unwrap();
    assert_eq!(
        text.whole(),
        "<|system|>Judge the film.\n<|user|>Review: warm\nSentiment:\n<|assistant|>good\n\
         <|user|>Review: cold\nSentiment:\n<|assistant|>\n"
    );
    assert!(text.shared.ends_with("<|user|>Review:") && text.has_special_tokens);

    let chat = ChatTemplate::parse(NO_SYSTEM, "", "").unwrap();
    let text = Renderer::new(&prompt, Some(&chat))
        .unwrap()
        .render(&fields("cold"), &[0])
        .unwrap();
    assert!(
        text.whole()
            .starts_with("[Judge the film.\n\nReview: warm\nSentiment:][good]"),
        "{text:?}"
    );
    let refused = Renderer::new(&prompt, None).unwrap_err();
    assert!(matches!(refused, PromptError::NoChatTemplate));
}

#[test]
fn answers_open_with_a_given_text() {
    let opened = |prompt: Prompt| Prompt {
        template: "Review: {{ text }}".to_owned(),
        answer_start: "Sentiment:".to_owned(),
        ..prompt
    };
    let (plain, chat_prompt) = (opened(prompt()), opened(chat_prompt()));
    let whole = |prompt: &Prompt, chat| {
        let mut renderer = Renderer::new(prompt, chat).unwrap();
        renderer.render(&fields("cold"), &[0, 1]).unwrap().whole()
    };
    let spelt_out = prompt();
    assert_eq!(whole(&plain, None), whole(&spelt_out, None));
    let chat = ChatTemplate::parse(CHATML, "", "").unwrap();
    assert_eq!(
        whole(&chat_prompt, Some(&chat)),
        "<|system|>Judge the film.\n<|user|>Review: warm\n<|assistant|>Sentiment: good\n\
         <|user|>Review: dull\n<|assistant|>Sentiment: no idea\n\
         <|user|>Review: cold\n<|assistant|>\nSentiment:"
    );
}

#[test]
fn a_text_that_shares_nothing_is_whole() {
    let prompt = Prompt {
        template: "{% if text == 'cold' %}chilly{% else %}Review: {{ text }}{% endif %}".to_owned(),
        ..Prompt::default()
    };
    let mut renderer = Renderer::new(&prompt, None).unwrap();
    let text = renderer.render(&fields("cold"), &[]).unwrap();
    assert_eq!((&*text.shared, text.own.as_str()), ("", "chilly"));
    let text = renderer.render(&fields("warm"), &[]).unwrap();
    assert_eq!((&*text.shared, text.own.as_str()), ("Review:", " warm"));
}

#[test]
fn words_follow_after_one_space() {
    for (before, word, expected) in [
        ("Sentiment:", "good", " good"),
        ("Sentiment:", " good", " good"),
        ("Sentiment:\n", " good", "good"),
        ("Sentiment: ", "good", "good"),
        ("", " good", "good"),
    ] {
        assert_eq!(continuation(before, word), expected, "{before:?} {word:?}");
    }
}

#[test]
fn demonstrations_give_way_before_the_input() {
    let prompt = prompt();
    let mut renderer = Renderer::new(&prompt, None).unwrap();
    let input = fields("one two three four five six seven");
    let whole = count(&renderer.render(&input, &[0, 1]).unwrap()).unwrap();
    let bare = count(&renderer.render(&input, &[]).unwrap()).unwrap();
    let mut fit = |limit| renderer.fit(&input, &[0, 1], limit, &count);

    let fitted = fit(whole).unwrap();
    assert_eq!((fitted.n_dropped, fitted.is_cut), (0, false));
    let fitted = fit(whole - 1).unwrap();
    assert_eq!((fitted.n_dropped, fitted.is_cut), (1, false));
    assert!(
        fitted.text.whole().contains("dull"),
        "the first one goes first"
    );
    assert!(!fitted.text.whole().contains("warm"));
    let fitted = fit(bare).unwrap();
    assert_eq!((fitted.n_dropped, fitted.is_cut), (2, false));
    let fitted = fit(bare - 2).unwrap();
    assert_eq!((fitted.n_dropped, fitted.is_cut), (2, true));
    assert_eq!(
        fitted.text.whole(),
        "Judge the film.\n\nReview: one two three four five\nSentiment:"
    );
    let refused = fit(bare - 7).unwrap_err();
    assert!(
        matches!(refused, PromptError::DoesNotFit { limit, .. } if limit == bare - 7),
        "{refused:?}"
    );
}

#[test]
fn the_longest_field_is_cut_first() {
    let prompt = Prompt {
        template: "{{ context }}\nQ: {{ question }}\nA:".to_owned(),
        ..Prompt::default()
    };
    let input = BTreeMap::from([
        ("context".to_owned(), "a b c d e f g h".to_owned()),
        ("question".to_owned(), "x y z?".to_owned()),
    ]);
    let mut renderer = Renderer::new(&prompt, None).unwrap();
    let fitted = renderer.fit(&input, &[], 10, &count).unwrap();
    assert_eq!(fitted.text.whole(), "a b\nQ: x y z?\nA:");
    let fitted = renderer.fit(&input, &[], 6, &count).unwrap();
    assert_eq!(fitted.text.whole(), "\nQ: x y\nA:");
}

proptest! {
    #[test]
    fn pieces_are_the_whole_and_what_is_shared_is_shared(
        inputs in vec(any::<String>(), 2..4),
        instruction in "[A-Z][a-z ]{0,12}",
        chat: bool,
        n_shown in 0usize..3,
    ) {
        let prompt = Prompt {
            instruction,
            format: if chat { PromptFormat::Chat } else { PromptFormat::Plain },
            ..prompt()
        };
        let template = ChatTemplate::parse(CHATML, "", "").unwrap();
        let mut renderer = Renderer::new(&prompt, Some(&template)).unwrap();
        let places: Vec<usize> = (0..n_shown).collect();
        let texts: Vec<PromptText> =
            inputs.iter().map(|input| renderer.render(&fields(input), &places).unwrap()).collect();
        for (input, text) in inputs.iter().zip(&texts) {
            prop_assert_eq!(&text.shared, &texts[0].shared);
            prop_assert!(text.shared.contains(prompt.instruction.trim_end()));
            prop_assert!(text.whole().contains(input.as_str()));
            prop_assert!(!text.shared.ends_with(char::is_whitespace));
        }
    }

    #[test]
    fn a_fitted_prompt_keeps_to_its_limit(
        input in "[a-z é]{0,60}",
        n_shown in 0usize..3,
        limit in 0usize..60,
    ) {
        let prompt = prompt();
        let mut renderer = Renderer::new(&prompt, None).unwrap();
        let places: Vec<usize> = (0..n_shown).collect();
        let bare = count(&renderer.render(&fields(""), &[]).unwrap()).unwrap();
        match renderer.fit(&fields(&input), &places, limit, &count) {
            Ok(fitted) => {
                prop_assert!(count(&fitted.text).unwrap() <= limit);
                let text = fitted.text.whole();
                prop_assert!(text.starts_with("Judge the film.\n\n") && text.ends_with("\nSentiment:"));
                prop_assert!(!fitted.is_cut || fitted.n_dropped == n_shown);
                let line = format!("Review: {input}\n");
                prop_assert!(fitted.is_cut || text.contains(&line));
                // Nothing gave way that fits.
                if fitted.n_dropped > 0 {
                    let more = renderer.render(&fields(&input), &places[fitted.n_dropped - 1..]).unwrap();
                    prop_assert!(count(&more).unwrap() > limit);
                }
            }
            Err(PromptError::DoesNotFit { needed, limit: told }) => {
                prop_assert_eq!(told, limit);
                prop_assert!(needed >= bare && bare + 1 > limit || limit <= bare, "{} {}", needed, bare);
            }
            Err(other) => prop_assert!(false, "{:?}", other),
        }
    }
}
