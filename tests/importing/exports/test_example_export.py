"""The export of the worked example: what the script writes is what is shipped, and it has what exports have."""

import json
import runpy
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from kto_lab.importing.thumbs import Reason
from tests.importing.exports.export_cases import read, thumbs_of

ROOT = Path(__file__).parents[3]
SHIPPED = ROOT / "kto_lab" / "importing" / "data" / "open_webui_sums.json"


def test_the_script_writes_what_is_shipped() -> None:
    written = runpy.run_path(str(ROOT / "scripts" / "make_example_export.py"))["export"]()
    assert written == json.loads(SHIPPED.read_text())
    assert SHIPPED.stat().st_size < 700_000


def test_the_example_has_thumbs_and_flaws_and_mostly_says_the_truth() -> None:
    rows = read("open_webui", path=str(SHIPPED), signals={"regenerated": False})
    thumbs = thumbs_of(rows)
    left_out = Counter(one.reason for row in rows for one in row.left_out)
    assert set(left_out) == {
        Reason.NO_THUMB,
        Reason.NO_ANSWER,
        Reason.NO_PROMPT,
        Reason.UNKNOWN_SCHEMA,
        Reason.DUPLICATE_ID,
    }
    assert {thumb.signal for thumb in thumbs} == {"thumb", "regenerated"}
    table = pq.read_table(ROOT / "kto_lab/feedback/data/arithmetic.parquet").to_pylist()
    right = {(row["prompt"], row["completion"]): row["desirable"] for row in table}
    given = [thumb for thumb in thumbs if thumb.signal == "thumb"]
    wrong = sum(right[thumb.prompt[0]["content"], thumb.completion] != thumb.desirable for thumb in given)  # type: ignore[index]
    assert len(given) > 400 and 0.03 < wrong / len(given) < 0.15
    said = Counter((thumb.rater, str(thumb.prompt), thumb.completion) for thumb in given)
    assert any(count > 1 for count in said.values()), "no mind changed"
