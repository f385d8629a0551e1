"""What a sweep on Slurm says of the GPUs that its jobs ask for."""

from typing import Any

import pytest
from omegaconf import OmegaConf

from kto_lab.sweeps import slurm


@pytest.mark.parametrize(
    ("accelerator", "asked", "said"),
    [
        ("auto", {}, True),
        ("gpu", {"gpus_per_node": 1}, False),
        ("cpu", {}, False),
        ("auto", {"gpus_per_node": 1}, False),
        ("auto", {"gres": "gpu:1"}, False),
        ("auto", {"gpus_per_task": 1}, False),
        ("auto", {"additional_parameters": {"gres": "gpu:1"}}, False),
        ("auto", {"additional_parameters": {"requeue": True}}, True),
    ],
)
def test_jobs_that_ask_for_no_gpu_are_said_where_they_could_use_one(
    accelerator: str, asked: dict[str, Any], said: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    launcher = {"gpus_per_node": None, "additional_parameters": None} | asked
    config = OmegaConf.create({"hydra": {"launcher": launcher}, "trainer": {"accelerator": accelerator}})
    slurm.tell_of_gpus(config)
    assert ("ask for no GPU" in capsys.readouterr().out) == said
