"""What lm-eval asks a model is answered by several processes; threads stand for them here."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from kto_lab.evaluation.lm_eval_ranks import divided, serve
from kto_lab.ranks import ALONE, Ranks


@dataclass(frozen=True)
class Threads(Ranks):
    """Ranks that talk by way of a list, with a barrier before and after each exchange."""

    said: list[Any] = field(default_factory=list)
    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(1))

    def exchanged(self, own: Any) -> list[Any]:
        self.said[self.rank] = own
        self.barrier.wait(10)
        found = list(self.said)
        self.barrier.wait(10)
        return found

    def told(self, value: Any) -> Any:
        return self.exchanged(value)[0]

    def joined(self, own: Any) -> list[Any]:
        parts = self.exchanged(list(own))
        return [parts[place % self.size][place // self.size] for place in range(sum(map(len, parts)))]


def model() -> Any:
    """Answers each request with its arguments and whether a token is added; `asked`: what it was asked."""
    asked: list[Any] = []

    def answer(requests: list[Any], disable_tqdm: bool = False) -> list[Any]:
        asked.extend(request.args for request in requests)
        return [(*request.args, lm.add_bos_token) for request in requests]

    lm = SimpleNamespace(loglikelihood=answer, loglikelihood_rolling=answer, generate_until=answer, asked=asked)
    lm.model = nn.Module()
    lm.add_bos_token = None
    return lm


@pytest.mark.parametrize("size", [2, 3])
def test_answers_are_those_of_one_process_in_its_order(size: int) -> None:
    said, barrier = [None] * size, threading.Barrier(size)
    every = [Threads(rank, size, None, said, barrier) for rank in range(size)]
    models = [model() for _ in every]
    # Three texts with two choices each; one of them is asked again.
    asked = [SimpleNamespace(args=(text, choice)) for text in ("aaa", "b", "cc", "b") for choice in ("yes", "no")]

    def first() -> list[Any]:
        with divided(models[0], every[0]):
            models[0].add_bos_token = False
            found = models[0].loglikelihood(asked)
            return [found, models[0].generate_until(asked[:2])]

    with ThreadPoolExecutor(size) as pool:
        others = [pool.submit(serve, models[rank], every[rank]) for rank in range(1, size)]
        found, generated = first()
        for one in others:
            one.result(10)
    assert found == [(*request.args, False) for request in asked]
    assert generated == found[:2]
    # Each text goes to one process, with all its choices; the second task has a text for the first process alone.
    texts = [{text for text, _ in lm.asked} for lm in models]
    assert set.union(*texts) == {"aaa", "b", "cc"} and all(texts)
    assert sum(len(lm.asked) for lm in models) == len(asked) + 2


def test_one_process_asks_its_model_itself() -> None:
    lm = model()
    answer = lm.loglikelihood
    with divided(lm, ALONE):
        assert lm.loglikelihood is answer


def test_a_first_process_that_fails_says_nothing_to_others_that_wait_for_its_answers() -> None:
    """They are in `joined`; to be told something meanwhile would never come to an end on either side."""
    talked: list[str] = []

    @dataclass(frozen=True)
    class Listening(Ranks):
        def told(self, value: Any) -> Any:
            talked.append("told")
            return value

        def joined(self, own: Any) -> list[Any]:
            talked.append("joined")
            return list(own)

    def out_of_memory(requests: list[Any], disable_tqdm: bool = False) -> list[Any]:
        raise RuntimeError("out of memory")

    lm = model()
    lm.loglikelihood = out_of_memory
    with pytest.raises(RuntimeError, match="out of memory"), divided(lm, Listening(0, 2)):
        lm.loglikelihood([SimpleNamespace(args=("a", "yes"))])
    assert talked == ["told"], "what was asked, and no more"
