import pytest

from kto_lab.errors import LabError
from kto_lab.training.optimization import Optimization

GOOD = {
    "batch_size": 4,
    "epochs": 1.0,
    "max_steps": None,
    "learning_rate": 0.5,
    "clip_norm": 1.0,
    "micro_batch_tokens": 64,
    "keep_prompts_together": True,
    "dropout": False,
    "gradient_checkpointing": False,
    "checkpoint_every": 5,
}


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
