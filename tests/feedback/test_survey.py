"""A source is read once where its first rows tell how all are read."""

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from datasets import Dataset

from kto_lab.errors import LabError
from kto_lab.feedback import survey
from kto_lab.feedback.layout import layout
from kto_lab.feedback.rows import Raw, in_blocks
from kto_lab.feedback.rows.blocks import Rows
from kto_lab.feedback.survey import table_of

COLUMNS = {"prompt": "prompt", "completion": "completion", "label": "label"}


class Source:
    """Rows with these labels, in blocks of two; counts how often they are read to the end."""

    def __init__(self, *labels: Any, **columns: list[Any]) -> None:
        self.readings = 0
        self.rows = [
            {
                "prompt": f"p{n}",
                "completion": f"c{n}",
                "label": label,
                **{key: more[n] for key, more in columns.items()},
            }
            for n, label in enumerate(labels)
        ]

    def __call__(self) -> Iterator[Rows]:
        raws: Iterable[Raw] = ((f"s:{n}", row) for n, row in enumerate(self.rows, start=1))
        yield from in_blocks(raws, 2)
        self.readings += 1

    def table(self, **settings: Any) -> Dataset:
        columns = {**COLUMNS, **{name: name for name in self.rows[0] if name not in COLUMNS}}
        return table_of(self, layout(columns, **settings), source="s", name="s", held_out=0.0)


@pytest.mark.parametrize(
    ("labels", "readings"),
    [
        (["yes", "no", "yes", "down"], 1),
        ([1, 0, "yes", 1], 1),
        # Whether 0 is a thumbs-down or none is known once -1 is seen, in the last block.
        ([1, 0, 1, 0, -1], 3),
        (["yes", "no", 1, 0], 2),
    ],
)
def test_a_source_is_read_again_where_later_rows_change_what_the_first_mean(
    labels: list[Any], readings: int, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Source(*labels)
    table = source.table()
    assert source.readings == readings
    said = capsys.readouterr().out
    settled, remarks = survey.surveyed(source, layout(COLUMNS), source="s")
    assert [" ".join(said.split()).count(remark) for remark in remarks] == [1]
    means = [settled.scale.says(label)[0].name for label in labels]
    assert table["desirable"][:] == [one == "UP" for one in means if one in ("UP", "DOWN")]


def test_all_times_settle_a_date_of_two_readings() -> None:
    plain = Source("yes", "no", "yes", timestamp=["2026-05-01", "2026-05-02T10:00:00Z", "2026-05-03"])
    assert plain.table()["timestamp"][0] == "2026-05-01T00:00:00Z" and plain.readings == 1
    open_dates = Source("yes", "no", "yes", timestamp=["01/02/2026", "2026-05-02", "31/01/2026"])
    assert open_dates.table()["timestamp"][0] == "2026-02-01T00:00:00Z" and open_dates.readings > 1
    told = Source("yes", "no", timestamp=["01/02/2026", "02/03/2026"])
    assert told.table(day_first=False)["timestamp"][0] == "2026-01-02T00:00:00Z" and told.readings == 1


def test_what_all_rows_ask_for_comes_before_the_fault_of_one() -> None:
    source = Source("yes", "odd", "yes", 4)
    with pytest.raises(LabError, match=r"which numbers are thumbs up is not known"):
        source.table()
    with pytest.raises(LabError, match=r"s:2: the label is 'odd'"):
        Source("yes", "odd", "yes").table()
    assert len(Source("yes", "odd", "yes").table(bad_rows="drop")) == 2
    with pytest.raises(LabError, match="no example in it"):
        Source("neutral").table()
