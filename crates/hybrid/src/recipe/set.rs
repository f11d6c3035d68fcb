//! `--set key=value`: one key of a recipe, changed from the command line.

use serde_json::Value;

/// Writes `value` at the dotted `key`, making tables on the way; list items are named by index.
///
/// The value is read as TOML where it is TOML (`3`, `true`, `[1, 2]`), and as a plain string
/// where it is not.
///
/// # Errors
/// A message when the key leads through something that is neither a table nor a list item.
pub(super) fn set(recipe: &mut Value, key: &str, value: &str) -> Result<(), String> {
    let parsed = toml::from_str::<Value>(&format!("value = {value}"))
        .ok()
        .and_then(|mut table| table.get_mut("value").map(Value::take))
        .unwrap_or_else(|| Value::String(value.to_owned()));
    let mut place = recipe;
    for segment in key.split('.') {
        place = match place {
            Value::Object(table) => table
                .entry(segment)
                .or_insert_with(|| Value::Object(Default::default())),
            Value::Array(items) => {
                let count = items.len();
                segment
                    .parse::<usize>()
                    .ok()
                    .and_then(|index| items.get_mut(index))
                    .ok_or_else(|| format!("`{segment}` is no item of a list of {count}"))?
            }
            other => return Err(format!("`{segment}` would lie inside the value {other}")),
        };
    }
    *place = parsed;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::set;

    #[test]
    fn values_are_toml_where_they_can_be() {
        let mut recipe = json!({"seed": 1, "stages": [{"epochs": 3}]});
        set(&mut recipe, "seed", "7").unwrap();
        set(&mut recipe, "stages.0.epochs", "5").unwrap();
        set(&mut recipe, "base.model", "some/model").unwrap();
        assert_eq!(
            recipe,
            json!({"seed": 7, "stages": [{"epochs": 5}], "base": {"model": "some/model"}})
        );
    }

    #[test]
    fn a_key_inside_a_number_is_refused() {
        assert!(set(&mut json!({"seed": 1}), "seed.x", "7").is_err());
        assert!(set(&mut json!({"stages": []}), "stages.0.epochs", "7").is_err());
    }
}
