"""What `benches/lora_gpu.rs` is measured beside: the same training steps with PEFT.

    python lora_gpu.py write FOLDER [--layers 16 ...]   a Llama with random weights in bfloat16
    python lora_gpu.py train FOLDER --dtype bfloat16    steps with PEFT, one line of JSON
    python lora_gpu.py table FIGURES.json...            figures of both as a table

PEFT runs at its best settings that need no other package: attention by
`scaled_dot_product_attention`, AdamW in one kernel, TF32 where float32 is multiplied. Weights of the
adapter are float32, as PEFT makes them over a bfloat16 base.
"""

import argparse
import json
import statistics
import sys
import time

STEP = 2_654_435_761


def tokens(n, vocab):
    """Tokens without a pattern, the same as the bench's."""
    return [((place * STEP) % 2**64 >> 7) % vocab for place in range(n)]


def write(arguments):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=arguments.d_model,
        intermediate_size=arguments.d_ff,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.heads,
        num_key_value_heads=arguments.kv_heads,
        vocab_size=arguments.vocab,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM(config)
    model.save_pretrained(arguments.folder)
    n_parameters = sum(weight.numel() for weight in model.parameters())
    print(f"{n_parameters} parameters in {arguments.folder}", file=sys.stderr)


def flops_per_token(model, seq):
    """As the bench counts them, the output layer of tied weights included."""
    import torch

    config = model.config
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    frozen = sum(m.weight.numel() for m in linear if not m.weight.requires_grad)
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    features = config.num_hidden_layers * config.num_attention_heads * head
    return 4 * frozen + 6 * trained + 12 * features * seq / 2


def train(arguments):
    import peft
    import torch
    import transformers

    begin = time.perf_counter()
    torch.set_float32_matmul_precision("high")
    device = torch.device(arguments.device)
    model = transformers.LlamaForCausalLM.from_pretrained(
        arguments.folder, dtype=getattr(torch, arguments.dtype), attn_implementation="sdpa"
    ).to(device)
    targets = arguments.targets.split(",")
    config = peft.LoraConfig(
        r=arguments.rank,
        lora_alpha=2 * arguments.rank,
        lora_dropout=0.0,
        target_modules=targets[0] if targets == ["all-linear"] else targets,
        task_type="CAUSAL_LM",
    )
    model = peft.get_peft_model(model, config)
    model.train()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    fused = device.type == "cuda"
    optimizer = torch.optim.AdamW(trained, lr=1e-4, eps=1e-8, weight_decay=0.0, fused=fused)
    rows, seq = arguments.rows, arguments.seq
    ids = torch.tensor(tokens(rows * seq, model.config.vocab_size), device=device).view(rows, seq)

    def synchronize():
        if device.type == "cuda":
            torch.cuda.synchronize()

    def step():
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        value = loss.item()
        synchronize()
        return value

    print(f"loaded after {time.perf_counter() - begin:.1f} s", file=sys.stderr)
    losses, seconds = [], []
    for index in range(arguments.warmups + arguments.steps):
        start = time.perf_counter()
        losses.append(step())
        seconds.append(time.perf_counter() - start)
        print(f"step {index}: loss {losses[-1]:.4f}, {seconds[-1]:.3f} s", file=sys.stderr)
    timed = seconds[arguments.warmups :]
    tokens_per_s = rows * seq / statistics.median(timed)
    flops = flops_per_token(model, seq)
    allocated = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else None
    figures = {
        "program": "peft",
        "versions": {
            "peft": peft.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "device": arguments.device,
        "dtype": arguments.dtype,
        "targets": targets,
        "rank": arguments.rank,
        "rows": rows,
        "seq": seq,
        "trained": sum(weight.numel() for weight in trained),
        "warmup_s": seconds[: arguments.warmups],
        "step_s": timed,
        "losses": losses,
        "tokens_per_s": tokens_per_s,
        "flops_per_token": flops,
        "utilisation": tokens_per_s * flops / (arguments.peak * 1e12),
        "allocated_mib": allocated,
    }
    print(json.dumps(figures))


def samples(path):
    """Memory in use, in MiB, as `nvidia-smi` printed it line by line."""
    try:
        with open(path) as file:
            return [float(line) for line in file if line.strip().replace(".", "").isdigit()]
    except FileNotFoundError:
        return []


def table(arguments):
    print("| program | device | dtype | targets | rows | tokens/s | utilisation | memory MiB | step s | first loss | last loss |")
    print("| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    rows = []
    for path in arguments.figures:
        try:
            with open(path) as file:
                figures = json.loads(file.read().strip().splitlines()[-1])
        except (OSError, ValueError, IndexError):
            print(f"{path}: no figures", file=sys.stderr)
            continue
        used = samples(path.removesuffix(".json") + ".memory")
        if used:
            figures["memory_mib"] = max(used) - used[0]
        rows.append(figures)
        memory = figures.get("memory_mib")
        cells = [
            figures["program"],
            figures["device"],
            figures["dtype"],
            ", ".join(figures["targets"]),
            str(figures["rows"]),
            f"{figures['tokens_per_s']:.0f}",
            f"{figures['utilisation']:.1%}",
            "" if memory is None else f"{memory:.0f}",
            f"{statistics.median(figures['step_s']):.4f}",
            f"{figures['losses'][0]:.4f}",
            f"{figures['losses'][-1]:.4f}",
        ]
        print("| " + " | ".join(cells) + " |")
    if arguments.out:
        with open(arguments.out, "w") as file:
            json.dump(rows, file, indent=1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    tasks = parser.add_subparsers(required=True)
    task = tasks.add_parser("write")
    task.set_defaults(run=write)
    task.add_argument("folder")
    sizes = {"d-model": 2048, "d-ff": 8192, "layers": 16, "heads": 32, "kv-heads": 8, "vocab": 32768}
    for name, size in sizes.items():
        task.add_argument(f"--{name}", type=int, default=size)
    task = tasks.add_parser("train")
    task.set_defaults(run=train)
    task.add_argument("folder")
    task.add_argument("--device", default="cuda")
    task.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    task.add_argument("--targets", default="q_proj,v_proj")
    for name, value in {"rank": 16, "rows": 8, "seq": 512, "warmups": 5, "steps": 20}.items():
        task.add_argument(f"--{name}", type=int, default=value)
    task.add_argument("--peak", type=float, default=989.0)
    task = tasks.add_parser("table")
    task.set_defaults(run=table)
    task.add_argument("figures", nargs="+")
    task.add_argument("--out")
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
