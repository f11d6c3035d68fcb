//! Conversations rendered by chat templates, the models' own and others.

use hybrid_prompts::{ChatTemplate, Message, PromptError};
use serde_json::{Map, Value};

use crate::fixtures;

/// What a fixture may say of chat templates.
const KEYS: [&str; 6] = [
    "bos_token",
    "custom_renderings",
    "custom_templates",
    "eos_token",
    "renderings",
    "template",
];

#[test]
fn chat_parity() {
    let mut n_compared = 0;
    for fixture in fixtures::of_kind("tokenizer") {
        let path = fixture.folder.join("chat.json");
        if !path.exists() {
            continue;
        }
        let chat = fixtures::json(&path);
        let unknown: Vec<&String> = object(&chat)
            .keys()
            .filter(|key| !KEYS.contains(&key.as_str()))
            .collect();
        assert!(unknown.is_empty(), "{}: {unknown:?}", path.display());
        let template = |source: &Value| {
            let special = |key: &str| chat[key].as_str().unwrap_or_default();
            ChatTemplate::parse(text(source), special("bos_token"), special("eos_token"))
                .unwrap_or_else(|error| panic!("{}: {error:?}", path.display()))
        };
        let own = template(&chat["template"]);
        for rendering in rows(&chat["renderings"]) {
            check(&own, rendering, &fixture.name);
            n_compared += 1;
        }
        let customs = object(&chat["custom_templates"]);
        for rendering in rows(&chat["custom_renderings"]) {
            let name = text(&rendering["template"]);
            let source = customs
                .get(name)
                .unwrap_or_else(|| panic!("{}: no template {name}", path.display()));
            check(
                &template(source),
                rendering,
                &format!("{} {name}", fixture.name),
            );
            n_compared += 1;
        }
    }
    assert!(n_compared > 0, "no conversation was compared");
}

/// Compares one conversation; one that the reference refuses must be refused for the same reason.
fn check(template: &ChatTemplate, rendering: &Value, name: &str) {
    let messages: Vec<Message> = serde_json::from_value(rendering["messages"].clone())
        .unwrap_or_else(|error| panic!("{name}: {error}: {rendering}"));
    let generate = rendering["add_generation_prompt"]
        .as_bool()
        .unwrap_or_else(|| panic!("{name}: no add_generation_prompt in {rendering}"));
    let rendered = template.render(&messages, generate);
    match rendering.get("error") {
        None => assert_eq!(
            rendered.unwrap_or_else(|error| panic!("{name}: {error:?}: {rendering}")),
            text(&rendering["text"]),
            "{name}"
        ),
        Some(reason) => match rendered {
            Err(PromptError::ChatRender { source, .. }) => assert!(
                source.to_string().contains(text(reason)),
                "{name}: {source} instead of {reason}"
            ),
            other => panic!("{name}: {other:?} instead of {reason}"),
        },
    }
}

fn object(value: &Value) -> &Map<String, Value> {
    value
        .as_object()
        .unwrap_or_else(|| panic!("no object but {value}"))
}

fn rows(value: &Value) -> &[Value] {
    value
        .as_array()
        .unwrap_or_else(|| panic!("no rows but {value}"))
}

fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("no text but {value}"))
}
