"""The main job on the real model, two steps of it: every loss, every source that needs no hub, and the adapter."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from kto_lab.models.exact_rows import ExactRows, find_exact_rows
from kto_lab.models.load import smollm2
from kto_lab.runs.command import train
from tests.small_runs import composed, metrics, options

FEW = [
    "model.source=registry",
    "evaluation=none",
    "optimization.max_steps=2",
    "optimization.batch_size=4",
]

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "overrides",
    [
        ["feedback.train_prompts=8"],
        ["feedback.train_prompts=8", "loss=dpo"],
        ["feedback.train_prompts=8", "loss=sft"],
        ["feedback.train_prompts=8", "adapter=lora", "adapter.merge=true"],
        ["feedback=movie_ratings", "feedback.limit=200"],
    ],
    ids=["kto", "dpo", "sft", "lora", "movie_ratings"],
)
def test_two_steps(tmp_path: Path, overrides: list[str]) -> None:
    command = [sys.executable, "-m", "kto_lab.cli", "train", *FEW, *overrides, f"run_dir={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["training"]["steps"] == 2
    assert record["model"]["name"] == "SmolLM2-135M-Instruct, dequantised from Q4_1"
    policy = AutoModelForCausalLM.from_pretrained(tmp_path / "policy", dtype=torch.float32)
    assert sum(parameter.numel() for parameter in policy.parameters()) == 134_515_008


@pytest.mark.parametrize("loss", options("loss"))
def test_every_loss(tmp_path: Path, loss: str) -> None:
    # An adapter, since nineteen whole policies with their checkpoints would fill a disk.
    words = [*FEW, "feedback.train_prompts=8", "adapter=lora", f"loss={loss}", f"run_dir={tmp_path}"]
    train(composed(words))
    for row in metrics(tmp_path):
        assert all(math.isfinite(float(value)) for value in row.values() if value)


def test_prompts_are_shared_exactly() -> None:
    assert find_exact_rows(smollm2("registry", "float32", "sdpa").model, longest=1024) == ExactRows(
        packed=True, shared=True
    )
