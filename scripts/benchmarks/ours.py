"""kto-lab as a contestant: `kto-lab train` from its configuration on, held up after each step by a logger.

Lightning tells its loggers of the model before the first step, and `StepMetrics` tells them of each step: that is where
this one waits. So what is measured is a step of the real loop, with its data, its optimiser and its callbacks.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import Logger
from torch import nn

from benchmarks import data
from benchmarks.gate import Gate
from benchmarks.jobs import Job, Step
from kto_lab.runs.command import train

PRECISIONS = {"float32": "32-true", "bf16": "bf16-mixed"}
# Made before the run is configured, which knows the logger by its name only.
GATES: list[Gate] = []
STEPS: list[Step] = []


def main(job: Job) -> None:
    """Take the steps of a job."""
    GATES.append(Gate())
    torch.set_num_threads(job.threads)
    STEPS.extend(job.read_steps())
    words = [
        *data.overrides(
            model=Path(job.model),
            thumbs=Path(job.thumbs),
            run_dir=Path(job.folder) / "run",
            loss=job.loss,
            adapter=job.adapter,
            batch=job.batch,
            steps=len(STEPS),
            max_length=job.max_length,
        ),
        f"trainer.precision={PRECISIONS[job.precision]}",
        f"logger._target_={__name__}.MakesHold",
        *job.overrides,
    ]
    train(data.composed(words))


class MakesHold:
    """What `conf/logger` names: makes the logger that waits."""

    def check(self) -> None:
        """Nothing is asked of the machine."""

    def make(self, *, folder: Path, run_id: str, config: Mapping[str, Any]) -> list[Logger]:
        """The logger."""
        return [Hold(GATES[0])]


class Hold(Logger):
    """A logger that holds the run up after each step, until the next is wanted."""

    def __init__(self, gate: Gate) -> None:
        """Wait at this gate."""
        super().__init__()
        self.gate = gate
        self.device = "cpu"

    @property
    def name(self) -> str:
        """Of the logger."""
        return "hold"

    @property
    def version(self) -> str:
        """Of the logger."""
        return "0"

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing."""

    def log_graph(self, model: nn.Module, input_array: Any = None) -> None:
        """Everything is loaded, and the reference scored: the first step can be taken."""
        assert isinstance(model.policy, nn.Module) and isinstance(model.pad_id, int)
        # The last token of a completion, which ends it, is predicted only.
        self.gate.watch(model.policy, pad_id=model.pad_id, feeds_end=False)
        self.gate.ready(device=next(model.policy.parameters()).device.type)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """A step is done."""
        self.gate.done(tokens=int(metrics["train/tokens"]), loss=metrics["train/loss"])
