"""What a step costs on this machine: notes without a verdict, since no time is right or wrong. And torch.compile."""

import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from hydra.utils import instantiate
from torch import Tensor, nn
from transformers import PreTrainedModel

from kto_lab.checking.comparing import difference, within
from kto_lab.checking.policies import device, logps, policy, sequences
from kto_lab.checking.row import Row, note
from kto_lab.checking.runs import configuration, prepare, run, words
from kto_lab.checking.settings import Limits, Size
from kto_lab.training.compiling import compiled

ROUNDS = 5
# Steps of a run before waits are counted: the first ones make what later ones use.
WARM = 3
# What a step of the lab aims at.
WAITS = 10


def over_the_floor(size: Size, limits: Limits) -> Row:
    """Tokens per second, forward and backward, and how many times the matrix products alone that takes."""
    model, tokens = policy(size), sequences(size)
    real = sum(len(sequence) - 1 for sequence in tokens)

    def step() -> None:
        logps(model, tokens, packed=True).sum().backward()
        model.zero_grad()

    seconds, floor = _seconds(step), _seconds(_products(model, real))
    return note(
        "speed", f"{real / seconds:,.0f} tokens per second; {seconds / floor:.1f} times the matrix products alone"
    )


def _products(model: PreTrainedModel, tokens: int) -> Callable[[], None]:
    """The matrix products of a step: of each layer its output, and the gradients of its input and its weight."""
    weights = [module.weight.detach() for module in model.modules() if isinstance(module, nn.Linear)]
    inputs = [torch.ones(tokens, weight.shape[1], device=weight.device) for weight in weights]

    def products() -> None:
        for weight, given in zip(weights, inputs, strict=True):
            output: Tensor = given @ weight.T
            _ = output @ weight, output.T @ given

    return products


def _seconds(action: Callable[[], None]) -> float:
    """The median of some rounds after a first one."""
    found = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        action()
        if device().type == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return statistics.median(found[1:])


def waits(size: Size, limits: Limits) -> Row:
    """How often a step of `kto-lab train` has the host wait for the GPU."""
    if device().type != "cuda":
        return note("waits for the GPU", "there is none")
    counts: list[int] = []
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prepare(Path(scratch), size)
        cfg = configuration(words(Path(scratch), "run", "loss=kto", "optimization.batch_size=16"))
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run(cfg, after_step=lambda step: counts.append(sum("synchroniz" in str(one.message) for one in caught)))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    per_step = (counts[-1] - counts[WARM - 1]) / (len(counts) - WARM)
    return note("waits for the GPU", f"{per_step:.1f} per step (the lab aims at {WAITS} at most)")


def trl(size: Size, limits: Limits) -> Row:
    """Whether TRL is there to compare with."""
    try:
        found = version("trl")
    except PackageNotFoundError:
        return note("TRL", "not installed")
    return note("TRL", f"{found}: python scripts/benchmark.py steps compares a step with it")


def torch_compile(size: Size, limits: Limits) -> Row:
    """Log-probabilities of a policy whose blocks are compiled against those of the same policy as it is."""
    name = "torch.compile"
    if not size.compile:
        return note(name, "not tried at size=quick: it takes a minute on a CPU")
    model, tokens = policy(size), sequences(size)
    hardware = instantiate(configuration(["trainer.compile=true", "trainer.precision=32-true"]).trainer)
    with torch.no_grad():
        plain = logps(model, tokens, packed=True)
    with compiled(model, hardware, share_prompts=False, samples=False) as made:
        if not made.used:
            return note(name, f"not used: {made.why_not}")
        found = logps(model, tokens, packed=True)
        found.sum().backward()
    return within(name, difference(found, plain), limits.packed, where=f"{made.seconds:.0f} s to compile")
