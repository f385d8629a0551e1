"""A study's report: its tables in four formats, its figures in two, and one page with all of it that stands alone."""

import gc
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf

from kto_lab import console, keys
from kto_lab.configuration import check_keys, config_dir
from kto_lab.errors import LabError
from kto_lab.files import atomic_path, write_text
from kto_lab.reports.answers import SideBySide, side_by_side
from kto_lab.reports.figure_parts import Style, styles
from kto_lab.reports.figures import plot
from kto_lab.reports.frame import DONE, choices, load
from kto_lab.reports.page import UNFOLDED, PageTable, method_of, page
from kto_lab.reports.selection import Searches, select
from kto_lab.reports.settings import read_options
from kto_lab.reports.sheets import Sheet, budget_sheet, contrast_sheet
from kto_lab.reports.specs import FigureSpec, TableSpec, parse
from kto_lab.reports.table_formats import (
    comma_separated,
    html_table,
    markdown,
    sheet_csv,
    sheet_html,
    sheet_markdown,
)
from kto_lab.reports.table_latex import latex, sheet_latex
from kto_lab.reports.tables import Table, build, build_search
from kto_lab.reports.verdicts import finished_before, verdicts
from kto_lab.runs.record import RECORD
from kto_lab.runs.scores import write_scores
from kto_lab.runs.status import FAILURE
from kto_lab.sealed import read_json, write_json
from kto_lab.sweeps.contrasts import read_contrasts
from kto_lab.sweeps.manifest import STUDY, read_study
from kto_lab.sweeps.study import shown_at

REPORT = "report.html"
# Suffix to what writes it; HTML goes into the page, too.
TABLE_FORMATS: dict[str, Callable[[Table], str]] = {"md": markdown, "tex": latex, "csv": comma_separated}
SHEET_FORMATS: dict[str, Callable[[Sheet], str]] = {"md": sheet_markdown, "tex": sheet_latex, "csv": sheet_csv}
HTML = "html"


def report_study(cfg: DictConfig) -> Path:
    """`kto-lab report`: the report of a study that was swept, or of a folder that holds one.

    Raises:
        LabError: something that a person can mend; see its message.
    """
    # Without the study: what it interpolates is of its cells' configuration.
    check_keys(OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "study"]), keys.REPORT)
    study: Any = OmegaConf.to_container(cfg.study, resolve=False) if "study" in cfg else None
    if (study is None) == (cfg.folder is None):
        raise LabError("Say which study to report: kto-lab report study=<name>, or folder=<where its study.json is>.")
    folder = Path(cfg.folder) if study is None else Path(cfg.runs_dir) / "studies" / study["name"]
    # As conf/study has them now, which may be other than when it was swept.
    shown = shown_at(study, read_study(folder).scale) if study else {}
    # Thousands of records are millions of values that all stay: to look for cycles among them is a fifth of the time.
    gc.disable()
    try:
        target = publish(folder, Path(cfg.publish), **shown) if cfg.publish else report(folder, **shown)
    finally:
        gc.enable()
    console.stage("Report", "Tables and figures of the runs that are done; what is missing is said in them.")
    console.show_files({"page": target, "tables": target.parent / "tables", "figures": target.parent / "figures"})
    return target


def publish(
    source: Path,
    target: Path,
    *,
    tables: Sequence[Mapping[str, Any]] | None = None,
    figures: Sequence[Mapping[str, Any]] | None = None,
    contrasts: Sequence[Mapping[str, Any]] | None = None,
) -> Path:
    """Copy a study without its policies, and write its report there: a folder that any machine can report again.

    It holds `study.json`, `cells/<run_id>/record.json` (`failure.json` of those that failed), `scores.parquet` with
    what each prompt scored in each run, and the report. An earlier one there is replaced, whole or not at all.

    Args:
        source: the study's folder.
        target: the folder to write: a new one, an empty one, or one that holds the study already.
        tables: as in `report`, and kept in the copy.
        figures: likewise.
        contrasts: likewise.

    Returns:
        The page.

    Raises:
        LabError: as in `report`; or `target` holds something else.
    """
    study = read_study(source)
    if target.exists() and any(target.iterdir()) and not _holds(target, study.name):
        raise LabError(f"{target} holds something other than the study {study.name}. Publish into a folder of its own.")
    content: dict[str, Any] = read_json(source / STUDY, "Run the sweep again; it keeps the runs.")
    content["study"] |= {
        kind: list(given)
        for kind, given in (("tables", tables), ("figures", figures), ("contrasts", contrasts))
        if given is not None
    }
    with atomic_path(target) as partial:
        for node in content["cells"]:
            run, node["folder"] = source / node["folder"], f"cells/{node['run_id']}"
            for name in (RECORD, FAILURE):
                if (run / name).is_file():
                    (partial / node["folder"]).mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(run / name, partial / node["folder"] / name)
        write_json(partial / STUDY, content)
        write_scores(partial, {cell["run_id"]: source / cell["folder"] for cell in study.cells})
        report(partial)
    return target / REPORT


