//! Templates: text with slots, rendered in a sandbox.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use minijinja::{Environment, UndefinedBehavior, Value, filters};

use crate::error::PromptError;

/// The name under which the one template is compiled.
const NAME: &str = "prompt";

/// Work that one rendering may do, in the engine's unit: an instruction or 64 bytes of text. Ample
/// for a long document, and reached in milliseconds.
const FUEL: u64 = 1_000_000;

/// Deepest nesting of expressions and calls.
const RECURSION_LIMIT: usize = 64;

/// A Jinja template over the fields of an example.
///
/// The sandbox has no files, includes, globals or tests; its filters are `lower`, `upper`,
/// `capitalize`, `title`, `trim` and `replace`. An undefined name is an error, work and output are
/// bounded, and field values are data: `{{ }}` inside them is ordinary text.
#[derive(Clone)]
pub struct Template {
    source: String,
    environment: Environment<'static>,
}

impl Template {
    /// Compiles a template.
    ///
    /// # Errors
    /// [`PromptError::Template`] for a syntax error.
    pub fn parse(source: &str) -> Result<Self, PromptError> {
        let mut environment = sandbox();
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(|error| PromptError::Template {
                template: source.to_owned(),
                source: error,
            })?;
        Ok(Self {
            source: source.to_owned(),
            environment,
        })
    }

    /// Compiles a template and makes sure that it says something of these fields.
    ///
    /// # Errors
    /// As [`Template::parse`], and [`PromptError::UnknownField`] for a name that is no field,
    /// [`PromptError::DropsInput`] when the text does not depend on the input, and
    /// [`PromptError::Render`] when it cannot be filled in at all.
    pub fn for_fields(source: &str, fields: &BTreeSet<String>) -> Result<Self, PromptError> {
        let template = Self::parse(source)?;
        let known = || fields.iter().cloned().collect();
        let compiled = template
            .environment
            .get_template(NAME)
            .map_err(|source| template.failed(source))?;
        let used = compiled.undeclared_variables(false);
        if let Some(field) = used.iter().filter(|name| !fields.contains(*name)).min() {
            let (template, field) = (template.source.clone(), field.clone());
            return Err(PromptError::UnknownField {
                template,
                field,
                known: known(),
            });
        }
        // A name inside a condition or a comparison is "used" but not said: only the text tells.
        let probe = |filler: &str| -> BTreeMap<String, String> {
            fields
                .iter()
                .map(|field| (field.clone(), format!("{filler} {field}")))
                .collect()
        };
        if template.render(&probe("first"))? == template.render(&probe("second"))? {
            return Err(PromptError::DropsInput {
                template: template.source,
                known: known(),
            });
        }
        Ok(template)
    }

    /// The template as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Fills in the fields of one example.
    ///
    /// # Errors
    /// [`PromptError::Render`] when a field is missing or the work is more than allowed.
    pub fn render(&self, fields: &BTreeMap<String, String>) -> Result<String, PromptError> {
        self.environment
            .get_template(NAME)
            .and_then(|template| {
                template.render(Value::from_pairs(
                    fields
                        .iter()
                        .map(|(field, text)| (field.as_str(), text.as_str())),
                ))
            })
            .map_err(|source| self.failed(source))
    }

    fn failed(&self, source: minijinja::Error) -> PromptError {
        PromptError::Render {
            template: self.source.clone(),
            source,
        }
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("Template")
            .field(&self.source)
            .finish()
    }
}

/// An environment that can do nothing but fill in text.
fn sandbox() -> Environment<'static> {
    let mut environment = Environment::empty();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    bound(&mut environment);
    environment.add_filter("lower", filters::lower);
    environment.add_filter("upper", filters::upper);
    environment.add_filter("capitalize", filters::capitalize);
    environment.add_filter("title", filters::title);
    environment.add_filter("trim", filters::trim);
    environment.add_filter("replace", filters::replace);
    environment
}

