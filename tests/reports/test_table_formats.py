import csv
import io
import re
import shutil
import subprocess
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from kto_lab.reports import load
from kto_lab.reports.figure_parts import Style
from kto_lab.reports.specs import TableSpec
from kto_lab.reports.table_formats import NUMBERS, comma_separated, html_table, markdown, p_value
from kto_lab.reports.table_latex import escape_latex, latex
from kto_lab.reports.tables import Table, build
from kto_lab.reports.verdicts import verdicts
from kto_lab.sweeps.contrasts import Contrast
from tests.reports.study_folders import by_rate, draw, fail, grid, write_run, write_study

PDFLATEX = shutil.which("pdflatex")
RATES = {"dpo_a": 0.2, "kto": 0.85}


@pytest.fixture
def table(tmp_path: Path) -> Table:
    made = by_rate(RATES)
    home = write_study(
        tmp_path,
        grid(range(4), arm=list(RATES), corruption__rate=[0, 0.4]),
        lambda folder, cell: (
            fail(folder)
            if (cell["arm"], cell["corruption.rate"], cell["seed"]) == ("dpo_a", 0.4, 1)
            else made(folder, cell)
        ),
    )
    caption = "Does 40 % noise hurt A&B <most>?"
    spec = TableSpec("by_noise", ["arm"], ["pass_rate", "kl"], "corruption.rate", {"arm": "dpo_a"}, caption)
    frame, sides = load(home), ({"arm": "kto"}, {"arm": "dpo_a"})
    named = [Contrast("kto_wins", *sides, "pass_rate", "greater", where={"corruption.rate": 0})]
    return build(frame, spec, home, contrasts=verdicts(frame, named, home))


def test_markdown_has_a_cell_for_each_heading(table: Table) -> None:
    lines = markdown(table).splitlines()
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines[:4]]
    assert {len(line) for line in cells} == {5}
    assert cells[0][1].strip() == "pass rate, corruption rate 0"
    assert cells[2][0].strip() == r"dpo\_a"
    assert re.fullmatch(r"\*\*0\.\d+\*\* \[0\.\d+, \d\.\d+\]", cells[3][1].strip())
    assert "(3 of 4 seeds: 1 failed)" in cells[2][2]
    assert lines[6].startswith(r"Does 40 % noise hurt A&B \<most>?")


def test_latex_is_balanced_and_every_line_has_its_columns(table: Table) -> None:
    found = latex(table)
    opened = re.findall(r"\\(begin|end)\{(\w+)\}", found)
    assert (opened[:2], opened[-2:]) == (
        [("begin", "table"), ("begin", "tabular")],
        [("end", "tabular"), ("end", "table")],
    )
    bare = re.sub(r"\\[{}]", "", found)
    assert bare.count("{") == bare.count("}")
    rules = [r"\toprule", r"\cmidrule(lr){2-3} \cmidrule(lr){4-5}", r"\midrule", r"\bottomrule"]
    places = [found.index(rule) for rule in rules]
    assert places == sorted(places)
    assert r"\begin{tabular}{lcccc}" in found
    assert r" & \multicolumn{2}{c}{pass rate, by corruption rate} & " in found
    assert r"arm & 0 & 0.4 & 0 & 0.4 \\" in found
    for line in found.splitlines():
        if line.endswith(r"\\"):
            wide = sum(int(count) - 1 for count in re.findall(r"\\multicolumn\{(\d+)\}", line))
            assert len(re.findall(r"(?<!\\)&", line)) + wide == 4
    assert not re.search(r"(?<!\\)[%_#]", found.replace(r"{!}{%", ""))
    assert r"40 \% noise hurt A\&B \textless{}most\textgreater{}" in found
    stacked = r"kto & \\begin\{tabular\}\[t\]\{@\{\}c@\{\}\}\\textbf\{0\.\d+\} \\\\ \\footnotesize \[0\.\d+, \d\.\d+\]"
    assert re.search(stacked, found)


def test_latex_escapes_what_it_would_read_otherwise() -> None:
    assert escape_latex(r"a_b\c{d}~^") == r"a\_b\textbackslash{}c\{d\}\textasciitilde{}\textasciicircum{}"


def test_a_line_of_latex_never_starts_with_a_bracket(tmp_path: Path) -> None:
    made = by_rate({"[1, 2]": 0.5})
    home = write_study(tmp_path, grid(arm=["[1, 2]"]), made)
    assert "    {}[1, 2] & " in latex(build(load(home), TableSpec("t", ["arm"], ["pass_rate"]), home))


@pytest.fixture
def wide(tmp_path: Path) -> Table:
    """Wider than a page, with what LaTeX could stumble over: special letters, values below zero, lacking runs."""

    def run(folder: Path, cell: Mapping[str, Any]) -> None:
        if cell["arm"] == "[a_b] #1 ~50%" and cell["seed"]:
            fail(folder)
        else:
            write_run(folder, cell["seed"], draw(0.5, cell["seed"]), kl=-3.0 + cell["seed"])

    arms = ["[a_b] #1 ~50%", r"{c}^2 \d & $e$ λ≥β", "–"]
    home = write_study(tmp_path / "wide", grid(arm=arms), run)
    metrics = ["pass_rate", "kl", "seconds", "answer_length", "finished", "reward_auc", "tokens_seen", "peak_memory"]
    return build(load(home), TableSpec("wide", ["arm"], metrics), home)


