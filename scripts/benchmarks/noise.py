"""`benchmark.py noise`: what bf16 does to the log-ratios of a run, at its start and in a sequence, and to its z0.

The tiny policy takes a minute; SmolLM2 is slow where the CPU has no bf16.
"""

import copy
import csv
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from kto_lab.cli import config_dir
from kto_lab.feedback.table import of_split
from kto_lab.models.adapters import Policy
from kto_lab.models.load import hf
from kto_lab.models.logps import score
from kto_lab.models.number_format import dither, round_once
from kto_lab.models.sequences import Tokens
from kto_lab.models.tokens import Encoder
from kto_lab.runs.command import train
from kto_lab.training.callbacks import METRICS
from kto_lab.training.data import prepare, reference_sequences

FEEDBACK = {"tiny": "arithmetic", "smollm2-135m": "instruction_checks"}


def noise(
    model: str = "tiny", *, batch: int = 16, steps: int = 8, learning_rate: float = 5e-5, seed: int = 0, most: int = 64
) -> dict[str, Any]:
    """Measure the noise of bf16-mixed against 32-true, with full fine-tuning by KTO on the CPU.

    Args:
        model: of `FEEDBACK`.
        batch: examples per step.
        steps: of each of two runs, which differ in the number format alone.
        learning_rate: AdamW's.
        seed: of both.
        most: sequences that are scored.

    Returns:
        `logratio_at_start_max`: the largest |log-ratio| before the first step, nats, `same_batches` as the reference
        and `other_batches`; `noise_per_sequence`: root mean square of bf16's log-ratio less float32's, of the same
        update, and `signal_per_sequence`, that of float32's log-ratio, nats; `z0`: of each step, `bf16`, `float32` and
        float32's `stderr`, nats.
    """
    with tempfile.TemporaryDirectory() as folder:
        cfg = _configuration(model, batch, steps, learning_rate, seed, Path(folder) / "32-true")
        exact = train(cfg)
        narrow = train(_configuration(model, batch, steps, learning_rate, seed, Path(folder) / "bf16-mixed"))
        trained = hf(str(exact / "policy"), dtype="float32", attention="sdpa").model
        z0 = {
            "float32": _column(exact, "z0_raw"),
            "bf16": _column(narrow, "z0_raw"),
            "stderr": _column(exact, "z0_stderr"),
        }
    return _same_weights(cfg, trained, seed, most) | {"z0": z0, "model": model, "learning_rate": learning_rate}


def _configuration(model: str, batch: int, steps: int, learning_rate: float, seed: int, folder: Path) -> DictConfig:
    """Of a run into a folder that is named after its number format."""
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose(
            "train",
            [
                f"model={model}",
                f"feedback={FEEDBACK[model]}",
                "evaluation=none",
                "reference_store=none",
                "trainer=cpu",
                f"trainer.precision={folder.name}",
                f"optimization.batch_size={batch}",
                f"optimization.max_steps={steps}",
                f"optimization.learning_rate={learning_rate}",
                f"seed={seed}",
                f"run_dir={folder}",
            ],
        )


def _same_weights(cfg: DictConfig, trained: Policy, seed: int, most: int) -> dict[str, Any]:
    """Log-ratios of one update, that of a float32 run, in both number formats."""
    loaded = instantiate(cfg.model)
    encoder = Encoder.of(loaded, instantiate(cfg.lengths))
    corrupted = instantiate(cfg.corruption)(of_split(instantiate(cfg.feedback), "train"))
    data = prepare(corrupted, encoder, instantiate(cfg.loss), instantiate(cfg.optimization), seed=seed)
    sequences = reference_sequences(data)[:most]
    update = [
        new.detach() - old.detach() for new, old in zip(trained.parameters(), loaded.model.parameters(), strict=True)
    ]
    reference = loaded.model
    round_once(reference)
    policy = copy.deepcopy(reference)
    dither(policy, seed=seed)

    def logps(of: Policy, *, bf16: bool, budget: int = 1024) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            return score(of, sequences, pad_id=data.pad_id, token_budget=budget)

    base = logps(reference, bf16=True)
    start = [(logps(policy, bf16=True, budget=budget) - base).abs().max().item() for budget in (1024, 256)]
    exact = -logps(reference, bf16=False)
    for model in (policy, reference):
        _add(model, update)
    exact += logps(reference, bf16=False)
    error = logps(policy, bf16=True) - base - exact
    return {
        "logratio_at_start_max": {"same_batches": start[0], "other_batches": start[1]},
        "noise_per_sequence": error.square().mean().sqrt().item(),
        "signal_per_sequence": exact.square().mean().sqrt().item(),
        "tokens_per_completion": _mean_length(sequences),
    }


@torch.no_grad()
def _add(model: Policy, update: Sequence[Tensor]) -> None:
    for parameter, change in zip(model.parameters(), update, strict=True):
        parameter.add_(change)


def _mean_length(sequences: Sequence[Tokens]) -> float:
    return sum(len(sequence.completion) for sequence in sequences) / len(sequences)


def _column(folder: Path, name: str) -> list[float]:
    with (folder / METRICS).open() as file:
        return [float(row[name]) for row in csv.DictReader(file)]
