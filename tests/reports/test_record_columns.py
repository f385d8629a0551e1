"""Records as columns: whatever they are made of, every leaf has its column, and records of one shape share theirs."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kto_lab.reports.record_columns import Columns

LEAVES = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-1, 1) | st.text(max_size=3) | st.just({})
LISTS = st.lists(st.integers(0, 3), max_size=2)
SECTIONS = st.recursive(
    LEAVES | LISTS, lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=12
)
RECORDS = st.builds(
    lambda timings, data, config: {"timings": timings, "data": data, "run_id": "x", "config": config},
    st.dictionaries(st.sampled_from(["plan", "training"]), st.floats(0, 9)),
    SECTIONS,
    SECTIONS,
)


def leaves(node: Any, place: str) -> dict[str, Any]:
    """The plain way: a leaf at a time, an empty section and a list as JSON."""
    if isinstance(node, dict) and node:
        return {name: value for key, part in node.items() for name, value in leaves(part, f"{place}.{key}").items()}
    return {place: json.dumps(node) if isinstance(node, list | dict) else node}


def named(record: dict[str, Any]) -> dict[str, Any]:
    found = {"seconds": sum(record["timings"].values())}
    found |= leaves(record["timings"], "seconds") if record["timings"] else {"timings": "{}"}
    return found | leaves(record["data"], "data") | leaves(record["config"], "config")


@given(st.lists(RECORDS, min_size=1, max_size=6))
def test_every_leaf_has_its_column_whatever_came_before(records: list[dict[str, Any]]) -> None:
    columns = Columns(set())
    for record in records:
        found = columns.of(record)
        assert dict(zip(columns.shapes[found.shape], found.values, strict=True)) == named(record)


def test_records_of_one_shape_share_their_columns_whatever_the_order_of_their_keys() -> None:
    columns = Columns(set())
    first = columns.of({"timings": {"plan": 1.0}, "config": {"seed": 1, "loss": {"beta": 0.1, "grid": [1, 2]}}})
    again = columns.of({"config": {"loss": {"grid": [3], "beta": 0.2}, "seed": 2}, "timings": {"plan": 2.0}})
    assert first.shape == again.shape == 0 and len(columns.shapes) == 1
    assert columns.shapes[0] == ["seconds", "seconds.plan", "config.seed", "config.loss.beta", "config.loss.grid"]
    assert list(again.values) == [2.0, 2.0, 2, 0.2, "[3]"]


def test_a_section_where_others_have_a_number_is_another_shape() -> None:
    columns = Columns(set())
    plain = columns.of({"timings": {"plan": 1.0}, "data": {"swapped": None, "n": {}}})
    section = columns.of({"timings": {"plan": 1.0}, "data": {"swapped": {"pairs": 1}, "n": {}}})
    listed = columns.of({"timings": {"plan": 1.0}, "data": {"swapped": [], "n": 3}})
    assert len({plain.shape, section.shape, listed.shape}) == 3
    assert columns.shapes[section.shape][2:] == ["data.swapped.pairs", "data.n"]
    assert columns.of({"timings": {"plan": 1.0}, "data": {"swapped": 5, "n": {}}}).shape == plain.shape
