//! Which sites a method acts on, matched as PEFT matches module names.

use std::collections::BTreeSet;
use std::fmt;

use fancy_regex::Regex;
use hybrid_models::{Site, SiteKind, SiteTable};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strsim::damerau_levenshtein;

use crate::AdapterError;

/// Names of sites.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Targets {
    /// Every site whose path is one of these, or ends with one of these after a dot.
    Names(Vec<String>),
    /// A regular expression for the whole path, or `all-linear`: every linear layer but the output.
    Pattern(String),
}

impl Targets {
    /// The name of "every linear layer but the output".
    pub const ALL_LINEAR: &'static str = "all-linear";

    /// Whether these are all linear layers but the output.
    pub(crate) fn is_all_linear(&self) -> bool {
        matches!(self, Self::Pattern(name) if name.to_lowercase() == Self::ALL_LINEAR)
    }

    /// Queries and values, whatever the architecture calls them.
    pub(crate) fn queries_and_values() -> Self {
        Self::names(&[
            "query", "value", "q_lin", "v_lin", "q_proj", "v_proj", "c_attn", "q", "v",
        ])
    }

    /// Targets by name.
    pub fn names(names: &[&str]) -> Self {
        Self::Names(names.iter().map(|name| (*name).to_owned()).collect())
    }
}

impl fmt::Display for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Names(names) => write!(f, "{names:?}"),
            Self::Pattern(pattern) => write!(f, "{pattern:?}"),
        }
    }
}

/// The selecting keys of a method's configuration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Selection<'a> {
    pub(crate) method: &'static str,
    /// All sites of the right kind when there is none.
    pub(crate) targets: Option<&'a Targets>,
    pub(crate) exclude: Option<&'a Targets>,
    pub(crate) layers: Option<&'a [usize]>,
    pub(crate) layers_pattern: Option<&'a [String]>,
}

/// A selection ready to be held against paths.
pub(crate) struct Selector<'a> {
    selection: Selection<'a>,
    targets: Matcher<'a>,
    exclude: Option<Matcher<'a>>,
    layer_index: Vec<Regex>,
}

enum Matcher<'a> {
    All,
    AllLinear,
    Names(&'a [String]),
    Whole(Box<Regex>),
}

impl<'a> Matcher<'a> {
    fn new(
        method: &'static str,
        key: &'static str,
        targets: &'a Targets,
    ) -> Result<Self, AdapterError> {
        match targets {
            Targets::Names(names) => Ok(Self::Names(names)),
            targets if targets.is_all_linear() && key != "exclude_modules" => Ok(Self::AllLinear),
            Targets::Pattern(pattern) => {
                let regex = regex(method, key, pattern, &format!(r"\A(?:{pattern})\z"))?;
                Ok(Self::Whole(Box::new(regex)))
            }
        }
    }

    /// A search that runs out of its budget counts as no match.
    fn fits(&self, path: &str) -> bool {
        match self {
            Self::All | Self::AllLinear => true,
            Self::Names(names) => names.iter().any(|name| ends_with_name(path, name)),
            Self::Whole(regex) => regex.is_match(path).unwrap_or(false),
        }
    }
}