@pytest.fixture
def long(tmp_path: Path) -> Table:
    """Longer than a page, with as many columns as a search has."""
    arms = [f"arm_{place}" for place in range(6)]
    made = by_rate(dict.fromkeys(arms, 0.6))
    home = write_study(tmp_path / "long", grid(arm=arms, corruption__rate=[0, 0.1, 0.2], loss__beta=[0.1, 0.3]), made)
    rows = ["arm", "corruption.rate", "loss.beta"]
    return build(load(home), TableSpec("long", rows, ["pass_rate", "kl"]), home)


def test_latex_of_more_than_a_page_goes_over_pages_with_its_heading(table: Table, long: Table) -> None:
    assert "longtable" not in latex(table)
    found = latex(long)
    assert r"\begin{longtable}{lllcc}" in found and "resizebox" not in found and r"\begin{table}" not in found
    first, again = found.partition(r"\endfirsthead")[::2]
    assert first.count(r"corruption \\ rate") == again.partition(r"\endhead")[0].count(r"corruption \\ rate") == 1
    assert found.count(r"\caption") == 1 and len(re.findall(r"^  arm\\_\d & ", found, re.MULTILINE)) == 36


@pytest.mark.skipif(PDFLATEX is None, reason="needs pdflatex with booktabs")
def test_latex_compiles_no_wider_than_the_text(table: Table, wide: Table, long: Table, tmp_path: Path) -> None:
    paper = tmp_path / "paper.tex"
    head = r"\documentclass{article}\usepackage{booktabs,graphicx,longtable}\begin{document}"
    paper.write_text("\n".join([head, latex(table), latex(wide), latex(long), r"\end{document}"]))
    assert PDFLATEX is not None
    words = [PDFLATEX, "-interaction=nonstopmode", "-halt-on-error", f"-output-directory={tmp_path}", str(paper)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout and "Float too large" not in done.stdout
    assert (tmp_path / "paper.pdf").read_bytes().startswith(b"%PDF")


def test_the_csv_holds_full_precision_and_all_comparisons(table: Table) -> None:
    rows = list(csv.DictReader(io.StringIO(comma_separated(table))))
    assert len(rows) == 12
    assert list(rows[0]) == ["arm", "corruption.rate", *NUMBERS]
    row = next(r for r in rows if (r["arm"], r["corruption.rate"], r["metric"]) == ("kto", "0.0", "pass_rate"))
    entry = table.entries[("kto",), 0.0, "pass_rate"]
    assert entry.group is not None and entry.difference is not None
    assert float(row["value"]) == entry.group.mean.estimate.value
    assert float(row["difference_low"]) == entry.difference.estimate.low
    assert entry.contrast is not None
    assert (float(row["p"]), float(row["p_holm"])) == (entry.difference.p, entry.contrast.p_holm)
    assert (row["baseline"], row["paired_by"], row["contrast"], row["mark"]) == (
        "arm=dpo_a corruption.rate=0",
        "seed and prompt",
        "kto_wins",
        "better",
    )
    lacking = next(r for r in rows if (r["arm"], r["corruption.rate"]) == ("dpo_a", "0.4"))
    assert (lacking["seeds"], lacking["seeds_planned"], lacking["lacking"]) == ("3", "4", "3 of 4 seeds: 1 failed")
    assert (lacking["baseline"], lacking["p"]) == ("", "")


class Cells(HTMLParser):
    """Cells of a table: tag, attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], list[str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("th", "td", "caption"):
            self.found.append((tag, dict(attrs), []))

    def handle_data(self, data: str) -> None:
        if self.found:
            self.found[-1][2].append(data)


def test_html_carries_values_to_sort_by_and_to_hover_over(table: Table) -> None:
    parser = Cells()
    parser.feed(html_table(table))
    caption, *heads = parser.found
    assert "".join(caption[2]).startswith("Does 40 % noise hurt A&B <most>?")
    assert ["".join(words).strip() for _, _, words in heads[:2]] == ["arm", "pass rate, corruption rate 0"]
    numbers = [attributes for tag, attributes, _ in parser.found if tag == "td"]
    assert len(numbers) == 12
    kto = numbers[4]
    entry = table.entries[("kto",), 0.0, "pass_rate"]
    assert entry.group is not None
    assert kto["data-value"] == str(entry.group.mean.estimate.value)
    assert "seed 3: " in (kto["title"] or "")
    assert "1 failed" in (numbers[1]["title"] or "")


def test_html_says_every_comparison_where_no_mouse_is(table: Table) -> None:
    parser = Cells()
    parser.feed(html_table(table))
    cells = [said for tag, _, said in parser.found if tag == "td"]
    entry = table.entries[("kto",), 0.0, "pass_rate"]
    assert entry.difference is not None and entry.difference.estimate.value is not None
    assert cells[4][-2].startswith(f"+{entry.difference.estimate.value:.3f}"[:5]) and ", p " in cells[4][-2]
    assert cells[4][-1].startswith("kto_wins confirmed, corrected p ")
    assert not any(", p " in line for line in cells[0]), "the baseline is compared with nothing"
    assert p_value(0.0312) == "p = 0.031" and p_value(1e-7) == "p < 0.0001"


def test_html_has_the_colour_of_a_method(table: Table) -> None:
    parser = Cells()
    parser.feed(html_table(table, {"arm": {"kto": Style("#123456", "-", "o")}}))
    heads = {"".join(said).strip(): attributes for tag, attributes, said in parser.found if tag == "th"}
    assert "#123456" in (heads["kto"]["style"] or "") and "style" not in heads["dpo_a"]
