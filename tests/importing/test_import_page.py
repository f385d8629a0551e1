import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from kto_lab.importing.thumbs import LeftOut, Reason, Row
from tests.importing.invented import imported, rows, thumb

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">&amp;\u202e"


class Page(HTMLParser):
    """Tags, their addresses, and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str | None] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "onerror", "onload")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    day = "2026-05-{:02}T00:00:00Z".format
    given = [
        *rows(
            *(thumb(f"a:{n}", prompt=f"p{n}", desirable=n % 3 > 0, timestamp=day(n), model="m") for n in range(1, 29))
        ),
        *rows(*(thumb("b:1", prompt=f"q{n}", model=HOSTILE, rater=HOSTILE, signal=HOSTILE) for n in range(3))),
        Row(left_out=(LeftOut(HOSTILE, Reason.NO_THUMB, HOSTILE),)),
        Row(thumbs=(thumb(),), left_out=(LeftOut("c:1", Reason.NO_PROMPT),)),
    ]
    imported(tmp_path, given, "recent_days=7", "duplicates.near_threshold=0.9")
    return tmp_path


def test_the_page_stands_alone_and_escapes_everything(folder: Path) -> None:
    page = Page((folder / "thumbs.import_report.html").read_text())
    assert not {"script", "img", "link", "iframe"} & set(page.tags)
    assert page.addresses == []
    assert any("<script>document.title" in text for text in page.texts), "hostile names are shown as they are"


def test_the_numbers_of_the_page_add_up(folder: Path) -> None:
    numbers = json.loads((folder / "thumbs.import_report.json").read_text())
    assert numbers["rows"] == 33 and numbers["rows_taken"] == 32
    reasons = {line["reason"]: (line["count"], line["rows"]) for line in numbers["reasons"]}
    assert reasons == {Reason.NO_THUMB: (1, 1), Reason.NO_PROMPT: (1, 0)}
    for name, balance in numbers["balances"].items():
        assert sum(row["up"] + row["down"] for row in balance) == 32, name
        assert sum(row["examples_up"] + row["examples_down"] for row in balance) == numbers["examples"], name
    assert numbers["balances"]["by model"][0]["name"] == "m"
    recent, people, implicit, examples = numbers["ratios"]
    assert (recent["up"] + recent["down"], people["up"] + people["down"]) == (8, 29)
    assert implicit["up"] == 3 and examples["up"] + examples["down"] == numbers["examples"]
    assert recent["share"]["low"] < recent["share"]["value"] < recent["share"]["high"]
    assert numbers["deployment"] is None, "eight thumbs are nothing to weigh by"


@pytest.mark.parametrize(("count", "told"), [(2, False), (20, False), (150, True)])
def test_weights_for_deployment_are_told_where_its_share_is_known(tmp_path: Path, count: int, told: bool) -> None:
    given = rows(*(thumb(prompt=f"p{n}", desirable=n % 2 == 0) for n in range(count)))
    report, _ = imported(tmp_path, given)
    override = "weighting@loss.weighting=deployment loss.weighting.desirable_share=0.500"
    assert report.deployment == (override if told else None)


def test_only_the_largest_raters_are_named_and_the_others_are_counted(tmp_path: Path) -> None:
    given = rows(*(thumb(prompt=f"p{n}-{k}", rater=f"r{n:02}") for n in range(14) for k in range(n + 1)))
    report, _ = imported(tmp_path, given)
    named = report.balances["by rater"]
    assert [row.name for row in named] == [*(f"r{n:02}" for n in range(13, 3, -1)), "all others"]
    assert named[-1].up == named[-1].examples_up == 1 + 2 + 3 + 4


@pytest.mark.parametrize(
    ("last", "names"),
    [
        ("2026-05-20T00:00:00Z", ["2026-05-01", "2026-05-20"]),
        ("2026-06-30T00:00:00Z", ["2026-04-27", "2026-06-29"]),
        ("2027-01-01T00:00:00Z", ["2026-05", "2027-01"]),
        ("2036-01-01T00:00:00Z", ["2026", "2036"]),
        (None, ["2026-05-01", "not known"]),
    ],
)
def test_the_unit_of_time_suits_the_span(tmp_path: Path, last: str | None, names: list[str]) -> None:
    report, _ = imported(tmp_path, rows(thumb(timestamp="2026-05-01T00:00:00Z"), thumb(prompt="q", timestamp=last)))
    (over_time,) = [rows for name, rows in report.balances.items() if name.startswith("over time")]
    assert [row.name for row in over_time] == names


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_runs_nothing_of_what_the_texts_hold(folder: Path) -> None:
    file = folder / "thumbs.import_report.html"
    words = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", file.as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    assert "<title>Import of invented</title>" in done.stdout
