"""Compares what `hybrid` computes with encoder-decoders with Transformers itself.

    python tests/seq2seq_reference.py CASES.json

CASES.json is a list of objects with `name`, `base` (a folder), `input_ids` and `attention_mask`, and
either `decoder_input_ids` and `logits`, or `settings` (of `generate`), `targets` (the tokens that
`hybrid` wrote, an end token included) and `scores` (of beam search, or null). Needs torch and
transformers 5.23. Exits with 1 if logits or scores differ by more than the tolerance, or tokens at
all.

The Rust test `parity_of_seq2seq_with_transformers_itself` writes the cases and runs this script with
the interpreter that HYBRID_REFERENCE_PYTHON names; without that variable it does nothing.
"""

import json
import sys

import torch
from transformers import AutoModelForSeq2SeqLM

# Relative to 1 + the expected value.
LOGITS = 1e-3
SCORES = 1e-3


def compare_logits(model, case):
    """The largest difference of logits."""
    names = ("input_ids", "attention_mask", "decoder_input_ids")
    with torch.no_grad():
        expected = model(**{name: torch.tensor(case[name]) for name in names}).logits.flatten()
    found = torch.tensor(case["logits"])
    return ((found - expected).abs() / (1 + expected.abs())).max().item()


def compare_targets(model, case):
    """The largest difference of scores; an error when tokens differ."""
    worst = 0.0
    ends = case["settings"]["eos_token_id"]
    rows = zip(case["input_ids"], case["attention_mask"], case["targets"], case["scores"])
    for ids, mask, expected, score in rows:
        out = model.generate(
            torch.tensor([ids]),
            attention_mask=torch.tensor([mask]),
            output_scores=True,
            return_dict_in_generate=True,
            **case["settings"],
        )
        found = out.sequences[0, 1:].tolist()
        end = next((i for i, token in enumerate(found) if token in ends), len(found) - 1)
        found = found[: end + 1]
        if found != expected:
            raise SystemExit(f"{case['name']}: of {ids}: {expected} instead of {found}")
        if score is not None:
            reference = out.sequences_scores[0].item()
            worst = max(worst, abs(score - reference) / (1 + abs(reference)))
    return worst


def main(path):
    """Compares all cases; the exit code."""
    with open(path, encoding="utf-8") as file:
        cases = json.load(file)
    for case in cases:
        model = AutoModelForSeq2SeqLM.from_pretrained(case["base"], attn_implementation="eager")
        model.eval()
        compare, tolerance = (
            (compare_logits, LOGITS) if "logits" in case else (compare_targets, SCORES)
        )
        worst = compare(model, case)
        print(f"{case['name']}: largest difference {worst:.1e}")
        if not worst <= tolerance:
            return 1
    print(f"{len(cases)} cases agree")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
