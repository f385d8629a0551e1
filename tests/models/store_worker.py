"""One of several processes that write the same store: what `test_store.py` starts."""

import os
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kto_lab.models.scorer import Scorer
from kto_lab.models.store import LogpCache, ReferenceStore

SCORER = Scorer("a model", "weights", "config", "32-true", "cpu AVX2", "torch 2", "code")


class Sequence(NamedTuple):
    """As `kto_lab.models.sequences.Tokens`, without its imports, which take longer than all else here."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]


def sequences(count: int, first: int = 0) -> list[Any]:
    return [Sequence((number, number + 1), (number + 2,)) for number in range(first, first + count)]


def logps(count: int, first: int = 0) -> np.ndarray:
    return -np.arange(first, first + count, dtype=np.float32) / 7 - 1


def cache_in(folder: Path | str, *, scorer: Scorer = SCORER, max_mb: int = 100) -> LogpCache:
    logp_cache = ReferenceStore(str(folder), max_mb).logp_cache(scorer)
    assert logp_cache is not None
    return logp_cache


def write_many(folder: str, first: int) -> None:
    """Forty shards, half of them also another process's, merged now and then."""
    logp_cache = cache_in(folder)
    for start in range(first, first + 400, 10):
        logp_cache.put(sequences(10, start), logps(10, start))
        logp_cache.settle()
    assert np.array_equal(logp_cache.lookup(sequences(400, first)), logps(400, first))


def die_while_writing(folder: str) -> None:
    """One shard is whole; of the next, half is on disk when the process is killed."""
    logp_cache = cache_in(folder)
    logp_cache.put(sequences(10), logps(10))

    def half(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
            file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    Path.write_bytes = half  # type: ignore[method-assign, assignment]
    logp_cache.put(sequences(10, 10), logps(10, 10))


if __name__ == "__main__":
    if sys.argv[1] == "many":
        write_many(sys.argv[2], int(sys.argv[3]))
    else:
        die_while_writing(sys.argv[2])
