"""What the checks compute on a GPU is computed there: nothing meets a tensor of the CPU."""

from importlib import import_module
from typing import TYPE_CHECKING

import pytest

from kto_lab.checking import families, policies
from kto_lab.checking.check import COMPUTED, size_of
from kto_lab.checking.settings import FULL, QUICK
from tests.checking.verdicts import limits, verdicts

if TYPE_CHECKING:
    from tests.pretend.ledger import Ledger


@pytest.mark.slow
@pytest.mark.parametrize(
    "about",
    [
        "numbers",
        "bf16-mixed",
        "one update in bf16-mixed",
        "architectures",
        "large vocabularies",
        "repeats",
        "greedy answers",
        "lm-eval",
        "reference store",
        "speed",
    ],
)
def test_a_check_stays_on_its_device(about: str, cuda: "Ledger", monkeypatch: pytest.MonkeyPatch) -> None:
    # Experts are counted by an operator that a CPU has for other integers alone.
    monkeypatch.delitem(families.CONFIGS, "Mixtral")
    assert policies.device().type == "cuda"
    module, _, name = COMPUTED[about].partition(".")
    found = getattr(import_module(f"kto_lab.checking.{module}"), name)(QUICK, limits())
    assert set(verdicts(found).values()) <= {"ok", "note"}, found


def test_a_gpu_gets_the_full_size(cuda: "Ledger") -> None:
    assert size_of("auto") is FULL and size_of("quick") is QUICK
