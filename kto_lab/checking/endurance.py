"""Checks of long runs: memory that does not grow from step to step, and a stopped run that goes on bit for bit."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

from kto_lab.checking.policies import logps, policy, sequences
from kto_lab.checking.row import Row, judged
from kto_lab.checking.runs import configuration, prepare, run, words
from kto_lab.checking.settings import Limits, Size
from kto_lab.files import sha256_file
from kto_lab.losses import Thumbs, kto
from kto_lab.losses.values import logistic
from kto_lab.runs.saving import POLICY
from kto_lab.training.callbacks import METRICS

STEPS = 30
# Steps after which allocators have what they need.
BEFORE = 5
# Times that a step has the sequences: what one would keep by mistake is then more than what an allocator rounds to.
COPIES = 16
STOP_AFTER = 4
LEAK = "Something is kept from step to step: a long run would end without memory. Report the versions above."
RESUME = "A run that is stopped and goes on would not be the run that it was: keep runs whole, and report the versions."


def growth(size: Size, limits: Limits) -> Row:
    """Megabytes by which memory grows over thirty steps of KTO."""
    model, tokens = policy(size), sequences(size) * COPIES
    desirable = torch.arange(len(tokens), device=model.device) % 2 == 0
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    held = 0
    for number in range(BEFORE + STEPS):
        if number == BEFORE:
            held = _held(model.device)
        found = logps(model, tokens, packed=True)
        batch = Thumbs(found, found.detach(), desirable, z0=torch.zeros((), device=model.device))
        kto(batch, beta=0.1, value=logistic).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    del found, batch
    grown = (_held(model.device) - held) / 1e6
    return judged(
        f"memory over {STEPS} steps",
        f"{grown:+.1f} MB",
        limit=f"{limits.growth:g} MB",
        holds=grown <= limits.growth,
        mend=LEAK,
    )


def _held(device: torch.device) -> int:
    """Bytes that tensors hold on a GPU; elsewhere those of the process."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return int(psutil.Process().memory_info().rss)


def resume(size: Size, limits: Limits) -> Row:
    """A deterministic run that is stopped and goes on, against one that is not: metrics and policy bit for bit."""
    with tempfile.TemporaryDirectory() as scratch, _restored():
        folder = Path(scratch)
        prepare(folder, size)
        more = (
            "loss=kto",
            "optimization.batch_size=4",
            "optimization.checkpoint_every=2",
            "trainer.deterministic=true",
        )
        whole, stopped = (configuration(words(folder, name, *more)) for name in ("whole", "stopped"))
        run(whole)
        run(stopped, stop_after=STOP_AFTER)
        later = run(stopped)
        unlike = [
            file
            for file in (METRICS, f"{POLICY}/model.safetensors")
            if not _same(folder / "whole", folder / "stopped", file)
        ]
    said = (
        f"{' and '.join(unlike)} differ" if unlike else f"bit for bit the same, {len(later)} steps after it was stopped"
    )
    return judged("a stopped run goes on", said, limit="bit for bit", holds=not unlike, mend=RESUME)


def _same(one: Path, other: Path, file: str) -> bool:
    return sha256_file(one / file) == sha256_file(other / file)


@contextmanager
def _restored() -> Iterator[None]:
    """A block after which operations may be as nondeterministic as before; Lightning leaves them forbidden."""
    was = torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was)
