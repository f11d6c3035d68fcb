//! The targets of LiLy: in PEFT the names that select layers say which of them share factors.

use std::collections::BTreeSet;

use hybrid_models::{Base, SiteId, SiteKind};
use serde_json::{Value, json};

use super::Keys;
use crate::targets::ends_with_name;
use crate::{LilyConfig, Targets};

/// Targets by which PEFT, with `prefix` before every path, selects the adapted `sites` and shares
/// factors as here.
pub(super) fn targets(
    config: &LilyConfig,
    base: &dyn Base,
    sites: &[SiteId],
    prefix: &str,
) -> Keys {
    let given = |targets: Option<&Targets>| match targets {
        Some(Targets::Pattern(pattern)) if !prefix.is_empty() => {
            let prefix = prefix.replace('.', r"\.");
            json!(format!("{prefix}(?:{pattern})"))
        }
        targets => json!(targets),
    };
    if !config.target_modules.is_all_linear() {
        return vec![
            ("exclude_modules", given(config.exclude_modules.as_ref())),
            ("layers_pattern", json!(config.layers_pattern)),
            ("layers_to_transform", json!(config.layers_to_transform)),
            ("target_modules", given(Some(&config.target_modules))),
        ];
    }
    let full = |path: &str| format!("{prefix}{path}");
    let paths = sites.iter().map(|site| full(&base.sites().get(*site).path));
    let names: BTreeSet<String> = paths.map(|path| config.name_of(&path).to_owned()).collect();
    let others = base.sites().iter().filter(|site| {
        matches!(site.kind, SiteKind::Linear { .. })
            && !sites.contains(&site.id)
            && names
                .iter()
                .any(|name| ends_with_name(&full(&site.path), name))
    });
    let others: Vec<String> = others.map(|site| full(&site.path)).collect();
    let others = match others.is_empty() {
        true => Value::Null,
        false => json!(others),
    };
    vec![
        ("exclude_modules", others),
        ("layers_pattern", Value::Null),
        ("layers_to_transform", Value::Null),
        ("target_modules", json!(names)),
    ]
}
