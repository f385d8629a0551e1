"""Hashes of values."""

from kto_lab.hashing import content_hash


def test_the_order_of_keys_is_nothing_whatever_their_types() -> None:
    labels = {1: True, 0: False, "skip": None, 10: True}
    assert content_hash(labels) == content_hash(dict(reversed(labels.items())))
    assert content_hash(labels) != content_hash({**labels, 0: True})
    assert content_hash([{"b": 1, "a": (2, None)}]) == "a4629d514fa87c03"
