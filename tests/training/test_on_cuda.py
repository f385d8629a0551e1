"""Whole trainings on a pretended CUDA device: no mixed devices, and the host hardly ever waits."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from kto_lab.runs import loading
from kto_lab.runs.process_cache import ProcessCache
from tests.pretend.ledger import Ledger, Wait, said
from tests.pretend.runs import waits_of_steps
from tests.small_runs import options

# Waits of an optimiser step, at most.
LIMIT = 10
BF16, FLOAT32 = "trainer.precision=bf16-mixed", "trainer.precision=32-true"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the thumbs, the policies and the reference store that the runs share."""
    return tmp_path_factory.mktemp("on_cuda")


@pytest.fixture(scope="module")
def cache() -> ProcessCache:
    return ProcessCache(keeps=True)


@pytest.fixture
def padded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No architecture packs its rows."""
    monkeypatch.setattr(
        loading, "find_exact_rows", lambda *args, **kwargs: loading.ExactRows(packed=False, shared=True)
    )
    yield


def check(ledger: Ledger, steps: list[Counter[Wait]], *, flash: bool) -> None:
    assert len(steps) == 2
    for waits in steps:
        assert 0 < waits.total() <= LIMIT, f"{waits.total()} waits in a step:\n{said(waits)}"
    assert bool(ledger.flash) == flash and set(ledger.flash) <= {"torch.bfloat16"}


@pytest.mark.parametrize("more", [["adapter=lora", "loss=dpo"], ["loss=bco", FLOAT32]], ids=" ".join)
def test_a_step_hardly_waits(cuda: Ledger, cache: ProcessCache, folder: Path, more: list[str]) -> None:
    check(cuda, waits_of_steps(cuda, cache, folder, *more), flash=FLOAT32 not in more)


def test_neither_depth_nor_micro_batches_make_a_step_wait(cuda: Ledger, cache: ProcessCache, folder: Path) -> None:
    """In packed rows a step of four layers waits as often as one of two, and in micro-batches as often as in one."""
    counts = set()
    for layers, more in ((2, ()), (4, ()), (2, ("optimization.micro_batch_tokens=60",))):
        steps = waits_of_steps(cuda, cache, folder, *more, layers=layers)
        check(cuda, steps, flash=True)
        counts |= {waits.total() for waits in steps}
    assert counts == {2}


def test_padded_rows_wait_as_transformers_does(cuda: Ledger, folder: Path, padded: None) -> None:
    """It asks of each pass whether there is padding."""
    steps = waits_of_steps(cuda, ProcessCache(keeps=True), folder)
    check(cuda, steps, flash=False)
    for waits in steps:
        own = [count for wait, count in waits.items() if "transformers" not in wait.place]
        assert sum(own) == 2


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize("loss", options("loss"))
def test_every_loss_and_adapter(cuda: Ledger, cache: ProcessCache, folder: Path, loss: str, adapter: str) -> None:
    check(cuda, waits_of_steps(cuda, cache, folder, f"loss={loss}", f"adapter={adapter}"), flash=True)


@pytest.mark.slow
@pytest.mark.parametrize("number_format", [BF16, FLOAT32])
@pytest.mark.parametrize("point", sorted(set(options("reference_point")) - {"sampled"}))
def test_every_reference_point(cuda: Ledger, cache: ProcessCache, folder: Path, point: str, number_format: str) -> None:
    chosen = f"reference_point@loss.reference_point={point}"
    check(cuda, waits_of_steps(cuda, cache, folder, chosen, number_format), flash=number_format == BF16)


@pytest.mark.slow
@pytest.mark.parametrize("number_format", [BF16, FLOAT32])
@pytest.mark.parametrize("loss", options("loss"))
def test_every_loss_in_padded_rows(cuda: Ledger, folder: Path, padded: None, loss: str, number_format: str) -> None:
    check(cuda, waits_of_steps(cuda, ProcessCache(keeps=True), folder, f"loss={loss}", number_format), flash=False)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_sampling_in_each_step_mixes_no_devices(cuda: Ledger, cache: ProcessCache, folder: Path, adapter: str) -> None:
    """It waits for each token."""
    sampled = ["reference_point@loss.reference_point=sampled", "loss.reference_point.max_new_tokens=8"]
    steps = waits_of_steps(cuda, cache, folder, *sampled, f"adapter={adapter}")
    assert len(steps) == 2 and all(waits.total() > LIMIT for waits in steps)
