"""A study's report: its tables in four formats, its figures in two, and one page with all of it that stands alone."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from kto_lab import console
from kto_lab.configuration import check_keys
from kto_lab.errors import LabError
from kto_lab.files import write_text
from kto_lab.studies.figures import FORMATS, plot
from kto_lab.studies.frame import DONE, load, read_study
from kto_lab.studies.report_page import page
from kto_lab.studies.specs import FigureSpec, TableSpec, parse
from kto_lab.studies.table_formats import comma_separated, html_table, latex, markdown
from kto_lab.studies.tables import Table, build

KEYS = ("study", "runs_dir", "folder")
REPORT = "report.html"
# Suffix to what writes it.
TABLE_FORMATS: dict[str, Callable[[Table], str]] = {
    "md": markdown,
    "tex": latex,
    "csv": comma_separated,
    "html": html_table,
}


def report_study(cfg: DictConfig) -> Path:
    """`kto-lab report`: the report of a study that was swept, or of a folder that holds one.

    Raises:
        LabError: something that a person can mend; see its message.
    """
    # Without the study: what it interpolates is of its cells' configuration.
    check_keys(OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "study"]), KEYS)
    study: Any = OmegaConf.to_container(cfg.study, resolve=False) if "study" in cfg else None
    if (study is None) == (cfg.folder is None):
        raise LabError("Say which study to report: kto-lab report study=<name>, or folder=<where its study.json is>.")
    folder = Path(cfg.folder) if study is None else Path(cfg.runs_dir) / "studies" / study["name"]
    target = report(folder, tables=study and study.get("tables"), figures=study and study.get("figures"))
    console.stage("Report", "Tables and figures of the runs that are done; what is missing is said in them.")
    console.show_files({"page": target, "tables": folder / "tables", "figures": folder / "figures"})
    return target


def report(
    folder: Path,
    *,
    tables: Sequence[Mapping[str, Any]] | None = None,
    figures: Sequence[Mapping[str, Any]] | None = None,
) -> Path:
    """Write `tables/`, `figures/` and `report.html` into a study's folder, each file whole or not at all.

    All specifications are read, and all tables made, before the first file is written. Where no run is done yet there
    are no figures, and the tables say what is missing.

    Args:
        folder: of the study, with its `study.json`.
        tables: specifications; None for those of `study.json`.
        figures: likewise.

    Returns:
        The page.

    Raises:
        LabError: there is no study, a specification does not fit it, or the disk refuses.
    """
    study, frame = read_study(folder), load(folder)
    built = [build(frame, parse(node, TableSpec), folder) for node in (study.tables if tables is None else tables)]
    asked = study.figures if figures is None else figures
    specs = [parse(node, FigureSpec) for node in asked] if (frame["status"] == DONE).any() else []
    drawn = {spec.name: plot(frame, spec, folder / "figures" / spec.name) for spec in specs}
    for table in built:
        for suffix, written in TABLE_FORMATS.items():
            write_text(folder / "tables" / f"{table.spec.name}.{suffix}", written(table))
    pictures = {name: files[FORMATS.index("png")] for name, files in drawn.items()}
    target = folder / REPORT
    write_text(target, page(study, frame, [html_table(table) for table in built], pictures))
    return target
