"""What a study's tables and figures are to show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from kto_lab.errors import LabError
from kto_lab.evaluation.metrics import is_declared
from kto_lab.files import is_name
from kto_lab.sweeps.contrasts import Choose, check_choosing, check_keys

KINDS = ("line", "heatmap", "frontier", "seeds")
Spec = TypeVar("Spec", "TableSpec", "FigureSpec")


@dataclass(frozen=True)
class TableSpec:
    """A table.

    Attributes:
        name: of its files.
        rows: choices whose values make its rows.
        metrics: columns of a frame, each a column of the table.
        columns: a choice whose values split each metric's column, or None.
        baseline: choice to value; each cell is compared with the one that has these values and else its own.
        caption: its first sentence, for a reader.
        where: choice to the value, or list of values, that cells must have to be shown.
        choose: what is searched over; None where every cell is shown.
    """

    name: str
    rows: Sequence[str]
    metrics: Sequence[str]
    columns: str | None = None
    baseline: Mapping[str, Any] | None = None
    caption: str = ""
    where: Mapping[str, Any] | None = None
    choose: Choose | None = None

    def __post_init__(self) -> None:
        """Refuse a table without rows or metrics, and one split by what is searched over."""
        keys = [*self.rows, *([self.columns] if self.columns else [])]
        if not self.rows or not self.metrics or isinstance(self.rows, str) or isinstance(self.metrics, str):
            raise LabError(f"table {self.name}: rows and metrics are lists that name at least one each.")
        if strange := [key for key in self.baseline or {} if key not in keys]:
            raise LabError(
                f"table {self.name}: the baseline names {strange[0]!r}, which is neither a row nor a column."
            )
        _check_search(self.what, self.choose, keys)

    @property
    def what(self) -> str:
        """What it is called in messages."""
        return f"table {self.name}"


@dataclass(frozen=True)
class FigureSpec:
    """A figure.

    Attributes:
        name: of its files.
        kind: `line` (metric y against choice x, a band over seeds), `heatmap` (metric y in numbers, choice x across and
            choice `line` down), `frontier` (metric y against metric x, a point a run), or `seeds` (metric y of each
            run, choice x across).
        y: a metric.
        x: a choice; for a frontier a metric.
        line: the choice that tells lines or markers apart.
        log_x: whether the axis of x is logarithmic.
        x_label: what is written at it; "" for the name of x.
        where: as a table's.
        choose: as a table's.
    """

    name: str
    kind: str
    y: str
    x: str
    line: str = "arm"
    log_x: bool = False
    x_label: str = ""
    where: Mapping[str, Any] | None = None
    choose: Choose | None = None

    def __post_init__(self) -> None:
        """Refuse a kind that there is not, and a figure split by what is searched over."""
        if self.kind not in KINDS:
            raise LabError(f"figure {self.name}: there is no kind {self.kind!r}. Kinds are {', '.join(KINDS)}.")
        _check_search(self.what, self.choose, [self.x, self.line])

    @property
    def what(self) -> str:
        """What it is called in messages."""
        return f"figure {self.name}"

    @property
    def metrics(self) -> Sequence[str]:
        """The metrics that it shows."""
        return [self.y, *([self.x] if self.kind == "frontier" else [])]


def parse(node: Mapping[str, Any], spec: type[Spec]) -> Spec:
    """A specification from `study.json`.

    Raises:
        LabError: a key is missing or unknown, or a value does not fit.
    """
    what = f"{'table' if spec is TableSpec else 'figure'} {node.get('name', 'without a name')}"
    check_keys(what, node, spec)
    if not is_name(node["name"]):
        raise LabError(f"{what}: a name is that of a file, and has no slash. Use letters, digits, '_', '-' and '.'.")
    if node.get("where") is not None and not isinstance(node["where"], Mapping):
        raise LabError(f"{what}: where is a mapping of choices to values, as {{arm: [kto, dpo]}}.")
    if node.get("choose") is None:
        return spec(**node)
    check_keys(f"{what}, choose", node["choose"], Choose)
    return spec(**{**node, "choose": Choose(**node["choose"])})


def _check_search(what: str, search: Choose | None, keys: Sequence[str]) -> None:
    """LabError where a search names nothing, splits what is shown, or has no better side."""
    if search is None:
        return
    if isinstance(search.over, str) or not search.over:
        raise LabError(f"{what}: choose.over is a list that names at least one choice.")
    if split := [key for key in search.over if key in keys]:
        raise LabError(f"{what}: {split[0]!r} is searched over, so it can be neither row, column, line nor axis.")
    # Others may be declared by the records.
    if is_declared(search.by):
        check_choosing(what, search.by)


def shown(value: Any) -> str:
    """A choice's value for a reader."""
    if value is None:
        return "–"
    return f"{value:g}" if isinstance(value, float) else str(value)
