"""Small trainings on the pretended device, without what `kto-lab train` draws and shows."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from kto_lab.models.tiny import byte_tokenizer, random_llama
from kto_lab.runs import train as run_module
from kto_lab.runs.components import Components
from kto_lab.runs.identity import Identity
from kto_lab.runs.memory_check import check_memory
from kto_lab.runs.process_cache import ProcessCache
from kto_lab.runs.record import Record
from kto_lab.training.module import AlignmentModule
from kto_lab.training.steps import Step
from tests.pretend.ledger import Ledger, Wait
from tests.small_runs import composed, instead, overrides

# Batches of eight in one micro-batch; the policy has heads of 8, which flash attention takes.
ON_CUDA = ["trainer=gpu", "optimization.batch_size=8", "optimization.epochs=2", "optimization.max_steps=3"]
IDENTITY = Identity("pretended", {}, {}, {})


def policy(folder: Path, layers: int) -> Path:
    """A folder with a small random policy of so many layers."""
    where, tokenizer = folder / f"policy_{layers}", byte_tokenizer()
    if not where.exists():
        model = random_llama(vocabulary=len(tokenizer), hidden=32, layers=layers, intermediate=64)
        model.save_pretrained(where)
        tokenizer.save_pretrained(where)
    return where


class Unwatched:
    """An observer that plans the memory, and then looks away."""

    def environment(self) -> dict[str, Any]:
        return {}

    def plan_memory(self, cfg: DictConfig, made: Components, cache: ProcessCache) -> dict[str, Any]:
        return check_memory(cfg, made, cache)

    def loggers(self, record: Record) -> list[Logger]:
        return []

    def conclude(self, record: Record) -> None:
        pass

    def show(self, record: Record, answers: Sequence[dict[str, Any]]) -> None:
        pass


def waits_of_steps(
    ledger: Ledger, cache: ProcessCache, folder: Path, *more: str, layers: int = 2
) -> list[Counter[Wait]]:
    """The waits of each step of a training but the last: from its beginning to that of the next.

    Args:
        ledger: of the device.
        cache: one that keeps: a model that is read straight onto a device is read in threads, which pretend nothing.
        folder: for thumbs, policies and the store; the run goes into a folder of its own in it.
        more: overrides.
        layers: of the policy.
    """
    small = [word for word in overrides(folder) if not word.startswith("model")]
    words = [*small, "model=hf", f"model.name={policy(folder, layers)}"]
    run = folder / f"run_{len(list(folder.glob('run_*')))}"
    with pytest.MonkeyPatch.context() as patch:
        step = AlignmentModule.training_step

        def marked(module: AlignmentModule, batch: Step, batch_idx: int) -> dict[str, float]:
            ledger.mark()
            return step(module, batch, batch_idx)

        patch.setattr(AlignmentModule, "training_step", marked)
        patch.setattr(run_module, "identify", lambda cfg: IDENTITY)  # the code's hash takes longer than the steps
        ledger.marks.clear()
        run_module.train(composed(instead(words, *ON_CUDA, f"run_dir={run}", *more)), Unwatched(), cache)
    return ledger.between_marks()
