import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from kto_lab.reports.page import UNFOLDED
from kto_lab.reports.report import report
from tests.reports.study_folders import by_rate, fail, grid, write_study

RATES = {"kto": 0.8, "dpo": 0.3, "sft": 0.5}
TABLE = {"name": "rates", "rows": ["arm"], "metrics": ["pass_rate"], "baseline": {"arm": "dpo"}}
FIGURE = {"name": "frontier", "kind": "frontier", "x": "kl", "y": "pass_rate"}
HEAT = {"name": "by seed", "kind": "heatmap", "x": "arm", "y": "pass_rate"}
CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = by_rate(RATES)

    def run(folder: Path, cell: Mapping[str, Any]) -> None:
        fail(folder, 'No space <left> on "it".') if (cell["arm"], cell["seed"]) == ("sft", 2) else made(folder, cell)

    home = tmp_path_factory.mktemp("study")
    return report(write_study(home, grid(arm=list(RATES)), run, tables=[TABLE], figures=[FIGURE, HEAT]))


def test_the_page_stands_alone(page: Path) -> None:
    text = page.read_text()
    assert "Does noise hurt?" in text and "kto-lab sweep study=noise" in text
    assert "9 runs: 8 done, 1 failed" in text
    assert text.count("<svg ") == 2 and "<img" not in text and "<metadata>" not in text
    assert not re.search(r"""(src|href)=["']?(https?:|//)""", text)
    identities = re.findall(r'\bid="([^"]+)"', text)
    assert len(identities) == len(set(identities))
    assert "No space &lt;left&gt; on &#34;it&#34;." in text


def test_links_lead_to_the_runs(page: Path) -> None:
    links = re.findall(r'<a href="([^"]+)">', page.read_text())
    assert len(links) == 9
    assert all((page.parent / link).is_dir() for link in links)


def test_what_differs_between_configurations_is_listed_and_no_more(page: Path) -> None:
    part = page.read_text().partition("Settings that differ</h2>")[2].partition("<h2>")[0]
    assert re.findall(r'<tr><th data-value="([^"]+)">', part) == ["loss.function"]
    assert "kto (3), dpo (3), sft (2)" in part
    environment = page.read_text().partition("Environment</h2>")[2]
    assert "packages.torch" in environment and "2.13.0+cpu" in environment


def test_figures_come_before_tables_and_long_tables_are_folded(page: Path, tmp_path: Path) -> None:
    text = page.read_text()
    assert text.index("<figure") < text.index("<table") and 'id="table-rates"' in text
    assert unfolded(text, "table-rates") and unfolded(text, "runs") and not unfolded(text, "environment")
    arms = {f"arm{place:02}": 0.5 for place in range(UNFOLDED + 1)}
    home = write_study(tmp_path, grid([0], arm=list(arms)), by_rate(arms), tables=[TABLE | {"baseline": None}])
    long = report(home).read_text()
    assert not unfolded(long, "table-rates") and not unfolded(long, "runs")


def unfolded(text: str, table: str) -> bool:
    before = text.partition(f'id="{table}"')[0]
    return before.count("<details>") == before.count("</details>")


def test_verdicts_stand_first_and_say_why_they_are_open(tmp_path: Path) -> None:
    sides = {"of": {"arm": "kto"}, "metric": "pass_rate", "expect": "greater"}
    contrasts = [
        sides | {"name": "kto_wins", "against": {"arm": "dpo"}},
        sides | {"name": "kto_beats_what_failed", "against": {"arm": "sft"}},
    ]
    made = by_rate(RATES)

    def run(folder: Path, cell: Mapping[str, Any]) -> None:
        fail(folder) if (cell["arm"], cell["seed"]) == ("sft", 2) else made(folder, cell)

    text = report(write_study(tmp_path, grid(arm=list(RATES)), run, tables=[TABLE]), contrasts=contrasts).read_text()
    part = text.partition("What the study set out to show</h2>")[2].partition("<h2>")[0]
    assert text.index("set out to show") < text.index("<table")
    first, second = part.split("<li>")[1:]
    assert "confirmed" in first and "arm kto &gt; arm dpo" in first and ", corrected over " in first
    assert "open" in second and "Why open: of 6 runs 1 failed" in second
    # Nothing of it is in hover text.
    assert "title=" not in part
    assert 'id="table-budgets"' in text.partition("Budgets</h2>")[2]


def test_a_script_of_somebody_else_does_not_run(tmp_path: Path) -> None:
    hostile = "</title><script>document.title='owned'</script>"
    home = write_study(tmp_path, grid([0], arm=[hostile]), lambda folder, cell: fail(folder, hostile))
    text = report(home).read_text()
    assert hostile not in text and text.count("<script>") == 1
    assert "default-src 'none'" in text and "script-src 'sha256-" in text


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium")
def test_a_person_can_sort_and_filter(page: Path) -> None:
    clicks = """
      document.querySelector("#table-rates thead th:nth-child(2)").click();
      const shown = id => [...document.querySelectorAll(`#${id} tbody tr`)].filter(row => !row.hidden)
        .map(row => row.cells[0].textContent);
      const found = {sorted: shown("table-rates")};
      document.querySelector("#table-rates thead th:nth-child(2)").click();
      found.reversed = shown("table-rates");
      const choose = (id, text) => {
        document.getElementById(id).value = text;
        document.getElementById(id).dispatchEvent(new Event("input"));
      };
      choose("method", "kto");
      found.method = [shown("table-rates"), shown("runs")];
      choose("method", "");
      choose("words", "failed");
      found.words = shown("runs");
    """
    assert in_browser(page, clicks) == {
        "sorted": ["base policy", "dpo", "sft", "kto"],
        "reversed": ["kto", "sft", "dpo", "base policy"],
        "method": [["kto"], ["kto", "kto", "kto"]],
        "words": ["sft"],
    }


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium")
def test_a_person_can_hover_over_the_values_of_figures(page: Path) -> None:
    # What is on top in the middle of each mark that matplotlib drew.
    hover = """
      const found = {marks: 0, under: []};
      for (const mark of document.querySelectorAll('figure [id$="PathCollection_1"] use, figure rect.spot')) {
        mark.scrollIntoView();
        const box = mark.getBoundingClientRect();
        const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
        found.marks += 1;
        found.under.push(top.querySelector("title")?.textContent);
      }
    """
    found = in_browser(page, hover)
    # Three runs of the first arm, and three cells of the heat map.
    assert found["marks"] == 6
    record = json.loads((page.parents[2] / "cells" / "0001" / "record.json").read_text())
    rate = record["metrics"]["answers"]["pass_rate"]["trained"]["value"]
    assert f"arm kto, seed 1\npass rate {rate:.4g}\nKL, nats/answer 12.2" in found["under"][:3]
    assert [words.partition("\n")[0] for words in found["under"][3:]] == ["arm kto", "arm dpo", "arm sft"]
    assert "1 failed" in found["under"][5]


def in_browser(page: Path, script: str) -> Any:
    """What `found` is after a script has run in the page."""
    there = page.with_name("there.html")
    end = f"<script>{script}; document.title = JSON.stringify(found);</script></body>"
    # Without the policy, which would refuse that script.
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    there.write_text(text.replace("</body>", end))
    assert CHROMIUM is not None
    words = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={page.parent / 'browser'}"]
    done = subprocess.run([*words, "--dump-dom", there.as_uri()], capture_output=True, text=True, timeout=120)
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title is not None
    return json.loads(unescape(title[1]))
