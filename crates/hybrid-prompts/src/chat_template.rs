//! Chat templates: messages to the text that a chat model was trained on.

use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, Error, ErrorKind, Value, context};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::{Deserialize, Serialize};
use serde_json::Serializer;
use serde_json::ser::{Formatter, PrettyFormatter};

use crate::error::PromptError;
use crate::template::bound;

/// The name under which the one template is compiled.
const NAME: &str = "chat";

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`; the template decides which it knows.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// Something that the system says.
    pub fn system(content: impl Into<String>) -> Self {
        Self::of("system", content.into())
    }

    /// Something that the user says.
    pub fn user(content: impl Into<String>) -> Self {
        Self::of("user", content.into())
    }

    /// Something that the model says.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::of("assistant", content.into())
    }

    fn of(role: &str, content: String) -> Self {
        Self {
            role: role.to_owned(),
            content,
        }
    }
}

/// A model's own Jinja chat template, run as Transformers runs it: `trim_blocks` and
/// `lstrip_blocks` on, `raise_exception`, Python's string methods, `break` and `continue`, and a
/// `tojson` that escapes no HTML.
///
/// It comes with the model, so it is foreign: it reaches nothing but the messages, and its work and
/// output are bounded. `strftime_now` is not defined, because a prompt must not depend on the day.
#[derive(Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
    has_system_role: bool,
}

impl ChatTemplate {
    /// Compiles a chat template. The tokens are texts that it may use as `bos_token` and
    /// `eos_token`; a model that has none gives an empty one.
    ///
    /// # Errors
    /// [`PromptError::ChatTemplate`] for a syntax error.
    pub fn parse(source: &str, bos_token: &str, eos_token: &str) -> Result<Self, PromptError> {
        let environment =
            environment(source).map_err(|source| PromptError::ChatTemplate { source })?;
        let mut template = Self {
            environment,
            bos_token: bos_token.to_owned(),
            eos_token: eos_token.to_owned(),
            has_system_role: false,
        };
        // Some templates raise on a system message, others pass it over: only a trial tells.
        let probe = [Message::system("an instruction"), Message::user("an input")];
        template.has_system_role = template
            .render(&probe, true)
            .is_ok_and(|text| text.contains("an instruction"));
        Ok(template)
    }

    /// Whether the template shows a system message.
    pub fn has_system_role(&self) -> bool {
        self.has_system_role
    }

    /// The text of a conversation; `add_generation_prompt` ends it where the model is to answer.
    ///
    /// # Errors
    /// [`PromptError::ChatRender`] when the template refuses the messages, fails or does more work
    /// than is allowed.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, PromptError> {
        self.environment
            .get_template(NAME)
            .and_then(|template| {
                template.render(context! {
                    messages => Value::from(Serde(messages)),
                    add_generation_prompt,
                    bos_token => &self.bos_token,
                    eos_token => &self.eos_token,
                })
            })
            .map_err(|source| PromptError::ChatRender {
                n_messages: messages.len(),
                source,
            })
    }
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ChatTemplate")
            .field("bos_token", &self.bos_token)
            .field("eos_token", &self.eos_token)
            .field("has_system_role", &self.has_system_role)
            .finish_non_exhaustive()
    }
}

fn environment(source: &str) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    bound(&mut environment);
    environment.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()?,
    );
    environment.set_unknown_method_callback(unknown_method_callback);
    environment.add_function("raise_exception", |message: String| {
        Err::<Value, Error>(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_filter("tojson", to_json);
    environment.add_template_owned(NAME, source.to_owned())?;
    Ok(environment)
}

/// Python's `json.dumps(value, ensure_ascii=False, indent=indent)`.
fn to_json(value: &Value, arguments: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = arguments.get("indent")?;
    arguments.assert_all_used()?;
    let json = match indent {
        // No deeper than any template needs: the indentation is output too.
        Some(spaces) => {
            let spaces = " ".repeat(spaces.min(16));
            written(value, PrettyFormatter::with_indent(spaces.as_bytes()))
        }
        None => written(value, PythonSeparators),
    };
    json.map(Value::from_safe_string).ok_or_else(|| {
        Error::new(
            ErrorKind::BadSerialization,
            "a value that JSON does not know",
        )
    })
}

fn written(value: &Value, formatter: impl Formatter) -> Option<String> {
    let mut json = Vec::new();
    value
        .serialize(&mut Serializer::with_formatter(&mut json, formatter))
        .ok()?;
    String::from_utf8(json).ok()
}

/// `, ` between items and `: ` after keys.
struct PythonSeparators;

impl Formatter for PythonSeparators {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
    ) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::{ChatTemplate, Message};
    use crate::error::PromptError;

    fn rendered(source: &str, messages: &[Message]) -> Result<String, PromptError> {
        ChatTemplate::parse(source, "<s>", "</s>")?.render(messages, true)
    }

    fn turn() -> [Message; 1] {
        [Message::user(" l'été <b> ")]
    }

    /// Expected texts are those of Jinja 3.1 with Transformers' settings.
    #[test]
    fn templates_run_as_in_python() {
        for (source, expected) in [
            ("{{ messages[0].content.strip() }}|", "l'été <b>|"),
            (
                "{% for m in messages %}\n  {% if true %}\nx\n  {% endif %}\n{% endfor %}\ny\n",
                "x\ny",
            ),
            ("{{ messages[0]['role'][0] | upper }}", "U"),
            (
                "{{ messages[0] | tojson }}",
                r#"{"role": "user", "content": " l'été <b> "}"#,
            ),
            ("{{ [1, 'a'] | tojson(indent=2) }}", "[\n  1,\n  \"a\"\n]"),
            (
                "{{ 'a' if messages[0].content.startswith(' l') else 'b' }}",
                "a",
            ),
            (
                "{{ bos_token }}{{ eos_token }}{{ missing }}{{ add_generation_prompt }}",
                "<s></s>True",
            ),
            (
                "{% for x in [1, 2, 3] %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}",
                "1",
            ),
            (
                "{% if strftime_now is defined %}today{% else %}no day{% endif %}",
                "no day",
            ),
        ] {
            assert_eq!(rendered(source, &turn()).unwrap(), expected, "{source}");
        }
    }

    #[test]
    fn a_template_may_refuse_fail_or_loop() {
        let refused = rendered("{{ raise_exception('roles must alternate') }}", &turn());
        let error = refused.unwrap_err();
        assert!(
            error
                .source()
                .unwrap()
                .to_string()
                .contains("roles must alternate"),
            "{error:?}"
        );
        for source in [
            "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}",
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
            "{% set ns = namespace(t='xxxxxxxx') %}{% for i in range(64) %}{% set ns.t = ns.t + ns.t %}{% endfor %}",
            "{{ messages[0].nothing.at_all }}",
            "{% include 'secrets' %}",
            "{{ [1] | tojson(sort_keys=true) }}",
        ] {
            let error = rendered(source, &turn()).expect_err(source);
            assert!(
                matches!(error, PromptError::ChatRender { n_messages: 1, .. }),
                "{source}: {error:?}"
            );
        }
        assert!(matches!(
            ChatTemplate::parse("{% for %}", "", ""),
            Err(PromptError::ChatTemplate { .. })
        ));
    }

    #[test]
    fn system_messages_are_found_to_be_shown_or_not() {
        let has = |source: &str| {
            ChatTemplate::parse(source, "", "")
                .unwrap()
                .has_system_role()
        };
        assert!(has(
            "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}"
        ));
        assert!(!has(
            "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        ));
        assert!(!has(
            "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
        ));
    }

    proptest! {
        #[test]
        fn contents_are_inert(content in any::<String>()) {
            let template =
                ChatTemplate::parse("{% for m in messages %}<{{ m.content }}>{% endfor %}", "", "").unwrap();
            for text in [content.clone(), format!("{{{{ bos_token }}}}{content}{{% if %}}")] {
                let rendered = template.render(&[Message::user(text.clone())], false).unwrap();
                prop_assert_eq!(rendered, format!("<{text}>"));
            }
        }

        #[test]
        fn no_chat_template_panics(inside in "[a-z0-9 .|()*+'%,\\[\\]_-]{0,40}") {
            for source in [format!("{{{{ {inside} }}}}"), format!("{{% {inside} %}}")] {
                if let Ok(template) = ChatTemplate::parse(&source, "<s>", "</s>") {
                    let _ = template.render(&turn(), true);
                }
            }
            prop_assert!(true);
        }
    }
}
