"""The update rule: an optimiser and the schedule of its learning rate.

Both are nodes of the configuration that name any optimiser and any schedule that torch's interface fits:

    optimizer: {_target_: torch.optim.AdamW, _partial_: true, lr: ${optimization.learning_rate}, ...}
    schedule:  {_target_: torch.optim.lr_scheduler.CosineAnnealingLR, _partial_: true, T_max: run_steps}

The optimiser is called with the parameters, the schedule with the optimiser. How many steps a run has is known once its
data is: a key of the schedule that has the value `run_steps` is given that number.
"""

import inspect
import io
import math
import pickle
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from kto_lab.errors import LabError
from kto_lab.keys import RUN_STEPS

MATRIX, VECTOR = (4, 8), (8,)


@dataclass(frozen=True)
class UpdateRule:
    """An optimiser and the schedule of its learning rate, neither of them made yet.

    Attributes:
        optimizer: makes the optimiser from the parameters.
        schedule: makes the schedule from the optimiser; its keywords may have the value `RUN_STEPS`.
    """

    optimizer: "partial[Optimizer]"
    schedule: "partial[LRScheduler]"

    @classmethod
    def of(cls, cfg: DictConfig) -> "UpdateRule":
        """The rule that the nodes `optimizer` and `schedule` of a configuration describe.

        Raises:
            LabError: one of them makes something other than a function of what it is called with.
        """
        # Lists rather than OmegaConf's: the optimiser puts them into its checkpoint.
        made = {name: instantiate(cfg[name], _convert_="all") for name in ("optimizer", "schedule")}
        for name, value in made.items():
            if not isinstance(value, partial):
                raise LabError(f"{name} needs the key _partial_: true beside its _target_, {cfg[name]._target_}.")
        return cls(**made)

    def make(self, parameters: Iterable[nn.Parameter], *, steps: int) -> tuple[Optimizer, LRScheduler]:
        """The optimiser over some parameters, and its schedule over so many optimiser steps.

        Raises:
            LabError: one of them cannot be made; the message says which and why.
        """
        optimizer = _called(self.optimizer, "optimizer", list(parameters))
        given = {key: steps for key, value in self.schedule.keywords.items() if value == RUN_STEPS}
        schedule = _called(self.schedule, "schedule", optimizer, **given)
        return optimizer, schedule

    def check(self, *, learning_rate: float, vectors: bool, steps: int, device: torch.device) -> None:
        """Try the rule on two small parameters: one step, all learning rates of the run, and a checkpoint.

        Args:
            learning_rate: `optimization.learning_rate`, which the optimiser is to start from.
            vectors: whether vectors (norms, biases) are trained beside matrices.
            steps: optimiser steps of the run.
            device: to try it on: some optimisers work on a GPU alone.

        Raises:
            LabError: training by this rule would fail, or ignore the learning rate.
        """
        weights = [nn.Parameter(torch.zeros(shape, device=device)) for shape in (MATRIX, *[VECTOR] * vectors)]
        optimizer, schedule = self.make(weights, steps=steps)
        for what, made, kind, why in (
            ("optimizer", optimizer, Optimizer, "a step here is made of one gradient of one batch"),
            ("schedule", schedule, LRScheduler, "a rate here depends on the step alone"),
        ):
            target = _name(getattr(self, what))
            if not isinstance(made, kind):
                raise LabError(f"{what} names {target}, which makes a {type(made).__name__}, not a {kind.__name__}.")
            if needs := _needed_by_step(made):
                raise LabError(
                    f"{what} names {target}, whose step needs {', '.join(needs)}; {why}. Choose another, such as "
                    + ("optimizer=adamw." if what == "optimizer" else "schedule=cosine or schedule=constant.")
                )
        if (rate := optimizer.defaults.get("lr")) is not None and rate != learning_rate:
            raise LabError(
                f"The optimiser {_name(self.optimizer)} has a learning rate of {float(rate):g}, and "
                f"optimization.learning_rate is {learning_rate:g}. Set the latter alone, and in the optimiser's file "
                "lr: ${optimization.learning_rate}."
            )
        _step(self.optimizer, optimizer, weights, "here")
        for step in range(1, steps + 1):
            rates = [float(group["lr"]) for group in optimizer.param_groups]
            if not all(math.isfinite(rate) and rate >= 0 for rate in rates):
                raise LabError(
                    f"The schedule {_name(self.schedule)} gives a learning rate of {rates[0]} at step {step}."
                )
            _tried(self.schedule, "schedule", schedule.step)
        for what, state in (("optimizer", optimizer.state_dict()), ("schedule", schedule.state_dict())):
            _check_resumable(state, what, _name(getattr(self, what)))

    def check_sharded(self, mesh: DeviceMesh, *, vectors: bool) -> None:
        """Try a step on shards, which only processes that talk to one another can do.

        Args:
            mesh: the processes, one dimension; each has to call it.
            vectors: see `check`.

        Raises:
            LabError: the optimiser needs whole tensors.
        """
        shapes = (MATRIX, *[VECTOR] * vectors)
        whole = [torch.zeros(shape, device=mesh.device_type) for shape in shapes]
        weights = [nn.Parameter(distribute_tensor(tensor, mesh, [Shard(0)])) for tensor in whole]
        optimizer = _called(self.optimizer, "optimizer", weights)
        _step(self.optimizer, optimizer, weights, "on the shards of trainer=fsdp (trainer=ddp keeps weights whole)")


def _step(make: "partial[Optimizer]", optimizer: Optimizer, weights: Sequence[nn.Parameter], where: str) -> None:
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    _tried(make, "optimizer", optimizer.step, where)


def _called(make: "partial[Any]", what: str, *arguments: Any, **more: Any) -> Any:
    return _tried(make, what, lambda: make(*arguments, **more))


def _tried(make: "partial[Any]", what: str, attempt: Callable[[], Any], where: str = "here") -> Any:
    """Return what an attempt returns.

    Raises:
        LabError: it fails, for whatever reason a class of another library has; the message names the node's keys.
    """
    try:
        return attempt()
    except LabError:
        raise
    except Exception as error:
        keys = ", ".join(f"{what}.{key}={value}" for key, value in make.keywords.items())
        advice = f"Change its keys ({keys}), or choose another {what}." if keys else f"Choose another {what}."
        if "cycle_momentum" in str(error):
            advice = "Set schedule.cycle_momentum=false, or use an optimiser with momentum, such as optimizer=adamw."
        raise LabError(f"{what} names {_name(make)}, which does not work {where}: {error} {advice}") from error


def _check_resumable(state: dict[str, Any], what: str, name: str) -> None:
    """LabError where a checkpoint could not be read back: only plain values and tensors are unpickled."""
    file = io.BytesIO()
    try:
        torch.save(state, file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except (pickle.PickleError, AttributeError, TypeError) as error:
        raise LabError(
            f"{what} names {name}, whose state holds more than tensors and plain values, so a stopped run could not be "
            f"resumed: {str(error).splitlines()[0]} Choose another {what}."
        ) from error


def _needed_by_step(made: Optimizer | LRScheduler) -> Sequence[str]:
    """The required arguments of `step`."""
    # Of the class: on an optimiser, the schedule has put a function of its own in the method's place.
    _, *parameters = inspect.signature(type(made).step).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _name(make: "partial[Any]") -> str:
    return f"{make.func.__module__}.{make.func.__qualname__}"
