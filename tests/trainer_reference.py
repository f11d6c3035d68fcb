"""Trains an adapter with a classifier head on Banking77 by the real Trainer and evaluates it.

    python tests/trainer_reference.py CASES.json

CASES.json is a list of objects: `base` (folder of a BERT encoder), `train` and `test` (JSONL files with
`text` and `label`), `max_length` and `adapter`, the folder that the adapter is saved to, with the
configuration that names the classes. The accuracy on `test` goes to `accuracy.json` in that folder. Needs
torch, transformers, peft 0.21 and accelerate.

The Rust test `parity_of_a_classifier_of_the_real_trainer` runs it.
"""

import json
import os
import sys

import numpy as np
import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)


def rows(path):
    """The examples of a file."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def train(case):
    """Trains, saves and evaluates."""
    set_seed(7)
    train_rows, test_rows = rows(case["train"]), rows(case["test"])
    # Not sorted, so that whoever sorts labels is found out.
    labels = list(dict.fromkeys(row["label"] for row in train_rows))
    tokenizer = AutoTokenizer.from_pretrained(case["base"])

    def encoded(row):
        inputs = tokenizer(row["text"], truncation=True, max_length=case["max_length"])
        return {**inputs, "labels": labels.index(row["label"])}

    model = AutoModelForSequenceClassification.from_pretrained(
        case["base"],
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    model = get_peft_model(
        model,
        LoraConfig(task_type=TaskType.SEQ_CLS, r=8, lora_alpha=16, target_modules=["query", "value"]),
    )
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=os.path.join(case["adapter"], "trainer"),
            num_train_epochs=6,
            learning_rate=5e-3,
            per_device_train_batch_size=16,
            per_device_eval_batch_size=64,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
        ),
        train_dataset=[encoded(row) for row in train_rows],
        eval_dataset=[encoded(row) for row in test_rows],
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=lambda found: {
            "accuracy": float(np.mean(np.argmax(found.predictions, -1) == found.label_ids))
        },
    )
    trainer.train()
    trainer.save_model(case["adapter"])
    model.config.save_pretrained(case["adapter"])
    with open(os.path.join(case["adapter"], "accuracy.json"), "w", encoding="utf-8") as file:
        json.dump({"accuracy": trainer.evaluate()["eval_accuracy"]}, file)


def main(path):
    """Does all cases."""
    torch.set_num_threads(os.cpu_count() or 1)
    with open(path, encoding="utf-8") as file:
        for case in json.load(file):
            train(case)


if __name__ == "__main__":
    main(sys.argv[1])