/// Bounds work, output and recursion.
pub(crate) fn bound(environment: &mut Environment<'_>) {
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION_LIMIT);
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::error::Error;

    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::Template;
    use crate::error::PromptError;

    fn parse(source: &str) -> Result<Template, PromptError> {
        Template::for_fields(
            source,
            &BTreeSet::from(["text".to_owned(), "title".to_owned()]),
        )
    }

    fn fields(text: &str) -> BTreeMap<String, String> {
        BTreeMap::from([
            ("text".to_owned(), text.to_owned()),
            ("title".to_owned(), "T".to_owned()),
        ])
    }

    #[test]
    fn fields_and_filters_are_filled_in() {
        let template = parse("{{ title }}: {{ text | trim | lower }}?").unwrap();
        assert_eq!(template.render(&fields("  Hi ")).unwrap(), "T: hi?");
        assert_eq!(template.source(), "{{ title }}: {{ text | trim | lower }}?");
        let template = parse("{% if title == 'T' %}title: {% endif %}{{ text }}").unwrap();
        assert_eq!(template.render(&fields("hi")).unwrap(), "title: hi");
        assert_eq!(
            parse("{{ text }}")
                .unwrap()
                .render(&fields("<a> & 'b'"))
                .unwrap(),
            "<a> & 'b'",
            "no escaping"
        );
    }

    #[test]
    fn a_template_that_drops_the_input_is_refused() {
        for source in [
            "",
            "classify this",
            "{% if text %}a question{% endif %}",
            "{# {{ text }} #}x",
            "{{ 'text' }}",
        ] {
            let refused = parse(source);
            assert!(
                matches!(refused, Err(PromptError::DropsInput { .. })),
                "{source}: {refused:?}"
            );
        }
        let message = parse("classify this").unwrap_err().to_string();
        assert_eq!(
            message,
            "template `classify this` never uses the input; put one of `text`, `title` into it, as in `{{ text }}`"
        );
    }

    #[test]
    fn names_that_are_no_fields_are_refused() {
        for (source, name) in [
            ("{{ text }} {{ zap }}", "zap"),
            ("{{ range(3) }}{{ text }}", "range"),
        ] {
            let message = parse(source).unwrap_err().to_string();
            assert!(
                message.ends_with(&format!("uses `{name}`; known fields are `text`, `title`")),
                "{message}"
            );
        }
    }

    #[test]
    fn the_sandbox_reaches_nothing_and_stops() {
        let unreachable = [
            "{% include 'secrets' %}{{ text }}",
            "{% import 'x' as y %}{{ text }}",
            "{% extends 'prompt' %}{{ text }}",
            "{{ text | tojson }}",
            "{{ text.__class__.x }}",
            "{{ text * 99999999999 }}",
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}{{ text }}",
            "{% for a in [1] * 9999 %}{% for b in [1] * 9999 %}{{ text }}{% endfor %}{% endfor %}",
        ];
        for source in unreachable {
            let refused = parse(source).expect_err(source);
            assert!(
                refused
                    .source()
                    .is_some_and(|source| source.is::<minijinja::Error>()),
                "{source}: {refused:?}"
            );
        }
        assert!(matches!(
            parse("{{ text "),
            Err(PromptError::Template { .. })
        ));
    }

    #[test]
    fn a_missing_field_is_an_error() {
        let missing = parse("{{ text }}").unwrap().render(&BTreeMap::new());
        assert!(
            matches!(missing, Err(PromptError::Render { .. })),
            "{missing:?}"
        );
    }

    proptest! {
        #[test]
        fn field_values_are_inert(value in any::<String>()) {
            let template = parse("<{{ text }}>").unwrap();
            for text in [value.clone(), format!("{{{{ {value} }}}}{{% if %}}{{#"), format!("{{{{ title }}}}{value}")] {
                prop_assert_eq!(template.render(&fields(&text)).unwrap(), format!("<{text}>"));
            }
        }

        #[test]
        fn no_template_panics(source in "[ -~\\n]{0,60}", inside in "[a-z0-9 .|()*+'%,\\[\\]-]{0,30}") {
            for source in [source, format!("{{{{ {inside} }}}}{{{{ text }}}}"), format!("{{% {inside} %}}{{{{ text }}}}")] {
                if let Ok(template) = parse(&source) {
                    let _ = template.render(&fields("x"));
                }
            }
        }
    }
}
