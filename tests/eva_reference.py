"""Starts LoRAs by explained variance in real PEFT and compares ranks and first values with those that
`hybrid` has found.

    python tests/eva_reference.py CASES.json

CASES.json is a list of objects: `name`; `base` and `adapter` (folders); `input_ids` and
`attention_mask`, the only batch; `config` (the adapter's `adapter_config.json`) and `targets` (what
its LoRA was to adapt). Needs torch, transformers and peft 0.21. Exits with 1 if ranks, alphas or
targets differ, or a value of `A` by more than 1e-3.

The Rust test `parity_of_eva_with_peft_itself` writes the cases and runs this script with the
interpreter that HYBRID_REFERENCE_PYTHON names; without that variable it does nothing.
"""

import json
import os
import sys

import torch
from peft import (
    EvaConfig,
    LoraConfig,
    get_peft_model,
    get_peft_model_state_dict,
    initialize_lora_eva_weights,
)
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

TOLERANCE = 1e-3


def faults(case):
    """What PEFT has otherwise."""
    own = case["config"]
    base = AutoModelForSequenceClassification.from_pretrained(case["base"]).eval()
    config = LoraConfig(
        r=own["r"],
        lora_alpha=own["lora_alpha"],
        target_modules=case["targets"],
        init_lora_weights="eva",
        eva_config=EvaConfig(**own["eva_config"]),
    )
    model = get_peft_model(base, config)
    batch = {key: torch.tensor(case[key]) for key in ("input_ids", "attention_mask")}
    initialize_lora_eva_weights(model, [batch], show_progress_bar=False)
    found = model.peft_config["default"].to_dict()
    for key in ("rank_pattern", "alpha_pattern"):
        if found[key] != own[key]:
            yield f"{key}: {own[key]} instead of {found[key]}"
    if set(found["target_modules"]) != set(own["target_modules"]):
        yield f"target_modules: {own['target_modules']} instead of {found['target_modules']}"
    tensors = load_file(os.path.join(case["adapter"], "adapter_model.safetensors"))
    expected = get_peft_model_state_dict(model)
    if set(tensors) != set(expected):
        yield f"tensors: {sorted(set(tensors) ^ set(expected))}"
        return
    for name, tensor in expected.items():
        difference = (tensors[name] - tensor).abs().max().item()
        if not difference <= TOLERANCE:
            yield f"{name}: {difference:.1e}"


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        cases = json.load(file)
    wrong = 0
    for case in cases:
        for fault in faults(case):
            print(f"{case['name']}: {fault}")
            wrong += 1
    print(f"{len(cases)} cases, {wrong} differences")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
