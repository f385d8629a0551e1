"""What is kept of each row is small, and says the same as dictionaries of texts."""

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kto_lab.errors import LabError
from kto_lab.feedback import compact_map, known
from kto_lab.feedback.compact_map import CompactMap
from kto_lab.feedback.known import Known, held_out_of, split_of, texts_of
from kto_lab.hashing import content_hash, hashes_of_plain

KEYS = st.integers(0, 30) | st.sampled_from([2**63, 2**64 - 1])


@given(st.lists(st.lists(KEYS, min_size=1, max_size=8), max_size=20))
def test_a_compact_map_is_a_dictionary(batches: list[list[int]]) -> None:
    found, expected = CompactMap(), dict[int, int]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compact_map, "_LATEST", 3)
        for number, batch in enumerate(batches):
            if number % 2:
                for key in batch:
                    assert found.setdefault(key, number) == expected.get(key)
                    expected.setdefault(key, number)
                    found[key] = expected[key] = expected[key] + 100
                continue
            keys = np.array(sorted(set(batch)), np.uint64)
            before = {key: expected[key] for key in set(batch) if key in expected}
            assert dict(found.with_values(keys)) == before
            new = np.array([key for key in keys.tolist() if key not in before], np.uint64)
            found.add(new, np.full_like(new, number))
            expected |= dict.fromkeys(new.tolist(), number)
    assert dict(found.with_values(np.array(list(expected), np.uint64))) == expected


def test_an_entry_takes_some_tens_of_bytes() -> None:
    many = 200_000
    keys = np.random.default_rng(0).integers(2**64, size=many, dtype=np.uint64)
    tracemalloc.start()
    found = CompactMap()
    for part in np.split(keys, 100):
        found.add(part, np.ones_like(part))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept / many < 40
    assert len(list(found.with_values(keys))) == many


def test_hashes_by_column_are_those_of_single_rows() -> None:
    rows = [("prompt", text) for text in ("a", "é\x7f", '"\\\n', "")]
    hashes = hashes_of_plain(rows)
    names = [content_hash(*row) for row in rows]
    assert texts_of(hashes).to_pylist() == names
    assert held_out_of(hashes, 0.5).tolist() == [split_of(name, 0.5) == "test" for name in names]
    assert texts_of(b"").to_pylist() == []


def test_repeated_examples_have_the_identities_that_single_rows_give_them() -> None:
    rows = [("a",), ("b",), ("a",), ("c",), ("a",)]
    single, together, mixed = Known(), Known(), Known()
    expected = [single.own(content_hash(*row)) for row in rows]
    assert len(set(expected)) == 5
    assert together.own_of_all(hashes_of_plain(rows)).to_pylist() == expected
    parts = [mixed.own_of_all(hashes_of_plain(part)) for part in (rows[:2], rows[2:4], rows[4:])]
    assert pa.concat_arrays(parts).to_pylist() == expected


def test_a_prompt_keeps_its_split_and_its_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "_CHECKS", 2)
    rows = Known()
    hashes = hashes_of_plain([("a",), ("b",)])
    first, second = texts_of(hashes).to_pylist()
    assert rows.settle_all(hashes, np.array([True, False]))
    assert rows.settle_all(hashes, np.array([True, False])) and not rows.settle_all(hashes, np.array([True, True]))
    rows.settle(first, "test", "", "here")
    with pytest.raises(LabError, match=r"here: .*give all rows of a prompt the same split"):
        rows.settle(second, "test", "", "here")
    with pytest.raises(LabError, match=r"here: .*has the checks \{x\}, and in an earlier row none"):
        rows.settle(second, "train", "{x}", "here")
    rows.settle("0" * 16, "train", "{y}", "here")
    # More checks than are kept are told apart all the same.
    with pytest.raises(LabError, match=r"has the checks none, and in an earlier row others"):
        rows.settle("0" * 16, "train", "", "here")
