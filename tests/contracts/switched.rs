//! Named stacks over one base, of which some act.

use hybrid_adapters::{AdapterConfig, AdapterError, AdapterSet, Adapters, combine};
use hybrid_models::{Hooks, NoHooks};
use serde_json::{Value, json};

use super::bench::{close, differ, moved};
use super::subjects::{Subject, subjects};

fn init(subject: &Subject, stack: Value) -> Adapters {
    let stack: Vec<AdapterConfig> = serde_json::from_value(stack).unwrap();
    let adapters = Adapters::init(&stack, subject.base(), 3, &subject.device);
    moved(adapters.unwrap_or_else(|error| panic!("{}: {error}", subject.name())))
}

#[test]
fn parity_bases_with_named_stacks_switched_on_and_off() {
    for subject in subjects() {
        let base = subject.base();
        let named = [
            (
                "wide",
                json!([{"method": "lora", "r": 2, "target_modules": "all-linear"}]),
            ),
            ("scaled", json!([{"method": "ia3"}])),
            (
                "soft",
                json!([{"method": "prompt_tuning", "num_virtual_tokens": 2}]),
            ),
        ];
        let named = named.map(|(name, stack)| (name.to_owned(), init(&subject, stack)));
        let alone: Vec<Vec<f32>> = named
            .iter()
            .map(|(_, adapters)| subject.logits(&subject.base, adapters))
            .collect();
        let before = base.named_tensors();
        let set = AdapterSet::new(named.clone());
        assert_eq!(set.names().collect::<Vec<_>>(), ["scaled", "soft", "wide"]);
        let logits = |hooks: &dyn Hooks| subject.logits(&subject.base, hooks);
        let with = |names: &[&str]| logits(&set.active(names, base).unwrap());

        let own = logits(&NoHooks);
        let all = with(&["wide", "scaled", "soft"]);
        // Disabled, the base is what it was; enabled again, the stack is.
        assert_eq!(with(&[]), own, "{}", subject.name());
        assert_eq!(with(&["wide", "scaled", "soft"]), all, "{}", subject.name());
        for (name, alone) in ["wide", "scaled", "soft"].iter().zip(&alone) {
            assert_eq!(&with(&[*name]), alone, "{}: {name}", subject.name());
            differ(name, alone, &own);
            differ(name, alone, &all);
        }
        // Without the prompt it is what the other two are in a stack.
        let [(_, wide), (_, scaled), _] = named;
        let two = wide.then(scaled, base).unwrap();
        close(
            subject.name(),
            &with(&["wide", "scaled"]),
            &logits(&two),
            0.0,
        );
        assert_eq!(base.named_tensors(), before, "{}", subject.name());

        let error = set.active(&["wide", "wdie"], base).unwrap_err();
        assert!(matches!(&error, AdapterError::NoSuchAdapter { name, .. } if name == "wdie"));
        let error = set.active(&["scaled", "scaled"], base).unwrap_err();
        assert!(matches!(error, AdapterError::Stacking { .. }), "{error}");
    }
}

/// Also where the base of before is gone, a merged LoRA is taken out again: by merging its negation.
#[test]
fn parity_bases_with_a_lora_merged_are_unmerged_by_its_negation() {
    for subject in subjects() {
        let lora = json!([{"method": "lora", "r": 2, "target_modules": "all-linear"}]);
        let lora = init(&subject, lora);
        let rule = serde_json::from_value(json!({"combination_type": "linear"})).unwrap();
        let negated = combine(&[(&lora, -1.0)], &rule, subject.base(), &subject.device).unwrap();
        let merged = subject.base.merged(&lora).unwrap();
        let restored = merged.merged(&negated).unwrap();
        let (own, after) = (
            subject.base().named_tensors(),
            restored.as_base().named_tensors(),
        );
        for ((name, own), (_, after)) in own.iter().zip(&after) {
            let [own, after] = [own, after].map(|data| data.iter::<f32>().collect::<Vec<f32>>());
            close(&format!("{}: {name}", subject.name()), &after, &own, 1e-5);
        }
        let logits = |base| subject.logits(base, &NoHooks);
        differ(subject.name(), &logits(&merged), &logits(&subject.base));
        close(
            subject.name(),
            &logits(&restored),
            &logits(&subject.base),
            1e-3,
        );
    }
}
