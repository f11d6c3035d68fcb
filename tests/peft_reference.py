"""Loads adapters that `hybrid` has written in real PEFT and compares what the models compute.

    python tests/peft_reference.py CASES.json

CASES.json is a list of objects: `name`; `base` and `adapter` (folders); `input_ids` and
`attention_mask`; `logits` of a classifier, `hidden` states of an encoder or `causal`, the logits of a decoder
(what `hybrid` computed; values count where the mask is 1, those of virtual tokens do not). What PEFT has
loaded it writes again, next to `adapter` with `-again` at the end of its name, with the tensors in
`adapter_model.bin` too. The largest difference of each case goes to `differences.json` next to CASES.json.
Needs torch, transformers, peft 0.21 and, for AdaMSS, scikit-learn. Exits with 1 if a value differs by more than 1e-4.

The Rust test `parity_of_files_in_peft_itself` writes the cases and runs this script with the
interpreter that HYBRID_REFERENCE_PYTHON names; without that variable it does nothing.
"""

import json
import os
import sys
import warnings

import torch
from peft import PeftModel, PeftType, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

TOLERANCE = 1e-4

# Methods that PEFT does not merge into a base.
NEVER_MERGED = {PeftType.POLY, PeftType.ADAPTION_PROMPT, PeftType.LILY}


def lacks_bias(model):
    """Whether a BEFT adapter stands on a layer without a bias, into which PEFT does not merge it."""
    layers = (module for module in model.modules() if hasattr(module, "beft_bias"))
    return any(layer.get_base_layer().bias is None for layer in layers)


def outputs(case):
    """What PEFT computes for one case, with the adapter beside the base and merged into it."""
    if "causal" in case:
        base = AutoModelForCausalLM.from_pretrained(case["base"])
    elif "logits" in case:
        labels = len(case["logits"][0])
        base = AutoModelForSequenceClassification.from_pretrained(
            case["base"], num_labels=labels, ignore_mismatched_sizes=True
        )
    else:
        base = AutoModel.from_pretrained(case["base"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(base, case["adapter"]).eval()
    for warning in caught:
        if "missing adapter keys" in str(warning.message) or "Unexpected" in str(warning.message):
            raise SystemExit(f"{case['name']}: {warning.message}")
    stored = load_file(os.path.join(case["adapter"], "adapter_model.safetensors"))
    unused = set(stored) - set(get_peft_model_state_dict(model))
    if unused:
        raise SystemExit(f"{case['name']}: PEFT does not use {sorted(unused)}")
    model.save_pretrained(case["adapter"] + "-again")
    torch.save(
        load_file(os.path.join(case["adapter"] + "-again", "adapter_model.safetensors")),
        os.path.join(case["adapter"] + "-again", "adapter_model.bin"),
    )
    inputs = {key: torch.tensor(case[key]) for key in ("input_ids", "attention_mask")}
    kind = model.active_peft_config.peft_type
    routed = kind == PeftType.POLY
    if routed or kind == PeftType.MULTITASK_PROMPT_TUNING:
        inputs["task_ids"] = torch.zeros(len(case["input_ids"]), dtype=torch.long)
    with torch.no_grad():
        # Without a task PEFT's outermost model passes no `task_ids` on.
        out = (model.base_model if routed else model)(**inputs)
        found = {"as adapter": out}
        unmerged = model.active_peft_config.is_prompt_learning or kind in NEVER_MERGED or lacks_bias(model)
        if not unmerged:
            found["merged"] = model.merge_and_unload()(**inputs)
    part = "last_hidden_state" if "hidden" in case else "logits"
    return {name: getattr(output, part) for name, output in found.items()}


def main(path):
    """Compares all cases; the exit code."""
    differences = {}
    with open(path, encoding="utf-8") as file:
        cases = json.load(file)
    for case in cases:
        part = next(part for part in ("logits", "hidden", "causal") if part in case)
        expected = torch.tensor(case[part])
        mask = torch.tensor(case["attention_mask"], dtype=torch.bool)
        differences[case["name"]] = of_case = {}
        for kind, actual in outputs(case).items():
            if part != "logits":
                actual = actual[:, -mask.shape[1] :]
            difference = (actual - expected[:, -actual.shape[1] :]).abs()
            if part != "logits":
                difference = difference[mask]
            of_case[kind] = worst = difference.max().item()
            print(f"{case['name']}: {kind}: largest difference {worst:.1e}")
            if not worst <= TOLERANCE:
                return 1
    out = os.path.join(os.path.dirname(path), "differences.json")
    with open(out, "w", encoding="utf-8") as file:
        json.dump(differences, file)
    print(f"{len(cases)} adapters agree")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
