"""The choice among settings of LoRA with PEFT, for `cargo xtask bench-peers training`.

    python choice_peer.py JOB.json grid

Does the job that `training.rs` beside this file describes: each of its `variants` is trained to its
end as in `training_peer.py`, from the same first values over the same batches, and scored on `select`.
The one with the least log loss is chosen and scored on `report`. The base is loaded once, and scoring
keeps nothing for gradients. After the report, at which the clock stops, all of them are scored on
`report`, and the figures of the grid are printed.
"""

import sys

import peft
import torch
import transformers

import job as jobs
from training_peer import INFERENCE_ROWS, Classifier, say, train


def load(job):
    """The base with the adapter of each setting, by the setting's number."""
    base = transformers.AutoModel.from_pretrained(
        job["model"], dtype=torch.float32, add_pooling_layer=False
    )
    first, *others = job["variants"]
    body = peft.PeftModel.from_pretrained(
        base, first["adapter"], adapter_name="1", is_trainable=True
    )
    for number, variant in enumerate(others, 2):
        body.load_adapter(variant["adapter"], adapter_name=str(number), is_trainable=True)
    return body


def score(model, part):
    """Mean log loss and accuracy on rows, in batches of similar length."""
    rows, targets = part["ids"], torch.tensor(part["targets"])
    order = sorted(range(len(rows)), key=lambda row: -len(rows[row]))
    log_loss, right = 0.0, 0
    with torch.inference_mode():
        for begin in range(0, len(order), INFERENCE_ROWS):
            chunk = order[begin : begin + INFERENCE_ROWS]
            logits = model([rows[row] for row in chunk])
            wanted = targets[chunk]
            log_loss += torch.nn.functional.cross_entropy(logits, wanted, reduction="sum").item()
            right += (logits.argmax(-1) == wanted).sum().item()
    return log_loss / len(rows), right / len(rows)


def main():
    """Trains, chooses and scores."""
    job = jobs.read()
    if sys.argv[2] != "grid":
        raise SystemExit("expected the mode grid")
    torch.set_num_threads(job["threads"])
    body = load(job)
    # They share the body, and each has a head of its own.
    models = [Classifier(body, job["head"]).eval() for _ in job["variants"]]

    def with_setting(place):
        """The classifier with a setting's adapter active."""
        body.set_adapter(str(place + 1))
        return models[place]

    say(event="stage_began")
    log_losses = []
    for place, variant in enumerate(job["variants"]):
        train(with_setting(place), job, variant["lr"], variant=place + 1)
        log_losses.append(score(models[place], job["select"])[0])
    chosen = log_losses.index(min(log_losses))
    _, accuracy = score(with_setting(chosen), job["report"])
    versions = {
        "peft": peft.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    say(event="report", accuracy=accuracy, chosen=chosen + 1, versions=versions)
    accuracies = [score(with_setting(place), job["report"])[1] for place in range(len(models))]
    say(event="grid", accuracies=accuracies, log_losses=log_losses, rows=len(job["report"]["ids"]))


if __name__ == "__main__":
    main()
