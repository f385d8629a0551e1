"""What a step costs is a note; what is compiled has to compute the same."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from kto_lab.checking import speed
from kto_lab.checking.settings import QUICK
from kto_lab.training.compiling import Compilation
from tests.checking.verdicts import limits

COMPILING = replace(QUICK, compile=True)


def test_speed_has_no_verdict() -> None:
    row = speed.over_the_floor(QUICK, limits())
    assert row.verdict == "note" and "tokens per second" in row.measured and not row.limit


def test_the_products_of_a_step_are_those_of_every_layer_both_ways() -> None:
    model = speed.policy(QUICK)
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        speed._products(model, tokens=10)()
    matrices = sum(module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Linear))
    assert counter.get_total_flops() == 3 * 2 * 10 * matrices


def test_waits_are_counted_per_step_after_the_first_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []

    def run(cfg: Any, after_step: Callable[[int], None]) -> None:
        for step in range(1, 11):
            for _ in range(50 if step <= speed.WARM else 4):
                warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
            warnings.warn("another matter", stacklevel=1)
            after_step(step)

    monkeypatch.setattr(speed, "device", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    monkeypatch.setattr(speed, "run", run)
    row = speed.waits(QUICK, limits())
    assert row.verdict == "note" and row.measured.startswith("4.0 per step")
    assert modes == ["warn", "default"]


def test_compiled_blocks_that_compute_something_else_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def miscompiled(policy: Any, *_: Any, **__: Any) -> Iterator[Compilation]:
        with torch.no_grad():
            policy.model.layers[0].mlp.up_proj.weight *= 1.01
        yield Compilation(used=True)

    monkeypatch.setattr(speed, "compiled", miscompiled)
    assert speed.torch_compile(COMPILING, limits()).verdict == "failed"
    assert speed.torch_compile(QUICK, limits()).verdict == "note"


@pytest.mark.slow
def test_compiled_blocks_compute_the_same() -> None:
    assert speed.torch_compile(COMPILING, limits()).verdict in ("ok", "note")
