"""Writes the files of torch.save that the tests of `torch_file.rs` read, beside itself.

    python make_torch_file.py

Needs torch (2.9 wrote the files here).
"""

from pathlib import Path

import torch

folder = Path(__file__).parent
counted = torch.arange(6, dtype=torch.float32).reshape(2, 3) - 2.5
tensors = {
    "float32": counted,
    "float16": counted.half(),
    "bfloat16": counted.bfloat16(),
    "float64": counted.double(),
    "turned": counted.T,
    "of_a_part": counted[1],
    "shira_indices": torch.tensor([[3, 1], [0, 70_000]]),
}
torch.save(tensors, folder / "adapter_model.bin")
torch.save({"x.lora_A.weight": torch.zeros(2, 3, dtype=torch.int64)}, folder / "whole_numbers.bin")
torch.save({"x.lora_A.weight": torch.zeros(1).expand(10_000, 4_000)}, folder / "expanded.bin")
