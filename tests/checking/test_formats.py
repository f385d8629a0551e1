"""bf16-mixed that loses updates, or starts away from its reference, fails."""

import pytest
import torch
from torch import nn

from kto_lab.checking import formats
from kto_lab.checking.settings import QUICK
from tests.checking.verdicts import limits, verdicts

START, SLOPE = "bf16 first log-ratio", "bf16 slope of one update"


def test_masters_in_the_middle_of_their_cells_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    assert verdicts(formats.bf16(QUICK, limits())) == {START: "ok", SLOPE: "ok"}
    monkeypatch.setattr(formats, "dither", lambda model, seed: None)
    assert verdicts(formats.bf16(QUICK, limits())) == {START: "ok", SLOPE: "failed"}


def test_masters_that_do_not_round_to_the_reference_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_far(model: nn.Module, seed: int) -> None:
        with torch.no_grad():
            for weight in model.parameters():
                weight *= 1.01

    monkeypatch.setattr(formats, "dither", too_far)
    assert verdicts(formats.bf16(QUICK, limits()))[START] == "failed"
