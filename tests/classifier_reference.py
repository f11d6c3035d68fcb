"""Trains classifiers over tiny bases of every family with PEFT.

    python tests/classifier_reference.py CASES.json

CASES.json is a list of objects with `family` (a `model_type`), `targets` and `bias` of the LoRA, and `folder`,
which is filled: `base`, random weights with a tokenizer of words; `adapter`, the LoRA with the classifier that
was trained beside it, and the configuration that names the classes; `expected.json`, some texts, the names of
the classes and the logits of each text read alone. Needs torch, transformers, tokenizers and peft 0.21.

The Rust test `parity_of_classifiers_of_every_family` runs it and reads what it writes.
"""

import json
import os
import sys

import torch
from peft import LoraConfig, TaskType, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
WORDS = "the my card is lost stolen cash fee was charged phone number new why please help".split()
# Not sorted, so that whoever sorts labels is found out.
LABELS = ["phone", "card", "fee", "other"]
TEXTS = [
    "my card is lost",
    "why",
    "the fee was charged please help",
    "new phone number",
    "please help my card was stolen the cash is lost why",
    "an unknown word",
]

SHAPE = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}
DISTILBERT = {"dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 32}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32}
GROUPED = {**SHAPE, "num_key_value_heads": 2}

# Configuration, class of the checkpoint, its settings, and what tokenizers put around a text. Of the decoders,
# one has no padding, and one ends its texts with the token that is its padding, too.
FAMILIES = {
    "bert": (BertConfig, BertModel, SHAPE, "<s> $A </s>", "<pad>"),
    "roberta": (RobertaConfig, RobertaForMaskedLM, SHAPE, "<s> $A </s>", "<pad>"),
    "distilbert": (DistilBertConfig, DistilBertForMaskedLM, DISTILBERT, "<s> $A </s>", "<pad>"),
    "gpt2": (GPT2Config, GPT2LMHeadModel, GPT2, "$A", None),
    "llama": (LlamaConfig, LlamaForCausalLM, GROUPED, "<s> $A", "<pad>"),
    "mistral": (MistralConfig, MistralForCausalLM, {**GROUPED, "sliding_window": 3}, "<s> $A", "<unk>"),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, GROUPED, "$A </s>", "</s>"),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {**GROUPED, "head_dim": 8}, "$A", "<mask>"),
}


def write_base(family, folder):
    """Random weights and a tokenizer."""
    config_class, model_class, settings, template, _ = FAMILIES[family]
    vocabulary = {word: index for index, word in enumerate(SPECIAL + WORDS)}
    config = config_class(
        vocab_size=len(vocabulary), bos_token_id=0, pad_token_id=None, eos_token_id=2, **settings
    )
    if model_class in (BertModel, RobertaForMaskedLM, DistilBertForMaskedLM):
        config.pad_token_id = 1
    model = model_class(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    around = [(token, vocabulary[token]) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=around)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>").save_pretrained(folder)


def encoded(folder, text):
    """One text as a batch."""
    tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    ids = torch.tensor([tokenizer.encode(text).ids])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def logits(model, folder):
    """The logits of each text, read alone."""
    model.eval()
    with torch.no_grad():
        return [model(**encoded(folder, text)).logits[0] for text in TEXTS]


def train(case):
    """Makes base, adapter and expected logits."""
    torch.manual_seed(7)
    base, adapter = (os.path.join(case["folder"], name) for name in ("base", "adapter"))
    write_base(case["family"], base)
    model = AutoModelForSequenceClassification.from_pretrained(
        base,
        num_labels=len(LABELS),
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
    )
    padding = FAMILIES[case["family"]][-1]
    model.config.pad_token_id = None if padding is None else SPECIAL.index(padding)
    lora = LoraConfig(
        task_type=TaskType.SEQ_CLS, r=2, lora_alpha=3, target_modules=case["targets"], bias=case["bias"]
    )
    model = get_peft_model(model, lora)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.no_grad():
        for parameter in trained:
            parameter.add_(0.3 * torch.randn_like(parameter))
    before = logits(model, base)
    optimizer = torch.optim.AdamW(trained, lr=0.01)
    for step in range(2 * len(TEXTS)):
        text = step % len(TEXTS)
        out = model(**encoded(base, TEXTS[text]), labels=torch.tensor([text % len(LABELS)]))
        out.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    found = logits(model, base)
    moved = max((a - b).abs().max().item() for a, b in zip(before, found))
    apart = (torch.stack(found).max(0).values - torch.stack(found).min(0).values).max().item()
    assert min(moved, apart) > 0.1, f"{case['family']}: {moved} moved by training, {apart} apart by text"
    model.save_pretrained(adapter)
    model.config.save_pretrained(adapter)
    expected = {"texts": TEXTS, "labels": LABELS, "logits": [row.tolist() for row in found]}
    with open(os.path.join(case["folder"], "expected.json"), "w", encoding="utf-8") as file:
        json.dump(expected, file)


def main(path):
    """Makes all cases."""
    torch.set_num_threads(1)
    with open(path, encoding="utf-8") as file:
        for case in json.load(file):
            train(case)


if __name__ == "__main__":
    main(sys.argv[1])
