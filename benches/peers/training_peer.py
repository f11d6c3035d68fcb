"""Training with Transformers and PEFT, for `cargo xtask bench-peers training`.

    python training_peer.py JOB.json MODE

Does the job that `training.rs` beside this file describes, in float32, and prints a line of JSON for
each update. The loop has nothing but the update: rows of similar length meet, they are padded to the
longest of a batch, dropout is off as in hybrid's base, AdamW is the fused one. Modes:

- `plain`: what there is to compute is computed in every epoch; of a language model, logits at the
  last position only.
- `all_logits`: a language model's logits at all positions, as `model(labels=...)` computes them.
- `features`: with a frozen body, its pooled vectors are computed once and kept.
"""

import json
import sys
import time

import torch
import transformers
from transformers import AutoModel, AutoModelForCausalLM

import job as jobs

# Rows of a forward pass that keeps nothing.
INFERENCE_ROWS = 64


def say(**event):
    """Prints an event at once: whoever reads it looks at the clock."""
    print(json.dumps(event), flush=True)


def padded(rows, on_the_left=False):
    """Ids and mask `[batch, seq]` of rows of tokens."""
    seq = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), seq, dtype=torch.long), torch.zeros(len(rows), seq, dtype=torch.long)
    for place, row in enumerate(rows):
        begin = seq - len(row) if on_the_left else 0
        ids[place, begin : begin + len(row)] = torch.tensor(row)
        mask[place, begin : begin + len(row)] = 1
    return ids, mask


class Classifier(torch.nn.Module):
    """An encoder's pooled vectors to logits."""

    def __init__(self, body, head):
        super().__init__()
        self.body, self.pooling, self.normalize = body, head["pooling"], head["normalize"]
        n_labels = head["n_labels"]
        weight = torch.tensor(head["weight"]).view(-1, n_labels)
        self.head = torch.nn.Linear(weight.shape[0], n_labels)
        self.head.load_state_dict({"weight": weight.T, "bias": torch.tensor(head["bias"])})

    def features(self, rows):
        ids, mask = padded(rows)
        out = self.body(input_ids=ids, attention_mask=mask)
        if self.pooling == "pooler":
            pooled = out.pooler_output
        else:
            weight = mask.unsqueeze(-1).to(torch.float32)
            pooled = (out.last_hidden_state * weight).sum(1) / weight.sum(1)
        return torch.nn.functional.normalize(pooled, dim=-1) if self.normalize else pooled

    def forward(self, rows):
        return self.head(self.features(rows))


class LabelWords(torch.nn.Module):
    """A language model's logits of label words as the next token."""

    def __init__(self, body, tokens, all_logits):
        super().__init__()
        self.body, self.all_logits = body, all_logits
        if any(len(words) != 1 for words in tokens):
            raise SystemExit("expected one token a label")
        self.tokens = torch.tensor(tokens).flatten()

    def forward(self, rows):
        ids, mask = padded(rows, on_the_left=True)
        keep = 0 if self.all_logits else 1
        out = self.body(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=keep)
        return out.logits[:, -1, self.tokens]


def load(job, mode):
    """The model of a job, and the version of PEFT where it was needed."""
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    if "label_tokens" in job:
        body = AutoModelForCausalLM.from_pretrained(job["float32_folder"], dtype=torch.float32)
    else:
        with_pooler = job["head"]["pooling"] == "pooler"
        body = AutoModel.from_pretrained(
            job["model"], dtype=torch.float32, add_pooling_layer=with_pooler
        )
    if job["adapter"]:
        import peft

        versions["peft"] = peft.__version__
        body = peft.PeftModel.from_pretrained(body, job["adapter"], is_trainable=True)
    else:
        body.requires_grad_(False)
    if "label_tokens" in job:
        return LabelWords(body, job["label_tokens"], mode == "all_logits").eval(), versions
    return Classifier(body, job["head"]).eval(), versions


def kept_features(model, rows):
    """The pooled vectors of all rows, computed in batches of similar length."""
    order = sorted(range(len(rows)), key=lambda row: -len(rows[row]))
    kept = [None] * len(rows)
    with torch.inference_mode():
        for begin in range(0, len(order), INFERENCE_ROWS):
            chunk = order[begin : begin + INFERENCE_ROWS]
            for row, vector in zip(chunk, model.features([rows[row] for row in chunk])):
                kept[row] = vector
    # Inference tensors cannot be saved for backward.
    return torch.stack(kept).clone()


def train(model, job, lr, kept=None, **said):
    """Does the updates of a job and says each, with `said`; over kept features, if there are any."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=0.0, fused=True)
    rows, targets = job["ids"], torch.tensor(job["targets"])
    step = 0
    for epoch in job["batches"]:
        for batch in epoch:
            logits = model([rows[row] for row in batch]) if kept is None else model.head(kept[batch])
            loss = torch.nn.functional.cross_entropy(logits, targets[batch])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            say(event="step", step=step, loss=loss.item(), **said)


def matrix_product_gflops():
    """What the machine's matrix product reaches at best, for comparison."""
    size = 2048
    a, b = torch.randn(size, size), torch.randn(size, size)
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best / 1e9


def main():
    """Trains."""
    job, mode = jobs.read(), sys.argv[2]
    torch.set_num_threads(job["threads"])
    model, versions = load(job, mode)
    say(event="stage_began")
    kept = kept_features(model, job["ids"]) if mode == "features" else None
    train(model, job, job["lr"], kept)
    peak_rss_mb = jobs.peak_rss_mb()
    say(event="report", versions=versions, peak_rss_mb=peak_rss_mb)
    say(event="machine", matrix_product_gflops=matrix_product_gflops())


if __name__ == "__main__":
    main()
