"""A finished run's results for its loggers: summary with intervals; for W&B also tables, curves and artifacts."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from kto_lab.evaluation.metrics import label, learn, metric_of
from kto_lab.runs.columns import column
from kto_lab.training.local_loggers import TrackioLogger

if TYPE_CHECKING:
    import wandb

ESTIMATE = {"value", "low", "high", "n"}
Rows = Sequence[Mapping[str, Any]]


@rank_zero_only
def finish(
    loggers: Iterable[Logger],
    record: Mapping[str, Any],
    *,
    tables: Mapping[str, Rows],
    curves: Path | None,
    artifacts: Sequence[Path] = (),
) -> None:
    """Hand a finished run to its loggers, and close them.

    Args:
        loggers: the run's; W&B's get all that follows, others the final metrics with their intervals.
        record: the run's record, as `read_record` returns it. Every metric becomes `<metric>`, `<metric>_low` and
            `<metric>_high` in the summary (what is None is left out), and a row of the table `metrics`, which also has
            its label and better side. Names are those of a report's columns.
        tables: further tables by name, such as sample answers; each row maps columns to plain values.
        curves: the picture of the training curves.
        artifacts: files and folders that W&B keeps, too.
    """
    learn([record["declared"]])
    estimates = dict(flat_estimates(record["metrics"]))
    for logger in loggers:
        if not isinstance(logger, WandbLogger):
            _finish_local(logger, {f"final/{name}": number for name, number in _summary(estimates).items()})
            continue
        run = logger.experiment
        # "model" is a node of the configuration, and W&B refuses a second value for a key.
        found = {"environment": record["environment"], "data": record["data"], "provenance": record["model"]}
        run.config.update(found)
        run.summary.update(_summary(estimates))
        results = [
            {"metric": name, "label": label(name), "better": metric_of(name).better, **estimate}
            for name, estimate in estimates.items()
        ]
        media: dict[str, Any] = {name: table(rows) for name, rows in {"metrics": results, **tables}.items() if rows}
        if curves is not None:
            # Imported here because it takes a second, and the default logger does without.
            import wandb

            media["curves"] = wandb.Image(str(curves))
        run.log(media)
        for artifact in artifacts:
            log_artifact(run, artifact, record["run_id"])
        run.finish()


def _finish_local(logger: Logger, final: dict[str, float]) -> None:
    """Give the final metrics to a logger that keeps them on this machine, and close it."""
    logger.log_metrics(final)
    logger.finalize("success")
    if isinstance(logger, TrackioLogger):
        logger.close()


def log_artifact(run: Any, path: Path, run_id: str) -> None:
    """Hand a file or a folder to W&B as an artifact.

    Args:
        run: W&B's run.
        path: a folder, which is a policy, or a file.
        run_id: whose it is; with what it is, this names the artifact.
    """
    import wandb

    kind = "model" if path.is_dir() else "report"
    artifact = wandb.Artifact(f"{path.stem}-{run_id}", type=kind, metadata={"run_id": run_id})
    if path.is_dir():
        artifact.add_dir(str(path))
    else:
        artifact.add_file(str(path))
    run.log_artifact(artifact)


def flat_estimates(
    metrics: Mapping[str, Any], place: tuple[str, ...] = ("metrics",)
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The estimates of a record's nested metrics, each with its name as a column of a report.

    Args:
        metrics: those of a record, or a part of them.
        place: its place in the record.
    """
    for name, value in metrics.items():
        if isinstance(value, Mapping) and value.keys() == ESTIMATE:
            yield column((*place, name, "value")), dict(value)
        elif isinstance(value, Mapping):
            yield from flat_estimates(value, (*place, name))


def _summary(estimates: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    ends = {"value": "", "low": "_low", "high": "_high"}
    return {
        name + suffix: estimate[end]
        for name, estimate in estimates.items()
        for end, suffix in ends.items()
        if estimate[end] is not None
    }


def table(rows: Rows) -> "wandb.Table":
    """Rows as a W&B table: a column for each key, None where a row lacks it; a column may mix texts and numbers."""
    import wandb

    columns: list[str | int] = list(dict.fromkeys(column for row in rows for column in row))
    data = [[row.get(str(column)) for column in columns] for row in rows]
    return wandb.Table(columns=columns, data=data, allow_mixed_types=True)