def _holds(folder: Path, name: str) -> bool:
    """Whether a folder is that of a study of this name."""
    return (folder / STUDY).is_file() and read_study(folder).name == name


def report(
    folder: Path,
    *,
    tables: Sequence[Mapping[str, Any]] | None = None,
    figures: Sequence[Mapping[str, Any]] | None = None,
    contrasts: Sequence[Mapping[str, Any]] | None = None,
) -> Path:
    """Write `tables/`, `figures/` and `report.html` into a study's folder, each file whole or not at all.

    A table or figure that chooses among settings adds the table `<name>_chosen`, which lists every one that was tried.
    What the study says of its contrasts is the table `contrasts`, and what its runs spent the table `budgets`.

    All specifications are read, and all tables made, before the first file is written. Where no run is done yet there
    are no figures, and the tables say what is missing.

    Args:
        folder: of the study, with its `study.json`.
        tables: specifications; None for those of `study.json`.
        figures: likewise.
        contrasts: likewise. Each is said to be named when the study's sweep found it, word by word, in the study's
            file; one that no sweep found is said to be named now.

    Returns:
        The page.

    Raises:
        LabError: there is no study, a specification does not fit it, two have one name, or the disk refuses.
    """
    study, frame = read_study(folder), load(folder)
    of_tables = [parse(node, TableSpec) for node in (study.tables if tables is None else tables)]
    of_figures = [parse(node, FigureSpec) for node in (study.figures if figures is None else figures)]
    nodes = study.contrasts if contrasts is None else contrasts
    named = read_contrasts(nodes, study.name)
    searches: Searches = {}
    concluded = verdicts(frame, named, folder, searches, finished_before(study, nodes, frame))
    built = [build(frame, spec, folder, searches, concluded) for spec in of_tables]
    built += [build_search(frame, spec, folder, searches) for spec in _searches([*of_tables, *of_figures])]
    budgets = budget_sheet(frame)
    sheets = [*([contrast_sheet(concluded)] if concluded else []), budgets]
    _refuse_twins("table", [*(table.spec.name for table in built), *(sheet.name for sheet in sheets)])
    _refuse_twins("figure", [spec.name for spec in of_figures])
    drawable = of_figures if (frame["status"] == DONE).any() else []
    places = {spec.name: folder / "figures" / spec.name for spec in drawable}
    drawn = {spec.name: plot(frame, spec, places[spec.name], folder, searches) for spec in drawable}
    looks = {key: styles(frame, key) for key in choices(frame)}
    of_page = _write_tables(folder / "tables", built, sheets, looks)
    target = folder / REPORT
    method = method_of(frame)
    text = page(
        study,
        frame,
        of_page,
        {name: figure.svg for name, figure in drawn.items()},
        verdicts=concluded,
        budgets=sheet_html(budgets),
        answers=_answers(frame, [*of_tables, *of_figures], folder, searches),
        looks=looks.get(method, {}),
        options=read_options(config_dir()),
    )
    write_text(target, text)
    return target


def _write_tables(
    folder: Path, tables: Sequence[Table], sheets: Sequence[Sheet], looks: Mapping[str, Mapping[Any, Style]]
) -> list[PageTable]:
    """Write tables and sheets in every format, and return the tables as the page takes them."""
    of_page = []
    for table in tables:
        name, drawn = table.spec.name, html_table(table, looks)
        for suffix, written in TABLE_FORMATS.items():
            write_text(folder / f"{name}.{suffix}", written(table))
        write_text(folder / f"{name}.{HTML}", drawn)
        of_page.append(PageTable(drawn, f"Table {name}, {len(table.rows)} rows", len(table.rows) > UNFOLDED))
    for sheet in sheets:
        for suffix, put in SHEET_FORMATS.items():
            write_text(folder / f"{sheet.name}.{suffix}", put(sheet))
        write_text(folder / f"{sheet.name}.{HTML}", sheet_html(sheet))
    return of_page


def _answers(
    frame: pd.DataFrame, specs: Sequence[TableSpec | FigureSpec], folder: Path, searches: Searches
) -> SideBySide | None:
    """The answers of the policies that the first table or figure shows; None where nothing is shown."""
    for spec in specs[:1]:
        cells = select(frame, spec, folder, searches).frame
        metric = spec.metrics[0] if isinstance(spec, TableSpec) else spec.y
        return side_by_side(cells, method_of(frame), spec.choose.over if spec.choose else (), metric, folder)
    return None


def _searches(specs: Sequence[TableSpec | FigureSpec]) -> list[TableSpec | FigureSpec]:
    """The first specification of each search: a table and a figure of the same search list it once."""
    found: list[TableSpec | FigureSpec] = []
    for spec in specs:
        if spec.choose and (spec.choose, spec.where) not in [(other.choose, other.where) for other in found]:
            found.append(spec)
    return found


def _refuse_twins(what: str, names: Sequence[str]) -> None:
    """LabError where two would be one file."""
    if twins := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise LabError(f"Two {what}s are called {twins[0]}, and would be one file. Give one another name.")
