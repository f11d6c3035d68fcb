"""Decoding with Transformers in float32, for `cargo xtask bench-peers decoding`.

    python transformers_peer.py JOB.json
    python transformers_peer.py --export MODEL.gguf FOLDER

The first form does the job that `hybrid.rs` beside this file describes and prints what it took; it
reads `float32_folder`, which the second form has written: the GGUF file's weights in float32, so
that a job does not dequantise them again. Needs torch, transformers 5.23 and, to export, gguf.
"""

import os
import sys

import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache

import job as jobs


def export(gguf, folder):
    """Writes the weights of a GGUF file as float32."""
    place, name = os.path.split(gguf)
    read = AutoModelForCausalLM.from_pretrained(place, gguf_file=name, dtype=torch.float32)
    # What was read from GGUF counts as quantised, and is not saved.
    del read.config.quantization_config
    model = AutoModelForCausalLM.from_config(read.config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)


def load(folder):
    """The model of a folder."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def begin(model, _rows, _length):
    """A model with an empty cache."""
    return model, DynamicCache(config=model.config)


def read(state, rows):
    """Reads as many tokens of each row; the best token after the last of each."""
    model, cache = state
    out = model(torch.tensor(rows), past_key_values=cache, logits_to_keep=1)
    return out.logits[:, -1].argmax(-1).tolist()


def write_rest(state, tokens, n):
    """`n` more tokens of each row."""
    written = []
    for _ in range(n):
        tokens = read(state, [[token] for token in tokens])
        written.append(tokens)
    return list(zip(*written))


def main():
    """Exports or measures."""
    if sys.argv[1] == "--export":
        return export(*sys.argv[2:])
    job = jobs.read()
    torch.set_num_threads(job["threads"])
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    with torch.inference_mode():
        folder = job["float32_folder"]
        jobs.measure(job, versions, lambda: load(folder), begin, read, write_rest)


if __name__ == "__main__":
    main()
