//! Where the keys of a recipe stand: in which line of the file, or on the command line.

use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::check::{Fault, RecipeFaults};

/// Where the keys of a recipe were given.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    path: PathBuf,
    source: String,
    /// Keys given by `--set`.
    set: Vec<String>,
}

impl Places {
    /// The places of a file of this text, of which `settings` change some keys.
    pub(super) fn new(path: &Path, source: String, settings: &[(String, String)]) -> Self {
        Self {
            path: path.to_owned(),
            source,
            set: settings.iter().map(|(key, _)| key.clone()).collect(),
        }
    }

    /// A fault of the value at a dotted key, with the line of that key or, where a default stands
    /// for it, of the table around it.
    pub(crate) fn fault(&self, key: &str, message: impl Into<String>) -> Fault {
        let is_set = |set: &String| key == set || key.starts_with(&format!("{set}."));
        let line = match self.set.iter().any(is_set) {
            true => None,
            false => self.line(key),
        };
        Fault {
            line,
            key: key.to_owned(),
            message: message.into(),
        }
    }

    /// All faults of this recipe, in the order of their lines.
    pub(crate) fn refuse(&self, mut faults: Vec<Fault>) -> RecipeFaults {
        faults.sort();
        faults.dedup();
        RecipeFaults {
            path: self.path.clone(),
            faults,
        }
    }

    fn line(&self, key: &str) -> Option<usize> {
        let document = DeTable::parse(&self.source).ok()?;
        let mut segments = key.split('.').filter(|segment| !segment.is_empty());
        let Some(first) = segments.next() else {
            return Some(1);
        };
        let (name, mut value) = document.get_ref().get_key_value(first)?;
        let mut offset = name.span().start;
        for segment in segments {
            let (start, next) = match value.get_ref() {
                DeValue::Table(table) => match table.get_key_value(segment) {
                    Some((name, next)) => (name.span().start, next),
                    None => break,
                },
                DeValue::Array(items) => match segment
                    .parse::<usize>()
                    .ok()
                    .and_then(|index| items.get(index))
                {
                    Some(next) => (next.span().start, next),
                    None => break,
                },
                _ => break,
            };
            offset = start;
            value = next;
        }
        Some(self.source[..offset].matches('\n').count() + 1)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Places;

    const SOURCE: &str = "name = \"a\"\n\n[data]\nfit = \"a\"\n\n[[stages]]\nkind = \"prompt\"\n\n[[stages]]\nkind = \"adapter\"\noptimizer = { kind = \"sgd\",\n  lr = -1 }\n";

    #[test]
    fn a_key_has_its_line_and_a_default_that_of_its_table() {
        let places = Places::new(Path::new("a.toml"), SOURCE.to_owned(), &[]);
        for (key, line) in [
            ("", 1),
            ("name", 1),
            ("data.fit", 4),
            ("data.select", 3),
            ("stages.0.name", 6),
            ("stages.1", 9),
            ("stages.1.kind", 10),
            ("stages.1.optimizer.lr", 12),
        ] {
            assert_eq!(places.fault(key, "").line, Some(line), "{key}");
        }
        assert_eq!(places.fault("budget.max_rounds", "").line, None);
    }

    #[test]
    fn a_set_key_has_no_line() {
        let set = [("stages.1.optimizer".to_owned(), "{}".to_owned())];
        let places = Places::new(Path::new("a.toml"), SOURCE.to_owned(), &set);
        assert_eq!(places.fault("stages.1.optimizer.lr", "").line, None);
        assert_eq!(places.fault("stages.1.kind", "").line, Some(10));
    }
}
