"""Shared fixtures: no network, a tiny random policy, and a small table."""

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# An error that nobody foresaw shows its traceback, also of a command that a test runs.
os.environ["KTO_LAB_TRACEBACK"] = "1"

import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from kto_lab.evaluation import metrics
from kto_lab.files import cache_dir
from kto_lab.models.tiny import byte_tokenizer, random_llama
from kto_lab.models.tokens import Encoder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tests.pretend.ledger import Ledger


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache folder of the tests' own, also for the programs that they start, with the models that the user's has."""
    folder, users = tmp_path_factory.mktemp("cache"), cache_dir()
    for large in ("models", "downloads"):
        if (users / large).is_dir():
            (folder / large).symlink_to(users / large, target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KTO_LAB_CACHE", str(folder))
        yield


@pytest.fixture(autouse=True)
def own_modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Modules that a test has written are forgotten after it: another test has others of the same names."""
    before, scratch = set(sys.modules), str(tmp_path_factory.getbasetemp())
    yield
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(scratch):
            del sys.modules[name]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer()


@pytest.fixture(scope="session")
def encoder(tokenizer: PreTrainedTokenizerFast) -> Encoder:
    return Encoder(tokenizer)


@pytest.fixture
def model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    return random_llama(vocabulary=len(tokenizer), hidden=32, layers=2, intermediate=64)


@pytest.fixture
def cuda() -> "Iterator[Ledger]":
    """One CUDA device, pretended; what counts how often the host waits for it."""
    from tests.pretend_cuda import pretend_cuda

    with pretend_cuda() as ledger:
        yield ledger


@pytest.fixture
def nothing_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    """No record has declared a metric in this process, and what those of a test declare is forgotten after it."""
    monkeypatch.setattr(metrics, "_learned", {})


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> "list[Figure]":
    """The figures that are saved."""
    from matplotlib.figure import Figure

    saved: list[Figure] = []
    save = Figure.savefig

    def spy(self: Figure, *args: object, **kwargs: object) -> None:
        saved.append(self)
        save(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Figure, "savefig", spy)
    return saved
