"""The command `kto-lab feedback collect`."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
from hydra.utils import instantiate
from omegaconf import DictConfig

from kto_lab import narration
from kto_lab.configuration import check_keys
from kto_lab.errors import LabError
from kto_lab.feedback.collect import Sampling, collect, words
from kto_lab.feedback.prompts import CheckedPrompt
from kto_lab.feedback.table import build_table, require_share
from kto_lab.feedback.table_numbers import class_counts
from kto_lab.files import atomic_path
from kto_lab.keys import COLLECT
from kto_lab.models.tokens import Encoder


def collect_feedback(cfg: DictConfig) -> Path:
    """Sample answers, judge them, write the table as Parquet, and say what is in it.

    Raises:
        LabError: the file exists, or something else that a person can mend; see its message.
    """
    check_keys(cfg, COLLECT)
    target = Path(cfg.output)
    if target.exists():
        raise LabError(f"{target} exists. Choose another output, or remove it to collect again.")
    require_share(cfg.held_out, "held_out")
    prompts: Sequence[CheckedPrompt] = list(instantiate(cfg.prompts))
    sampling: Sampling = instantiate(cfg.sampling)
    device = instantiate(cfg.trainer).device
    narration.stage("Policy", "The model whose answers are judged.")
    loaded = instantiate(cfg.model)
    narration.say(f"    {loaded.provenance['name']}")
    narration.stage("Collection", "Each finished block of answers is kept, so this can be stopped and resumed.")
    shards = target.with_suffix(".shards")
    with narration.progress("prompts", len(prompts)) as advance:
        rows = collect(
            loaded.model.to(device),
            Encoder.of(loaded),
            prompts,
            sampling,
            shards,
            provenance=loaded.provenance,
            advance=advance,
        )
    said = [row for row in rows if words(row).strip()]
    table = build_table(said, source=target.stem, held_out=cfg.held_out)
    with atomic_path(target) as partial:
        pq.write_table(table.data.table, partial, write_page_checksum=True)
    shutil.rmtree(shards)
    narration.say(f"    {len(rows)} answers to {len(prompts)} prompts; {len(rows) - len(said)} empty answers left out")
    for split, count in class_counts(table).items():
        labels = f"{count['desirable']} desirable, {count['undesirable']} undesirable"
        narration.say(f"    {split:<5}  {count['prompts']} prompts, {labels}")
    narration.say(f"    written to {target}; train on it with feedback=collected feedback.path={target}")
    return target
