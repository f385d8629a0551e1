"""lm-eval in several processes: the first runs its tasks, and all of them answer what it asks the model.

lm-eval divides documents itself where its model says that it is one of several, but then each process loads every task
and needs a document of it, and results come in another order. Here the first process has the tasks, the documents and
the metrics, as without the others, and only the requests to the model are divided.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from kto_lab.models.through import together
from kto_lab.ranks import Ranks

# What lm-eval asks a model.
METHODS = ("loglikelihood", "loglikelihood_rolling", "generate_until")


@contextmanager
def divided(lm: Any, ranks: Ranks) -> Iterator[None]:
    """In this block, on the first process, requests to a model are answered by all; the others `serve`.

    Where the block fails the others are not told: they may be waiting for the first one's answers, and what they expect
    and what it would send do not meet. They end with it.
    """
    if ranks.size == 1:
        yield
        return
    for name in METHODS:
        setattr(lm, name, partial(_ask, lm, ranks, name, getattr(lm, name)))
    yield
    ranks.told(None)


def serve(lm: Any, ranks: Ranks) -> None:
    """Answer a share of what the first process asks, until it has no more to ask."""
    while (asked := ranks.told(None)) is not None:
        name, lm.add_bos_token, arguments = asked
        _answered(lm, getattr(lm, name), name, arguments, ranks)


def _ask(lm: Any, ranks: Ranks, name: str, method: Callable[..., Any], requests: Sequence[Any], **_: Any) -> list[Any]:
    arguments = [request.args for request in requests]
    ranks.told((name, lm.add_bos_token, arguments))
    return _answered(lm, method, name, arguments, ranks)


def _answered(
    lm: Any, method: Callable[..., Any], name: str, arguments: Sequence[tuple[Any, ...]], ranks: Ranks
) -> list[Any]:
    """The answers to all requests; each process answers its share of the short and of the long texts."""
    from lm_eval.api.instance import Instance

    # Those of one text stay together: the model reads it once for all its choices.
    places: dict[Any, list[int]] = {}
    for place, asked in enumerate(arguments):
        places.setdefault(asked[0], []).append(place)
    groups = sorted(places.values(), key=lambda group: len(arguments[group[0]][0]))
    mine = [place for group in ranks.share(groups) for place in group]
    requests = [Instance(request_type=name, doc={}, arguments=arguments[place], idx=0) for place in mine]
    with together(lm.model):
        found = dict(zip(mine, method(requests, disable_tqdm=not ranks.first) if requests else [], strict=True))
    answers = ranks.joined([[found[place] for place in group] for group in ranks.share(groups)])
    by_place = {
        place: one
        for group, of_group in zip(groups, answers, strict=True)
        for place, one in zip(group, of_group, strict=True)
    }
    return [by_place[place] for place in range(len(arguments))]