/// Whether `path` is `name`, or ends with it after a dot.
pub(crate) fn ends_with_name(path: &str, name: &str) -> bool {
    path.strip_suffix(name)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn regex(
    method: &'static str,
    key: &'static str,
    pattern: &str,
    whole: &str,
) -> Result<Regex, AdapterError> {
    Regex::new(whole).map_err(|source| AdapterError::Pattern {
        method,
        key,
        pattern: pattern.to_owned(),
        source: Box::new(source),
    })
}

impl<'a> Selector<'a> {
    /// # Errors
    /// [`AdapterError::Pattern`], or [`AdapterError::Setting`] for a layer subset of a pattern.
    pub(crate) fn new(selection: Selection<'a>) -> Result<Self, AdapterError> {
        let method = selection.method;
        let targets = match selection.targets {
            Some(targets) => Matcher::new(method, "target_modules", targets)?,
            None => Matcher::All,
        };
        let exclude = selection
            .exclude
            .map(|exclude| Matcher::new(method, "exclude_modules", exclude))
            .transpose()?;
        if let (Matcher::Whole(_), Some(layers)) = (&targets, selection.layers) {
            return Err(AdapterError::Setting {
                method,
                key: "layers_to_transform",
                expected: "no layer subset beside a regular expression, which can name the layers itself",
                found: format!("{layers:?}"),
            });
        }
        let patterns = selection.layers_pattern.unwrap_or_default();
        let mut layer_index = Vec::new();
        for pattern in patterns {
            layer_index.push(regex(
                method,
                "layers_pattern",
                pattern,
                &format!(r"\A(?:.*?\.)?(?:{pattern})\.(\d+)(?:\.|\z)"),
            )?);
        }
        if layer_index.is_empty() {
            layer_index.push(regex(
                method,
                "layers_pattern",
                "",
                r"\A.*?\.[^.]*\.(\d+)(?:\.|\z)",
            )?);
        }
        Ok(Self {
            selection,
            targets,
            exclude,
            layer_index,
        })
    }

    /// Whether a module path is selected, whatever is there.
    pub(crate) fn fits(&self, path: &str) -> bool {
        !self
            .exclude
            .as_ref()
            .is_some_and(|exclude| exclude.fits(path))
            && self.targets.fits(path)
            && self.selection.layers.is_none_or(|layers| {
                self.layer_of(path)
                    .is_some_and(|layer| layers.contains(&layer))
            })
    }

    fn layer_of(&self, path: &str) -> Option<usize> {
        let index = self
            .layer_index
            .iter()
            .find_map(|regex| regex.captures(path).ok().flatten())?;
        index.get(1)?.as_str().parse().ok()
    }

    /// The selected sites that `wanted` accepts, in forward order. `prefix` stands before every
    /// path while it is matched.
    pub(crate) fn select<'s>(
        &self,
        sites: &'s SiteTable,
        prefix: &str,
        wanted: impl Fn(&Site) -> bool,
    ) -> Result<Vec<&'s Site>, AdapterError> {
        let output = matches!(self.targets, Matcher::AllLinear)
            .then(|| output_of(sites))
            .flatten();
        let selected: Vec<&Site> = sites
            .iter()
            .filter(|site| wanted(site) && self.fits(&format!("{prefix}{}", site.path)))
            .filter(|site| match self.targets {
                Matcher::AllLinear => {
                    matches!(site.kind, SiteKind::Linear { .. })
                        && output != Some(site.path.as_str())
                        && !below_head(&site.path)
                }
                _ => true,
            })
            .collect();
        match selected.is_empty() {
            true => Err(self.nothing(sites)),
            false => Ok(selected),
        }
    }

    fn nothing(&self, sites: &SiteTable) -> AdapterError {
        let Selection {
            method,
            targets,
            layers,
            ..
        } = self.selection;
        nothing_selected(method, "target_modules", targets, layers, sites)
    }
}

/// The error of targets that select no site, with the names of the base that come nearest.
pub(crate) fn nothing_selected(
    method: &'static str,
    key: &'static str,
    targets: Option<&Targets>,
    layers: Option<&[usize]>,
    sites: &SiteTable,
) -> AdapterError {
    let wanted: Vec<&str> = match targets {
        Some(Targets::Names(names)) => names.iter().map(String::as_str).collect(),
        Some(Targets::Pattern(pattern)) => vec![pattern],
        None => Vec::new(),
    };
    AdapterError::NoTarget {
        method,
        key,
        targets: match (targets, layers) {
            (Some(targets), Some(layers)) => format!("{targets} in the layers {layers:?}"),
            (Some(targets), None) => targets.to_string(),
            (None, Some(layers)) => format!("everything in the layers {layers:?}"),
            (None, None) => "everything".to_owned(),
        },
        near: near_names(&wanted, sites),
    }
}

/// The layer that maps to the output of a head: the last linear site of it.
fn output_of(sites: &SiteTable) -> Option<&str> {
    let linear = |site: &&Site| site.head && matches!(site.kind, SiteKind::Linear { .. });
    Some(sites.iter().filter(linear).last()?.path.as_str())
}

/// Whether a path lies in a head that PEFT trains as a whole; by its rule DistilBERT's
/// `pre_classifier` does too.
fn below_head(path: &str) -> bool {
    let heads = ["classifier", "score", "qa_outputs"];
    path.split('.')
        .any(|name| heads.iter().any(|head| name.ends_with(head)))
}

