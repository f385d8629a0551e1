"""Small runs by the configuration of `kto-lab train`: a policy in a folder, thumbs in a file, ten steps of them all."""

import json
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from kto_lab import narration
from kto_lab.checking.policies import llama
from kto_lab.checking.settings import Size
from kto_lab.configuration import config_dir
from kto_lab.models.reading import quiet
from kto_lab.models.tiny import byte_tokenizer
from kto_lab.quoting import quoted
from kto_lab.runs.components import Components
from kto_lab.runs.process_cache import ProcessCache
from kto_lab.runs.record import Record
from kto_lab.runs.train import train

STEPS = 10
PROMPTS = 8
# Every step sees all thumbs, so that their order does not matter. Float32, so that a CPU and a GPU compute the same.
WORDS = (
    "model=hf",
    "feedback=file",
    "feedback.columns.split=split",
    "evaluation=none",
    "reference_store=none",
    "schedule=constant",
    "schedule.warmup=0",
    "trainer.precision=32-true",
    f"optimization.max_steps={STEPS}",
    f"optimization.epochs={STEPS}",
    "optimization.learning_rate=1e-3",
    "optimization.clip_norm=1e6",
)


def thumbs() -> list[dict[str, Any]]:
    """A good and a bad answer to each prompt; one prompt is held out."""
    rows = []
    for number in range(PROMPTS + 1):
        prompt, split = f"{number} and {3 * number} make", "train" if number < PROMPTS else "test"
        for completion, label in ((f" {4 * number}", True), (f" {4 * number + 7}, or so", False)):
            rows.append({"prompt": prompt, "completion": completion, "label": label, "split": split})
    return rows


def prepare(folder: Path, size: Size) -> None:
    """Write the policy and the thumbs that the runs in a folder start from."""
    tokenizer = byte_tokenizer()
    with quiet():
        llama(size, vocabulary=len(tokenizer)).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    lines = [json.dumps(row) + "\n" for row in thumbs()]
    (folder / "thumbs.jsonl").write_text("".join(lines), encoding="utf-8")


def words(folder: Path, name: str, *more: str) -> list[str]:
    """The words of `kto-lab train` for a run in a prepared folder.

    Args:
        folder: that was prepared.
        name: of the run's own folder in it.
        more: of this run.
    """
    places = {"model.name": "model", "feedback.path": "thumbs.jsonl", "run_dir": name}
    return [*WORDS, *(f"{key}={quoted(str(folder / place))}" for key, place in places.items()), *more]


def configuration(given: Sequence[str]) -> DictConfig:
    """Of `kto-lab train` with these words; also within a command, which Hydra is at work for already."""
    at_work, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            return compose("train", list(given))
    finally:
        GlobalHydra.instance().hydra = at_work


def run(
    cfg: DictConfig, *, stop_after: int | None = None, after_step: Callable[[int], None] = lambda step: None
) -> list[float]:
    """Make a run, or what is left of it.

    Args:
        cfg: its configuration.
        stop_after: a step, after which it is stopped as by an error.
        after_step: called with the number of each step that was made.

    Returns:
        The losses of the steps that were made now.
    """
    watch = Watch(stop_after, after_step)
    with narration.silently(), suppress(Stopped):
        train(cfg, watch)
    return watch.losses


class Stopped(Exception):  # noqa: N818 (nothing is wrong)
    """A run was stopped on purpose."""


@dataclass
class Watch:
    """An observer that keeps the losses, and shows nothing.

    Attributes:
        stop_after: a step, after which the run is stopped; None for none.
        after_step: called with the number of each step.
        losses: of the steps so far.
    """

    stop_after: int | None
    after_step: Callable[[int], None]
    losses: list[float] = field(default_factory=list)

    def environment(self) -> dict[str, Any]:
        """Nothing: the record is not kept."""
        return {}

    def plan_memory(self, cfg: DictConfig, made: Components, cache: ProcessCache) -> dict[str, Any]:
        """Nothing: the policies are small."""
        return {}

    def loggers(self, record: Record) -> list[Logger]:
        """One that hands the losses on."""
        return [_Losses(self)]

    def conclude(self, record: Record) -> None:
        """Nothing is drawn."""

    def show(self, record: Record, answers: Sequence[dict[str, Any]]) -> None:
        """Nothing is shown."""


class _Losses(Logger):
    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    @property
    def name(self) -> str:
        return "losses"

    @property
    def version(self) -> str:
        return ""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        self._watch.losses.append(metrics["train/loss"])
        self._watch.after_step(step)
        if step == self._watch.stop_after:
            raise Stopped

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        pass
