"""What a result is computed with does not import what cannot change it."""

import re
from collections.abc import Iterator
from itertools import pairwise

import grimp
import pytest
from omegaconf import DictConfig, OmegaConf

from kto_lab import cli
from kto_lab.keys import TRAIN

# Nodes of a run's configuration that cannot change its result.
FREE = {"logger", "reference_store"}
# Groups of `conf/` that put a node inside one of the configuration's.
INSIDE = {"value", "reference_point", "weighting", "judge"}
OUTSIDE = (
    r"kto_lab\.(console|cache|cli|commands|completion|crash|log_file|messages|usage)",
    r"kto_lab\.(importing|labeling|auditing|sweeps|reports|checking)(\..*)?",
    r"kto_lab\.feedback\.(command|inspect.*)",
    r"kto_lab\.models\.store(_disk|_shards)?",
    r"kto_lab\.runs\.(command|environment|evaluate|job|lease|prompt_scores|scores|status|summary|wandb_log)",
    r"kto_lab\.training\.(curves|loggers)",
    r"rich|matplotlib|wandb",
)


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """Every import of the package, those inside functions too, those for type checkers alone not."""
    return grimp.build_graph(
        "kto_lab", include_external_packages=True, exclude_type_checking_imports=True, cache_dir=None
    )


def targets(node: object) -> Iterator[str]:
    """What the nodes of a configuration name."""
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield str(node["_target_"])
        for _, child in node.items_ex(resolve=False):
            yield from targets(child)


def made_by_a_run(graph: grimp.ImportGraph) -> set[str]:
    """The modules of all that a run's configuration can name, with a shipped option of each group."""
    groups = (set(TRAIN) | INSIDE) - FREE
    files = [file for group in groups for file in sorted((cli.config_dir() / group).glob("*.yaml"))]
    named = {target for file in files for target in targets(OmegaConf.load(file))}
    modules = {max((m for m in graph.modules if f"{name}.".startswith(f"{m}.")), key=len) for name in named}
    assert {"kto_lab.judging.reward", "kto_lab.losses", "kto_lab.models.load", "kto_lab.feedback.file"} <= modules
    return modules


@pytest.mark.parametrize("outside", OUTSIDE)
def test_a_run_does_not_import_what_cannot_change_its_result(graph: grimp.ImportGraph, outside: str) -> None:
    apart = {module for module in graph.modules if re.fullmatch(outside, module)}
    assert apart
    for start in {"kto_lab.runs.train"} | made_by_a_run(graph):
        for module in apart & graph.find_upstream_modules(start):
            chain = graph.find_shortest_chain(start, module)
            assert chain is not None
            pytest.fail("\n".join(f"{importer} imports {imported}" for importer, imported in pairwise(chain)))