/// Up to five names of the base, those with the fewest edits from any of `wanted` first.
fn near_names(wanted: &[&str], sites: &SiteTable) -> Vec<String> {
    let mut names = BTreeSet::new();
    for site in sites
        .iter()
        .filter(|site| !matches!(site.kind, SiteKind::Block { .. }))
    {
        let parts: Vec<&str> = site.path.split('.').collect();
        for length in 1..=parts.len().min(2) {
            let name = &parts[parts.len() - length..];
            if name[0].parse::<usize>().is_err() {
                names.insert(name.join("."));
            }
        }
    }
    let mut ranked: Vec<(usize, String)> = names
        .into_iter()
        .map(|name| {
            (
                wanted
                    .iter()
                    .map(|wanted| damerau_levenshtein(wanted, &name))
                    .min()
                    .unwrap_or(0),
                name,
            )
        })
        .collect();
    ranked.sort();
    ranked.into_iter().take(5).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use hybrid_models::{SiteKind, SiteTable};

    use super::{Selection, Selector, Targets};
    use crate::AdapterError;

    fn table() -> SiteTable {
        let mut sites = SiteTable::default();
        let linear = SiteKind::Linear {
            d_in: 4,
            d_out: 4,
            bias: true,
        };
        sites.add(
            "bert.embeddings.LayerNorm",
            None,
            false,
            SiteKind::Norm {
                d_model: 4,
                bias: true,
            },
        );
        for layer in 0..3 {
            for name in [
                "attention.self.query",
                "attention.self.value",
                "attention.output.dense",
                "output.dense",
            ] {
                sites.add(
                    format!("bert.encoder.layer.{layer}.{name}"),
                    Some(layer),
                    false,
                    linear,
                );
            }
        }
        sites.add("bert.pooler.dense", None, false, linear);
        sites.add("classifier", None, true, linear);
        sites
    }

    fn paths(
        targets: &Targets,
        exclude: Option<&Targets>,
        layers: Option<&[usize]>,
    ) -> Result<Vec<String>, AdapterError> {
        let selection = Selection {
            method: "lora",
            targets: Some(targets),
            exclude,
            layers,
            layers_pattern: None,
        };
        let sites = table();
        let linear = |site: &hybrid_models::Site| matches!(site.kind, SiteKind::Linear { .. });
        let found = Selector::new(selection)?.select(&sites, "", linear)?;
        Ok(found
            .into_iter()
            .map(|site| site.path.replace("bert.encoder.layer.", ""))
            .collect())
    }

    #[test]
    fn a_list_matches_whole_names_at_the_end() {
        let found = paths(&Targets::names(&["query"]), None, None).unwrap();
        assert_eq!(
            found,
            [
                "0.attention.self.query",
                "1.attention.self.query",
                "2.attention.self.query"
            ]
        );
        let found = paths(&Targets::names(&["output.dense"]), None, Some(&[1])).unwrap();
        assert_eq!(found, ["1.attention.output.dense", "1.output.dense"]);
        assert!(paths(&Targets::names(&["uery"]), None, None).is_err());
    }

    #[test]
    fn a_pattern_matches_the_whole_path() {
        let pattern = |text: &str| Targets::Pattern(text.to_owned());
        assert_eq!(
            paths(&pattern(r".*\.2\..*(query|value)"), None, None)
                .unwrap()
                .len(),
            2
        );
        assert!(paths(&pattern("query"), None, None).is_err());
        let negative = pattern(r"(?!.*attention)bert\.encoder.*dense");
        assert_eq!(
            paths(&negative, None, None).unwrap(),
            ["0.output.dense", "1.output.dense", "2.output.dense"]
        );
        assert!(matches!(
            paths(&pattern("("), None, None),
            Err(AdapterError::Pattern { .. })
        ));
        assert!(matches!(
            paths(&pattern(".*"), None, Some(&[0])),
            Err(AdapterError::Setting { .. })
        ));
    }

    #[test]
    fn all_linear_leaves_the_output_out() {
        let found = paths(&Targets::Pattern("all-linear".to_owned()), None, None).unwrap();
        assert_eq!(found.len(), 13);
        assert!(
            found.contains(&"bert.pooler.dense".to_owned())
                && !found.contains(&"classifier".to_owned())
        );
    }

    #[test]
    fn excluded_modules_are_left_out() {
        let all = Targets::Pattern("all-linear".to_owned());
        assert_eq!(
            paths(
                &all,
                Some(&Targets::names(&["query", "pooler.dense"])),
                None
            )
            .unwrap()
            .len(),
            9
        );
        assert_eq!(
            paths(
                &all,
                Some(&Targets::Pattern(r".*layer\.[01].*".to_owned())),
                None
            )
            .unwrap()
            .len(),
            5
        );
    }

    #[test]
    fn nothing_found_names_near_names() {
        match paths(&Targets::names(&["qurey"]), None, None) {
            Err(AdapterError::NoTarget { near, .. }) => assert_eq!(near[0], "query"),
            other => panic!("{other:?}"),
        }
        let absent = paths(&Targets::names(&["query"]), None, Some(&[7]))
            .unwrap_err()
            .to_string();
        assert!(absent.contains("[7]"), "{absent}");
    }
}
