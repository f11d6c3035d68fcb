"""Loads adapters that `hybrid` has written in real PEFT and compares what the models compute.

    python tests/peft_reference.py CASES.json

CASES.json is a list of objects: `name`; `base` and `adapter` (folders); `input_ids` and
`attention_mask`; `logits` or `hidden` (what `hybrid` computed; hidden states count where the mask
is 1, those of virtual tokens do not). What PEFT has loaded it writes again, next to `adapter` with
`-again` at the end of its name, with the tensors in `adapter_model.bin` too. Needs torch, transformers and peft 0.21. Exits with 1 if a
value differs by more than 1e-4.

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
from transformers import AutoModel, AutoModelForSequenceClassification

TOLERANCE = 1e-4


def outputs(case):
    """What PEFT computes for one case."""
    headed = "logits" in case
    if headed:
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
    routed = model.active_peft_config.peft_type == PeftType.POLY
    if routed:
        inputs["task_ids"] = torch.zeros(len(case["input_ids"]), dtype=torch.long)
    with torch.no_grad():
        # Without a task PEFT's outermost model passes no `task_ids` on.
        out = (model.base_model if routed else model)(**inputs)
        merged = out
        if not model.active_peft_config.is_prompt_learning and not routed:
            merged = model.merge_and_unload()(**inputs)
    pick = (lambda o: o.logits) if headed else (lambda o: o.last_hidden_state)
    return pick(out), pick(merged)


def main(path):
    """Compares all cases; the exit code."""
    worst_of_all = 0.0
    with open(path, encoding="utf-8") as file:
        cases = json.load(file)
    for case in cases:
        expected = torch.tensor(case["logits"] if "logits" in case else case["hidden"])
        mask = torch.tensor(case["attention_mask"], dtype=torch.bool)
        for kind, actual in zip(("as adapter", "merged"), outputs(case)):
            difference = (actual - expected).abs()
            if "hidden" in case:
                difference = difference[:, -mask.shape[1] :][mask]
            worst = difference.max().item()
            worst_of_all = max(worst_of_all, worst)
            print(f"{case['name']}: {kind}: largest difference {worst:.1e}")
            if not worst <= TOLERANCE:
                return 1
    print(f"{len(cases)} adapters agree within {worst_of_all:.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
