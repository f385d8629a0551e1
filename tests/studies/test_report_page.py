import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from study_folders import by_rate, fail, grid, write_study

from kto_lab.studies.report import report

RATES = {"kto": 0.8, "dpo": 0.3, "sft": 0.5}
TABLE = {"name": "rates", "rows": ["arm"], "metrics": ["pass_rate"], "baseline": {"arm": "dpo"}}
FIGURE = {"name": "frontier", "kind": "frontier", "x": "kl", "y": "pass_rate"}
CHROMIUM = shutil.which("chromium")


@pytest.fixture
def page(tmp_path: Path) -> Path:
    made = by_rate(RATES)

    def run(folder: Path, cell: Mapping[str, Any]) -> None:
        fail(folder, 'No space <left> on "it".') if (cell["arm"], cell["seed"]) == ("sft", 2) else made(folder, cell)

    return report(write_study(tmp_path, grid(arm=list(RATES)), run, tables=[TABLE], figures=[FIGURE]))


def test_the_page_stands_alone(page: Path) -> None:
    text = page.read_text()
    assert "Does noise hurt?" in text and "kto-lab sweep study=noise" in text
    assert "9 runs: 8 done, 1 failed" in text
    assert text.count('src="data:image/png;base64,') == 1
    assert not re.search(r"""(src|href)=["']?(https?:|//)""", text)
    assert "No space &lt;left&gt; on &quot;it&quot;." in text


def test_links_lead_to_the_runs(page: Path) -> None:
    links = re.findall(r'<a href="([^"]+)">', page.read_text())
    assert len(links) == 9
    assert all((page.parent / link).is_dir() for link in links)


def test_what_differs_between_configurations_is_listed_and_no_more(page: Path) -> None:
    part = page.read_text().partition("What differs between configurations</h2>")[2].partition("<h2>")[0]
    assert sorted(set(re.findall(r'<tr><th class="text" data-value="([^"]+)">', part))) == ["loss.function"]
    assert all(f">{arm}<" in part for arm in RATES)
    environment = page.read_text().partition("Environment</h2>")[2]
    assert "packages.torch" in environment and "2.13.0+cpu" in environment


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
      document.title = JSON.stringify(found);
    """
    clicked = page.with_name("clicked.html")
    clicked.write_text(page.read_text().replace("</body>", f"<script>{clicks}</script></body>"))
    assert CHROMIUM is not None
    words = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={page.parent / 'browser'}"]
    done = subprocess.run([*words, "--dump-dom", clicked.as_uri()], capture_output=True, text=True, timeout=120)
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None
    assert title[1] == (
        '{"sorted":["dpo","sft","kto"],"reversed":["kto","sft","dpo"],'
        '"method":[["kto"],["kto","kto","kto"]],"words":["sft"]}'
    )
