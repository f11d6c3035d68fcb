"""Compares what `hybrid` computes with decoders with Transformers itself.

    python tests/decoder_reference.py CASES.json

CASES.json is a list of objects with `name` and `base` (a folder), and either `ids` and `logits` (of
every position, one row), or `prompts`, `settings` (of `generate`), `continuations` (the tokens that
`hybrid` added, an end token included) and `scores` (of beam search, or null). Needs torch and
transformers 5.23. Exits with 1 if logits or scores differ by more than the tolerance, or tokens at
all.

The Rust test `parity_with_transformers_itself` writes the cases and runs this script with the
interpreter that HYBRID_REFERENCE_PYTHON names; without that variable it does nothing.
"""

import json
import sys

import torch
from transformers import AutoModelForCausalLM

LOGITS = 1e-3
SCORES = 1e-4


def compare_logits(model, case):
    """The largest difference of logits."""
    ids = torch.tensor([case["ids"]])
    with torch.no_grad():
        actual = model(input_ids=ids, use_cache=False).logits.flatten()
    return (actual - torch.tensor(case["logits"])).abs().max().item()


def compare_continuations(model, case):
    """The largest difference of scores; an error when tokens differ."""
    worst = 0.0
    settings = dict(case["settings"])
    ends = settings["eos_token_id"]
    for prompt, expected, score in zip(case["prompts"], case["continuations"], case["scores"]):
        ids = torch.tensor([prompt])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            pad_token_id=ends[0],
            bos_token_id=None,
            output_scores=True,
            return_dict_in_generate=True,
            **settings,
        )
        found = out.sequences[0, len(prompt) :].tolist()
        end = next((i for i, token in enumerate(found) if token in ends), len(found) - 1)
        found = found[: end + 1]
        if found != expected:
            raise SystemExit(f"{case['name']}: after {prompt}: {expected} instead of {found}")
        if score is not None:
            worst = max(worst, abs(score - out.sequences_scores[0].item()))
    return worst


def main(path):
    """Compares all cases; the exit code."""
    with open(path, encoding="utf-8") as file:
        cases = json.load(file)
    for case in cases:
        model = AutoModelForCausalLM.from_pretrained(case["base"], attn_implementation="eager")
        model.eval()
        compare, tolerance = (
            (compare_logits, LOGITS) if "logits" in case else (compare_continuations, SCORES)
        )
        worst = compare(model, case)
        print(f"{case['name']}: largest difference {worst:.1e}")
        if not worst <= tolerance:
            return 1
    print(f"{len(cases)} cases agree")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
