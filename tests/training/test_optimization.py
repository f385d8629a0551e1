import pytest
import torch

from kto_lab.errors import LabError
from kto_lab.training.optimization import Optimization, make_optimizer

GOOD = {
    "batch_size": 4,
    "epochs": 1.0,
    "max_steps": None,
    "learning_rate": 0.5,
    "schedule": "cosine",
    "warmup": 0.2,
    "weight_decay": 0.0,
    "clip_norm": 1.0,
    "micro_batch_tokens": 64,
    "keep_prompts_together": True,
    "dropout": False,
    "gradient_checkpointing": False,
    "checkpoint_every": 5,
}


def rates(schedule: str, warmup: float, steps: int = 10) -> list[float]:
    settings = Optimization(**GOOD | {"schedule": schedule, "warmup": warmup})  # type: ignore[arg-type]
    optimizer, scheduler = make_optimizer(settings, [torch.nn.Parameter(torch.zeros(1))], steps=steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_cosine_rises_to_the_peak_and_falls_towards_zero() -> None:
    found = rates("cosine", 0.2)
    peak = found.index(max(found))
    assert found[peak] == pytest.approx(0.5) and peak == 2
    assert found[: peak + 1] == sorted(found[: peak + 1])
    assert found[peak:] == sorted(found[peak:], reverse=True)
    assert found[-1] < 0.1


def test_no_step_is_spent_on_a_rate_of_zero() -> None:
    for schedule in ("cosine", "constant"):
        for warmup in (0.0, 0.5, 1.0):
            for steps in (1, 2, 7):
                assert min(rates(schedule, warmup, steps)) > 0


def test_constant_stays_at_the_peak() -> None:
    assert rates("constant", 0.0) == [0.5] * 10
    assert rates("constant", 0.3)[3:] == [0.5] * 7


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("batch_size", 0),
        ("batch_size", 2.5),
        ("batch_size", "many"),
        ("epochs", -1),
        ("max_steps", 0),
        ("max_steps", 1.5),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("schedule", "linear"),
        ("warmup", 1.5),
        ("weight_decay", -0.1),
        ("clip_norm", 0),
        ("micro_batch_tokens", 0),
        ("checkpoint_every", 0),
        ("keep_prompts_together", "yes"),
        ("dropout", 0.1),
    ],
)
def test_values_that_no_run_can_use_are_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(LabError, match=rf"optimization\.{key} is"):
        Optimization(**GOOD | {key: value})  # type: ignore[arg-type]
