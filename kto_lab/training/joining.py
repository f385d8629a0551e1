"""The processes of a run find one another."""

import functools
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy

from kto_lab.ranks import ALONE, Ranks
from kto_lab.training.hardware import Hardware
from kto_lab.training.stopping import slurm

# The longest that gloo takes for an answer; one that has ended is noticed at once.
WITHOUT_LIMIT = timedelta(weeks=52)


def join(hardware: Hardware) -> Ranks:
    """Join the other processes of the run, once; the training that follows finds them joined.

    They wait for one another for `trainer.timeout_min`, here and in every step of the training.
    """
    if hardware.processes == 1:
        return ALONE
    if not torch.distributed.is_initialized():
        with quiet_lightning():
            Fabric(
                accelerator="gpu" if hardware.device.type == "cuda" else "cpu",
                devices=hardware.devices,
                num_nodes=hardware.num_nodes,
                strategy=DDPStrategy(timeout=timedelta(minutes=hardware.timeout_min)),
                plugins=[*slurm()],
            ).launch()
    return _joined()


@functools.cache
def _joined() -> Ranks:
    group = torch.distributed.new_group(backend="gloo", timeout=WITHOUT_LIMIT)
    return Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size(), group)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Without Lightning's own remarks on hardware and data loaders: the stages say what a person needs."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
