import pytest
import torch

from kto_lab.errors import LabError
from kto_lab.training import schedules


def rates(name: str, warmup: float, steps: int = 10) -> list[float]:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = getattr(schedules, name)(optimizer, steps=steps, warmup=warmup)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_cosine_rises_to_the_peak_and_falls_towards_zero() -> None:
    found = rates("cosine", 0.2)
    peak = found.index(max(found))
    assert found[peak] == pytest.approx(0.5) and peak == 2
    assert found[: peak + 1] == sorted(found[: peak + 1])
    assert found[peak:] == sorted(found[peak:], reverse=True)
    assert found[-1] < 0.1


def test_no_step_is_spent_on_a_rate_of_zero() -> None:
    for name in ("cosine", "constant"):
        for warmup in (0.0, 0.5, 1.0):
            for steps in (1, 2, 7):
                assert min(rates(name, warmup, steps)) > 0


def test_constant_stays_at_the_peak() -> None:
    assert rates("constant", 0.0) == [0.5] * 10
    assert rates("constant", 0.3)[3:] == [0.5] * 7


@pytest.mark.parametrize("warmup", [1.5, -0.1, float("nan"), "some"])
def test_a_warmup_that_is_no_share_is_refused(warmup: object) -> None:
    with pytest.raises(LabError, match=r"schedule\.warmup is"):
        rates("cosine", warmup)  # type: ignore[arg-type]
