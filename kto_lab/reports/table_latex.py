"""Tables in LaTeX, with booktabs."""

import re
from collections.abc import Sequence
from functools import partial

from kto_lab.evaluation.metrics import label
from kto_lab.reports.sheets import Sheet
from kto_lab.reports.specs import shown
from kto_lab.reports.tables import Table, Text, marked, text
from kto_lab.reports.verdicts import BETTER, WORSE
from kto_lab.reports.words import choice_label

LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",
    # Letters of the field that a font of text lacks; accents and the like are in it.
    "α": r"\ensuremath{\alpha}",
    "β": r"\ensuremath{\beta}",
    "γ": r"\ensuremath{\gamma}",
    "λ": r"\ensuremath{\lambda}",
    "π": r"\ensuremath{\pi}",
    "≤": r"\ensuremath{\leq}",
    "≥": r"\ensuremath{\geq}",
    "†": r"\dag{}",
}
# Lines of entries that a page of LaTeX has room for, beside heading and caption.
PAGE_LINES = 34


def latex(table: Table) -> str:
    """The table in LaTeX: a float no wider than the text, and over pages a longtable whose headings are stacked.

    A float needs graphicx as well, a longtable the package of its name.
    """
    spec, metrics = table.spec, table.spec.metrics
    texts = [[text(table, row, column, metric) for metric in metrics for column in table.columns] for row in table.rows]
    rows = [
        [*(escape_latex(shown(value)) for value in row), *map(_stacked, cells)]
        for row, cells in zip(table.rows, texts, strict=True)
    ]
    kinds = "l" * len(spec.rows) + "c" * (len(metrics) * len(table.columns))
    if sum(max(_lines(one) for one in cells) for cells in texts) > PAGE_LINES:
        return _longtable(spec.name, table.caption, kinds, _heads(table, stacked=True), rows)
    return _float(spec.name, table.caption, kinds, _heads(table, stacked=False), rows)


def sheet_latex(sheet: Sheet) -> str:
    """A table of words as a LaTeX float, no wider than the text; it needs the packages booktabs and graphicx."""
    rows = [[escape_latex(words) for words in row] for row in sheet.rows]
    heads = [_row([*map(escape_latex, sheet.heads)])]
    return _float(sheet.name, sheet.caption, "l" * len(sheet.heads), heads, rows)


def _float(name: str, caption: str, kinds: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A float of cells that are escaped, below the lines of its head."""
    lines = [
        r"\begin{table}",
        r"  \centering",
        f"  {_caption(caption)}",
        f"  {_label(name)}",
        r"  \medskip",
        # A table that fits keeps its size.
        r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"  \begin{{tabular}}{{{kinds}}}",
        *(f"    {line}" for line in [r"\toprule", *heads, r"\midrule", *_body(rows), r"\bottomrule"]),
        r"  \end{tabular}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _longtable(name: str, caption: str, kinds: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same over pages, its head on each."""
    head = [r"\toprule", *heads, r"\midrule"]
    above = [*head, r"\endfirsthead", *head, r"\endhead", r"\bottomrule", r"\endlastfoot"]
    lines = [
        r"{\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"\begin{{longtable}}{{{kinds}}}",
        rf"  {_caption(caption)} {_label(name)} \\",
        *(f"  {line}" for line in [*above, *_body(rows)]),
        r"\end{longtable}}",
    ]
    return "\n".join(lines) + "\n"


def _caption(words: str) -> str:
    return rf"\caption{{{escape_latex(words)}}}"


def _label(name: str) -> str:
    return rf"\label{{tab:{re.sub(r'[^A-Za-z0-9:-]', '-', name)}}}"


def _body(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of rows of cells that are escaped."""
    # After a line's end a bracket would be read as the end's own argument.
    guarded = [[("{}" if cells[0].startswith("[") else "") + cells[0], *cells[1:]] for cells in rows]
    return "\n\\addlinespace[2pt]\n".join(map(_row, guarded)).splitlines()


def _heads(table: Table, *, stacked: bool) -> list[str]:
    """The lines above the rules of a table: metrics, and below them the values of the column choice.

    Args:
        table: of which.
        stacked: whether each word of a heading has a line of its own.
    """
    spec, metrics, wide = table.spec, table.spec.metrics, len(table.columns)

    def head(said: str) -> str:
        parts = [escape_latex(part) for part in said.split()]
        return _stack(parts, "b") if stacked and len(parts) > 1 else " ".join(parts)

    keys = [head(choice_label(key)) for key in spec.rows]
    if not spec.columns:
        return [_row([*keys, *(head(label(metric)) for metric in metrics)])]
    above = [escape_latex(f"{label(metric)}, by {choice_label(spec.columns)}") for metric in metrics]
    spans = [rf"\multicolumn{{{wide}}}{{c}}{{{said}}}" for said in above]
    starts = [len(spec.rows) + 1 + wide * place for place in range(len(metrics))]
    return [
        _row([*("" for _ in spec.rows), *spans]),
        " ".join(rf"\cmidrule(lr){{{start}-{start + wide - 1}}}" for start in starts),
        _row([*keys, *(escape_latex(shown(column)) for _ in metrics for column in table.columns)]),
    ]


def _row(cells: Sequence[str]) -> str:
    return rf"{' & '.join(cells)} \\"


def _stack(lines: Sequence[str], place: str) -> str:
    """Lines below one another in a cell, whose first (t) or last (b) is on the row's own."""
    return rf"\begin{{tabular}}[{place}]{{@{{}}c@{{}}}}" + r" \\ ".join(lines) + r"\end{tabular}"


def _lines(entry: Text) -> int:
    """How many lines an entry has in LaTeX."""
    return max(1, sum(bool(part) for part in (entry.value, entry.interval, entry.note)))


def escape_latex(words: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(LATEX.get(letter, letter) for letter in words)


def _stacked(entry: Text) -> str:
    """An entry in LaTeX, its interval and note below the value: a line of them would be wider than a page."""
    # A minus, where a hyphen would be read.
    minus, small = partial(re.sub, r"-(?=\d)", "$-$"), r"\footnotesize {}"
    value = minus(marked(entry, escape_latex, {BETTER: r"\textbf{{{}}}", WORSE: r"\textit{{{}}}"}))
    note = escape_latex(f"({entry.note})" if entry.value and entry.note else entry.note)
    lines = [value, *(small.format(words) for words in (minus(entry.interval), note) if words)]
    present = [line for line in lines if line]
    if len(present) == 1:
        return present[0]
    return _stack(present, "t")
