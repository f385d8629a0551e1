"""What a study's tables and figures are to show, and how metrics are named and read."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, TypeVar

from kto_lab.errors import LabError
from kto_lab.summary import LABELS

KINDS = ("line", "heatmap", "frontier", "seeds")
# By the last part of a metric's name. What is in neither (lengths, KL, costs) has no better side and is never bold.
HIGHER = (
    "pass_rate",
    "sentiment",
    "finished",
    "reward_accuracy",
    "reward_auc",
    "pair_accuracy",
    "acc",
    "acc_norm",
    "exact_match",
)
LOWER = ("word_perplexity", "byte_perplexity", "bits_per_byte", "perplexity")
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
    """

    name: str
    rows: Sequence[str]
    metrics: Sequence[str]
    columns: str | None = None
    baseline: Mapping[str, Any] | None = None
    caption: str = ""

    def __post_init__(self) -> None:
        """Refuse a table without rows or metrics."""
        keys = [*self.rows, *([self.columns] if self.columns else [])]
        if not self.rows or not self.metrics or isinstance(self.rows, str) or isinstance(self.metrics, str):
            raise LabError(f"table {self.name}: rows and metrics are lists that name at least one each.")
        if strange := [key for key in self.baseline or {} if key not in keys]:
            raise LabError(
                f"table {self.name}: the baseline names {strange[0]!r}, which is neither a row nor a column."
            )


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
    """

    name: str
    kind: str
    y: str
    x: str
    line: str = "arm"
    log_x: bool = False

    def __post_init__(self) -> None:
        """Refuse a kind that there is not."""
        if self.kind not in KINDS:
            raise LabError(f"figure {self.name}: there is no kind {self.kind!r}. Kinds are {', '.join(KINDS)}.")


def parse(node: Mapping[str, Any], spec: type[Spec]) -> Spec:
    """A specification from `study.json`.

    Raises:
        LabError: a key is missing or unknown, or a value does not fit.
    """
    what = f"{'table' if spec is TableSpec else 'figure'} {node.get('name', 'without a name')}"
    known = {one.name: one.default is MISSING for one in fields(spec)}
    if unknown := sorted(node.keys() - known.keys()):
        raise LabError(f"{what}: the key {unknown[0]!r} is unknown. Keys are {', '.join(known)}.")
    if missing := [name for name, required in known.items() if required and name not in node]:
        raise LabError(f"{what}: the key {missing[0]!r} is missing.")
    if "/" in str(node["name"]):
        raise LabError(f"{what}: a name is that of a file, and has no slash.")
    return spec(**node)


def label(metric: str) -> str:
    """A metric for a reader: "pass rate", "pass rate, base"."""
    for end, words in (("_base", ", base"), ("_difference", ", trained - base"), ("_detectable", ", detectable")):
        if metric.endswith(end):
            return label(metric.removesuffix(end)) + words
    return LABELS.get(metric, metric.replace("_", " "))


def higher_is_better(metric: str) -> bool | None:
    """Whether more of it is better, less is (False), or neither (None)."""
    name = metric.rsplit(".", 1)[-1].removesuffix("_difference")
    return True if name in HIGHER else False if name in LOWER else None


def shown(value: Any) -> str:
    """A choice's value for a reader."""
    if value is None:
        return "–"
    return f"{value:g}" if isinstance(value, float) else str(value)
