//! LoRAs that start by explained variance, beside PEFT's own. Runs only where the reference stack is
//! installed: `HYBRID_REFERENCE_PYTHON` names its interpreter.

use hybrid_adapters::{AdapterConfig, save_peft};
use serde_json::{Value, json};

use crate::contracts::bench::{benches, moved};
use crate::contracts::eva::started;
use crate::fixtures;
use crate::peft_reference::{case, rows};
use crate::reference;

#[test]
fn parity_of_eva_with_peft_itself() {
    let Some(python) = reference::python() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (mut cases, mut trained) = (Vec::new(), Vec::new());
    for bench in benches() {
        // PEFT's sketch has twice as many directions as there are candidates; with ten tokens and five
        // candidates it is exact.
        // It divides by a root of a singular value for each site that shares an input, so there is none
        // beside `whiten`.
        let shared = json!([
            "query",
            "value",
            "q_lin",
            "v_lin",
            "intermediate.dense",
            "lin1"
        ]);
        let apart = json!(["query", "q_lin", "intermediate.dense", "lin1"]);
        for (index, (eva, targets)) in [
            (json!({"rho": 2.5}), &shared),
            (json!({"rho": 2.5, "whiten": true}), &apart),
            (
                json!({"rho": 2.5, "adjust_scaling_factors": false}),
                &shared,
            ),
        ]
        .into_iter()
        .enumerate()
        {
            let stack = json!([{
                "method": "lora", "r": 2, "lora_alpha": 3, "init_lora_weights": "eva",
                "eva_config": eva, "target_modules": targets,
            }]);
            let stack: Vec<AdapterConfig> = serde_json::from_value(stack).unwrap();
            let (adapters, _) = started(&bench, &stack);
            let name = bench.name.replace('/', "-");
            let place = folder.path().join(format!("{name}-{index}"));
            save_peft(&adapters, &bench.model, "tiny", None, &place).unwrap();
            let batch = &bench.batch;
            let mut case = case(
                &format!("{} {eva}", bench.name),
                &bench.folder,
                &place,
                &batch.input_ids,
                &batch.attention_mask,
            );
            case["config"] = fixtures::json(&place.join("adapter_config.json"));
            let Value::Object(config) = serde_json::to_value(&stack[0]).unwrap() else {
                unreachable!("settings are an object")
            };
            case["targets"] = config["target_modules"].clone();
            cases.push(case.clone());
            // The same after a training, in PEFT's hands.
            let adapters = moved(adapters);
            let place = folder.path().join(format!("{name}-{index}-trained"));
            save_peft(&adapters, &bench.model, "tiny", None, &place).unwrap();
            case["adapter"] = json!(place);
            case["logits"] = rows(bench.model.classify(&bench.batch, &adapters).unwrap());
            trained.push(case);
        }
    }
    reference::compare(python.clone(), "eva_reference.py", folder.path(), cases);
    reference::compare(python, "peft_reference.py", folder.path(), trained);
}
