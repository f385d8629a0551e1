"""Which of lm-eval's tasks a run takes. All that can be wrong with them is found here, before a model is loaded."""

import contextlib
import functools
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kto_lab.errors import LabError

if TYPE_CHECKING:
    from datasets import Dataset

CHECKS, NEUTRAL = "kto_lab_checks", "kto_lab_neutral"
LOCAL_TASKS = (CHECKS, NEUTRAL)
AUTO: Literal["auto"] = "auto"
# What the turns of a prompt may be: lm-eval's task takes a system text, and one text to answer.
_TURNS = (["user"], ["system", "user"])


def tasks_for(
    asked: Sequence[str] | Literal["auto"], table_test: "Dataset", limit: int | None
) -> tuple[list[str], str]:
    """The tasks of a run on these held-out prompts.

    Args:
        asked: `evaluation.lm_eval`: names and files, which must all run, or "auto" for the local tasks that can.
        table_test: the held-out part of a table of examples.
        limit: documents per task, at most; None for all.

    Returns:
        The tasks, and a sentence on what "auto" left out, "" where it left out nothing.

    Raises:
        LabError: a task that was asked for is unknown, its data cannot be loaded, or these prompts do not fit it.
    """
    if asked == AUTO:
        hindrance = why_not_checks(table_test, limit)
        left_out = f"lm-eval leaves out {CHECKS}: {hindrance}." if hindrance else ""
        return [NEUTRAL] if hindrance else list(LOCAL_TASKS), left_out
    if CHECKS in asked:
        require_checks(table_test, limit)
    check_files(asked)
    if elsewhere := tuple(task for task in asked if task not in LOCAL_TASKS):
        _check_loads(elsewhere)
    return list(asked), ""


def require_checks(table_test: "Dataset", limit: int | None) -> None:
    """LabError where the task of the held-out checks cannot be made of these prompts; see `tasks_for`."""
    if hindrance := why_not_checks(table_test, limit):
        raise LabError(
            f"evaluation.lm_eval asks for {CHECKS}, and {hindrance}. Take it out of evaluation.lm_eval, or set "
            "evaluation.lm_eval=auto, which asks for it only where it can run. Checks of your own are mapped with "
            "feedback.columns.checks."
        )


def why_not_checks(table_test: "Dataset", limit: int | None) -> str:
    """Why the task of the held-out checks cannot be made of these prompts, "" where it can."""
    rows = checked_rows(table_test, limit)
    if not rows:
        return "no held-out prompt has checks"
    prompts = table_test["prompt"]
    for row in rows:
        turns = None if isinstance(prompts[row], str) else [message["role"] for message in prompts[row]]
        if turns is not None and turns not in _TURNS:
            return (
                f"a held-out prompt has the turns {', '.join(turns)}, where it takes one user turn after at most a "
                "system turn"
            )
        if turns is not None and any(message.get("tools") for message in prompts[row]):
            return "a held-out prompt has tools, which lm-eval does not hand to the chat template"
    return ""


def checked_rows(table_test: "Dataset", limit: int | None) -> list[int]:
    """Rows of the held-out prompts that have checks, one per prompt, as for greedy answers; see `select_prompts`.

    Args:
        table_test: the held-out part of a table of examples.
        limit: how many, at most; None for all.
    """
    # Imported here: it brings torch, and a mistyped setting should show before.
    from kto_lab.evaluation.answers import select_prompts

    rows = [row for row, checks in enumerate(table_test["checks"][:]) if checks]
    return [rows[place] for place in select_prompts(table_test.select(rows), len(rows) if limit is None else limit)]


def is_file(task: str) -> bool:
    """Whether a task is named by its file."""
    return task.endswith((".yaml", ".yml"))


def check_files(tasks: Sequence[str]) -> None:
    """LabError where a task is named by a file that is not there."""
    for task in tasks:
        if is_file(task) and not Path(task).is_file():
            raise LabError(f"evaluation.lm_eval names the file {task}, which is not there. Mend its path.")


@functools.cache
def task_manager(defaults: bool) -> Any:
    """lm-eval's index of tasks: with its own or without. To index those, 14,000, takes 12 seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=defaults)


def manager_for(tasks: Sequence[str]) -> Any:
    """The index that these tasks need; local ones are named by their files where they are run."""
    return task_manager(defaults=any(task not in LOCAL_TASKS and not is_file(task) for task in tasks))


# Once a process: the cells of a sweep ask for the same tasks.
@functools.cache
def _check_loads(tasks: tuple[str, ...]) -> None:
    """Load tasks and their data, as lm-eval will when it runs them; the data stays in the cache of `datasets`."""
    import yaml
    from datasets.exceptions import DatasetsError

    with printing_to(Path(os.devnull)):
        manager = manager_for(tasks)
        names = set(manager.all_tasks)
    if unknown := [task for task in tasks if not is_file(task) and task not in names]:
        raise LabError(
            f"There is no lm-eval task {unknown[0]!r}. `lm-eval ls tasks` lists its own; the local ones are "
            f"{', '.join(LOCAL_TASKS)}; a task file ends in .yaml. Mend evaluation.lm_eval."
        )
    try:
        with printing_to(Path(os.devnull)):
            manager.load(list(tasks))
    # What stands in a user's file reaches lm-eval unchecked: it fails in any of these ways.
    except (
        OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError, AssertionError,
        DatasetsError, yaml.YAMLError,
    ) as error:  # fmt: skip
        raise LabError(
            f"lm-eval could not load {', '.join(tasks)} of evaluation.lm_eval: {type(error).__name__}: {error}. Most "
            f"of its tasks load their data from the Hugging Face hub; the local ones are {', '.join(LOCAL_TASKS)}."
        ) from error


@contextlib.contextmanager
def printing_to(log: Path) -> Iterator[None]:
    """Send what lm-eval and its libraries print to a file: their bars would tear up ours."""
    logger = logging.getLogger("lm_eval")
    with log.open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        handler = logging.StreamHandler(file)
        logger.addHandler(handler)
        propagate, logger.propagate = logger.propagate, False
        # lm-eval asks git for a commit, and git complains on the process's own stderr where there is none.
        stderr = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            logger.removeHandler(handler)
            logger.propagate = propagate
