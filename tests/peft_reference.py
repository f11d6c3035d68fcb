"""Loads adapters that `hybrid` has written in real PEFT and compares what the models compute.

    python tests/peft_reference.py CASES.json

CASES.json is a list of objects: `name`; `base` and `adapter` (folders); `input_ids` and
`attention_mask`; `logits` of a classifier, `hidden` states of an encoder, `causal`, the logits of a decoder, or
`seq2seq`, those of an encoder-decoder that is given `decoder_input_ids` (what `hybrid` computed; values count where the mask is 1, those of virtual tokens do not). What PEFT has
loaded it writes again, next to `adapter` with `-again` at the end of its name, with the tensors in
`adapter_model.bin` too. The largest difference of each case goes to `differences.json` next to CASES.json.
With `trained`, PEFT must train as many values at the layers of the base. A method that PEFT does not put on GPT-2's
`Conv1D` has `refused` there instead.
Needs torch, transformers, peft 0.21 and, for AdaMSS, scikit-learn. Exits with 1 if a value differs by more than
1e-4, or a number of values at all.

The Rust test `parity_of_files_in_peft_itself` writes the cases and runs this script with the
interpreter that HYBRID_REFERENCE_PYTHON names; without that variable it does nothing.
"""

import json
import os
import sys
import warnings

import torch
from peft import PeftConfig, PeftModel, PeftType, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

TOLERANCE = 1e-4

# Methods that PEFT does not merge into a base.
NEVER_MERGED = {PeftType.POLY, PeftType.ADAPTION_PROMPT, PeftType.LILY}


class Disagreement(Exception):
    """PEFT does not take what a file holds."""


def lacks_bias(model):
    """Whether a BEFT adapter stands on a layer without a bias, into which PEFT does not merge it."""
    layers = (module for module in model.modules() if hasattr(module, "beft_bias"))
    return any(layer.get_base_layer().bias is None for layer in layers)


def loaded(case):
    """The base of one case."""
    if "causal" in case:
        return AutoModelForCausalLM.from_pretrained(case["base"])
    if "seq2seq" in case:
        return AutoModelForSeq2SeqLM.from_pretrained(case["base"])
    if "logits" in case:
        labels = len(case["logits"][0])
        return AutoModelForSequenceClassification.from_pretrained(
            case["base"], num_labels=labels, ignore_mismatched_sizes=True
        )
    return AutoModel.from_pretrained(case["base"])


def trained(case):
    """How many values PEFT trains at the layers of the base, without layers that are trained whole.

    None of what stands in front of the tokens: files hold what its networks compute.
    """
    if PeftConfig.from_pretrained(case["adapter"]).is_prompt_learning:
        return None
    model = PeftModel.from_pretrained(loaded(case), case["adapter"], is_trainable=True)
    whole = ("modules_to_save", "classifier")
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and not any(part in name for part in whole)
    )


def has_no_place(layer, base):
    """Whether the weights of a LoRA's layer cannot hold it: a bias of its own at a layer without one,
    or word vectors that are the output layer's too."""
    if not isinstance(layer, LoraLayer):
        return False
    bias = any(layer.lora_bias.values()) and layer.get_base_layer().bias is None
    is_shared = base.config.tie_word_embeddings and base.get_output_embeddings() is not None
    tied = len(layer.lora_embedding_A) > 0 and is_shared
    return bias or tied


def outputs(case):
    """What PEFT computes for one case, with the adapter beside the base and merged into it."""
    base = loaded(case)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(base, case["adapter"]).eval()
    for warning in caught:
        if "missing adapter keys" in str(warning.message) or "Unexpected" in str(warning.message):
            raise Disagreement(warning.message)
    stored = load_file(os.path.join(case["adapter"], "adapter_model.safetensors"))
    unused = set(stored) - set(get_peft_model_state_dict(model))
    if unused:
        raise Disagreement(f"PEFT does not use {sorted(unused)}")
    model.save_pretrained(case["adapter"] + "-again")
    torch.save(
        load_file(os.path.join(case["adapter"] + "-again", "adapter_model.safetensors")),
        os.path.join(case["adapter"] + "-again", "adapter_model.bin"),
    )
    given = ("input_ids", "attention_mask", "decoder_input_ids")
    inputs = {key: torch.tensor(case[key]) for key in given if key in case}
    kind = model.active_peft_config.peft_type
    routed = kind == PeftType.POLY
    if routed or kind == PeftType.MULTITASK_PROMPT_TUNING:
        inputs["task_ids"] = torch.zeros(len(case["input_ids"]), dtype=torch.long)
    with torch.no_grad():
        # Without a task PEFT's outermost model passes no `task_ids` on.
        out = (model.base_model if routed else model)(**inputs)
        found = {"as adapter": out}
        unmerged = model.active_peft_config.is_prompt_learning or kind in NEVER_MERGED or lacks_bias(model)
        if kind == PeftType.LORA:
            unmerged |= any(has_no_place(layer, base) for layer in model.modules())
        if not unmerged:
            found["merged"] = model.merge_and_unload()(**inputs)
    part = "last_hidden_state" if "hidden" in case else "logits"
    return {name: getattr(output, part) for name, output in found.items()}


def main(path):
    """Compares all cases; the exit code."""
    differences = {}
    with open(path, encoding="utf-8") as file:
        cases = json.load(file)
    faults = []
    for case in cases:
        name = case["name"]
        part = next(part for part in ("logits", "hidden", "causal", "seq2seq") if part in case)
        expected = torch.tensor(case[part])
        mask = torch.tensor(case["attention_mask"], dtype=torch.bool)
        if part == "seq2seq":
            mask = torch.ones(expected.shape[:2], dtype=torch.bool)
        differences[name] = of_case = {}
        try:
            found = outputs(case)
        except Disagreement as error:
            faults.append(f"{name}: {error}")
            continue
        except (NotImplementedError, TypeError, ValueError) as error:
            if "Conv1D" not in str(error):
                raise
            of_case["refused"] = str(error)
            continue
        for kind, actual in found.items():
            if part != "logits":
                actual = actual[:, -mask.shape[1] :]
            difference = (actual - expected[:, -actual.shape[1] :]).abs()
            if part != "logits":
                difference = difference[mask]
            of_case[kind] = worst = difference.max().item()
            print(f"{name}: {kind}: largest difference {worst:.1e}")
            if not worst <= TOLERANCE:
                faults.append(f"{name}: {kind}: {worst:.1e}")
        expected = case.get("trained")
        if expected is not None and trained(case) not in (None, expected):
            faults.append(f"{name}: {expected} values are trained, {trained(case)} by PEFT")
    out = os.path.join(os.path.dirname(path), "differences.json")
    with open(out, "w", encoding="utf-8") as file:
        json.dump(differences, file)
    if faults:
        print("\n".join(["These do not agree:", *faults]))
        return 1
    print(f"{len(cases)} adapters agree")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
