"""Memory that grows from step to step fails, and so does a run that does not go on as it began."""

from typing import Any

import pytest
import torch
from torch import Tensor

from kto_lab.checking import endurance
from kto_lab.checking.settings import QUICK
from kto_lab.training.module import AlignmentModule
from tests.checking.verdicts import limits


def test_a_graph_that_is_kept_from_step_to_step_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    right = endurance.kto
    kept: list[tuple[Tensor, Tensor]] = []

    def keeping(batch: Any, **more: Any) -> Tensor:
        found = right(batch, **more).clone()
        # As a list of losses does that nobody has detached; a tiny policy's graph alone is not much of a growth.
        kept.append((found, torch.ones(2**19)))
        return found

    monkeypatch.setattr(endurance, "kto", keeping)
    row = endurance.growth(QUICK, limits())
    assert row.verdict == "failed", row.measured


@pytest.mark.slow
def test_memory_does_not_grow() -> None:
    assert endurance.growth(QUICK, limits()).verdict == "ok"


@pytest.mark.slow
def test_a_run_that_goes_on_from_other_weights_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    assert endurance.resume(QUICK, limits()).verdict == "ok"
    right = AlignmentModule.on_load_checkpoint

    def off(self: AlignmentModule, checkpoint: dict[str, Any]) -> None:
        right(self, checkpoint)
        for value in checkpoint["state_dict"].values():
            value *= 1 + 1e-6

    monkeypatch.setattr(AlignmentModule, "on_load_checkpoint", off)
    row = endurance.resume(QUICK, limits())
    assert row.verdict == "failed" and "model.safetensors differ" in row.measured
