"""A kernel that is wrong fails at every head size; on a CPU there is none to try."""

from typing import Any

import pytest
import torch
from torch import Tensor

from kto_lab.checking import kernels
from kto_lab.checking.settings import QUICK
from tests.checking.verdicts import limits
from tests.pretend.flash import varlen


def test_a_cpu_has_no_such_kernel() -> None:
    row = kernels.fast_path(QUICK, limits())
    assert not isinstance(row, list) and row.verdict == "note" and "on GPUs alone" in row.measured


def other_window(*given: Any, window_size: tuple[int, int], **how: Any) -> Tensor:
    return varlen(*given, window_size=(window_size[0] + (window_size[0] >= 0), window_size[1]), **how)


def other_scale(*given: Any, scale: float | None, **how: Any) -> Tensor:
    return varlen(*given, scale=0.9 * given[0].shape[-1] ** -0.5, **how)


@pytest.mark.parametrize(
    ("kernel", "verdict", "said"),
    [(varlen, "ok", "("), (other_window, "failed", "window 64"), (other_scale, "failed", "heads over")],
)
def test_each_head_size_is_judged_by_its_worst_case(kernel: Any, verdict: str, said: str) -> None:
    row = kernels.of_head_size(32, torch.device("cpu"), kernel)
    assert row.verdict == verdict and said in row.measured
