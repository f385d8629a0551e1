"""What several processes do with shares of a piece of work."""

from typing import Any

import pytest
import torch

from kto_lab.ranks import ALONE, Ranks


@pytest.mark.parametrize("items", [[], [1], list(range(7))])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_shares_come_together_in_their_order(items: list[int], size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    group: Any = object()
    every = [Ranks(rank, size, group) for rank in range(size)]
    shares = [ranks.share(items) for ranks in every]

    def gather(parts: list[Any], own: Any, group: object) -> None:
        parts[:] = shares

    monkeypatch.setattr("torch.distributed.all_gather_object", gather)
    assert [ranks.joined(share) for ranks, share in zip(every, shares, strict=True)] == size * [items]
    assert [ranks.first for ranks in every] == [True, *(size - 1) * [False]]


def test_one_process_has_nobody_to_talk_to() -> None:
    values = torch.ones(2)
    assert ALONE.joined([1, 2]) == [1, 2] and ALONE.told("x") == "x" and ALONE.total(values) is values
