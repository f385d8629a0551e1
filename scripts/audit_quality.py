"""How well `kto-lab feedback audit` finds wrong thumbs, and how far its flip rates are off, where the truth is known.

    python scripts/audit_quality.py instruction_checks   # injected flips, no policy is trained
    python scripts/audit_quality.py arithmetic           # injected flips, the tiny policy is trained for each fold
    python scripts/audit_quality.py movie_ratings        # single raters against the consensus; fetches the ratings
    python scripts/audit_quality.py training             # which reading of a run's rewards finds flips best
    python scripts/audit_quality.py tables               # results/feedback/audit/README.md

Each part writes results/feedback/audit/<part>.json. A cell is one draw of flips (`corruption.seed`); its intervals are
bootstraps over prompts. Tables have the mean over the draws of values and of interval ends alike.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from hydra import compose, initialize_config_dir
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig
from scipy import stats

from kto_lab.auditing.audit import Audit, Settings, audit
from kto_lab.auditing.bounds import Bounds, judge, upper_ends
from kto_lab.auditing.combined import combine
from kto_lab.auditing.command import read_table, recipe_of
from kto_lab.auditing.examples import Bools, Examples, Floats, Ints, make_folds
from kto_lab.auditing.measured import measure_found
from kto_lab.auditing.rates import of_combined
from kto_lab.auditing.signals import Signal
from kto_lab.auditing.training import Recipe, of_rewards
from kto_lab.cli import config_dir
from kto_lab.feedback.corruption import Corrupted
from kto_lab.feedback.table_numbers import flip_rates
from kto_lab.files import write_json, write_text
from kto_lab.models.exact_rows import find_exact_rows
from kto_lab.models.reference import ReferencePolicy
from kto_lab.models.store_scorer import score_and_keep
from kto_lab.models.tokens import Encoder
from kto_lab.statistics import Estimate
from kto_lab.training.data import prepare
from kto_lab.training.fit import fit

RESULTS = Path(__file__).resolve().parent.parent / "results" / "feedback" / "audit"
RATES = ((0.2, 0.2), (0.4, 0.4), (0.05, 0.05), (0.05, 0.3), (0.1, 0.1))
# A run of the tiny policy at the settings at which thumbs tell most (see conf/scale/tiny.yaml).
TINY = [
    *("feedback=arithmetic", "model=tiny", "trainer=cpu", "loss.beta=5", "optimization.learning_rate=2e-4"),
    *("optimization.batch_size=32", "optimization.max_steps=150", "optimization.epochs=20"),
    "optimization.micro_batch_tokens=8192",
]
INSTRUCTIONS = ["feedback=instruction_checks", "feedback.train_prompts=null"]
TEXT = ["out_of_fold", "raters", "contradiction"]
MEASURES = {"auc": "AUC", "precision": "precision at k", "precision_first": "precision at 50"}


def main() -> None:
    """Measure one part."""
    parts: dict[str, Callable[[int], None]] = {
        "instruction_checks": lambda seeds: injected("instruction_checks", INSTRUCTIONS, TEXT, seeds),
        "arithmetic": lambda seeds: injected("arithmetic", TINY, ["out_of_fold", "training", *TEXT[1:]], seeds),
        "movie_ratings": movie_ratings,
        "training": lambda seeds: readings(),
        "tables": lambda seeds: write_page(),
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=parts)
    parser.add_argument("--seeds", type=int, default=3, help="draws of flips a rate")
    arguments = parser.parse_args()
    parts[arguments.part](arguments.seeds)


def composed(words: Sequence[str]) -> DictConfig:
    """The configuration of an audit."""
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose("audit", [*words, "hydra.run.dir=."])


def injected(name: str, words: Sequence[str], signals: Sequence[str], seeds: int) -> None:
    """Flips at each of RATES, by seeds; finished cells are kept."""
    for seed in range(seeds):
        for down, up in RATES:
            noise = ["corruption=label_noise_by_class", f"corruption.rate_desirable={down}"]
            noise += [f"corruption.rate_undesirable={up}", f"corruption.seed={seed}"]
            measure(name, {"rate_desirable": down, "rate_undesirable": up, "seed": seed}, [*words, *noise], signals)


def movie_ratings(seeds: int) -> None:
    """One rater's thumb a text; five; and one with all ratings of the text known."""
    for seed in range(seeds):
        base = ["feedback=movie_ratings", f"feedback.seed={seed}"]
        measure("movie_ratings", {"thumbs": "one", "seed": seed}, base, ["out_of_fold"], forget=("ratings",))
        five = [*base, "feedback.max_ratings_per_text=5"]
        measure("movie_ratings", {"thumbs": "five", "seed": seed}, five, TEXT[:2], forget=("ratings",))
        unnamed = {"thumbs": "five, not named", "seed": seed}
        measure("movie_ratings", unnamed, five, TEXT[:2], forget=("ratings", "rater"))
        measure("movie_ratings", {"thumbs": "one, ratings known", "seed": seed}, base, TEXT[:2])


def measure(
    name: str, cell: Mapping[str, Any], words: Sequence[str], signals: Sequence[str], *, forget: Sequence[str] = ()
) -> None:
    """Audit one table, and add what was found to the part's file, where it is not there already."""
    target = RESULTS / f"{name}.json"
    cells = json.loads(target.read_text()) if target.exists() else []
    if any(all(one[key] == value for key, value in cell.items()) for one in cells):
        return
    begun = time.perf_counter()
    cfg = composed(words)
    table = without(read_table(cfg), forget)
    recipe = recipe_of(cfg) if "training" in signals else None
    result = audit(table, Settings(list(signals), cfg.folds, cfg.near_duplicates, cfg.seed), recipe)
    wrong = result.examples.labels != np.array(table["desirable_clean"][:], dtype=bool)
    truth = flip_rates(table)
    assert truth is not None
    rates = {one.method: one.as_dict() for one in result.rates}
    without_training = [signal for signal in result.signals if signal.name != "training"]
    suspicions = ways(result, cfg)
    if len(without_training) < len(result.signals):
        known = next((one.values for one in result.rates if one.method == "raters"), None)
        again = combine(without_training, result.examples, known=known, seed=cfg.seed)
        suspicions["combined, without training"] = again.suspicion
        folds = make_folds(result.examples, cfg.folds, seed=cfg.seed)
        score = judge(without_training, result.examples.labels, folds)
        ends = upper_ends(score, result.examples.labels, result.examples.prompt_numbers)
        bounds = Bounds(Estimate(None, None, None, 0), *ends)
        rates["noise_aware, without training"] = of_combined(again, bounds, result.examples).as_dict()
    scores = {
        way: measure_found(values, wrong, result.examples, seed=0).as_dict() for way, values in suspicions.items()
    }
    cells.append(
        {
            **cell,
            "overrides": list(words),
            "examples": len(table),
            "wrong": int(wrong.sum()),
            "truth": {"desirable": truth[0], "undesirable": truth[1]},
            "found": scores,
            "rates": rates,
            "flagged_by_cleanlab": None if result.flagged is None else int(result.flagged.sum()),
            "flagged_and_wrong": None if result.flagged is None else int((result.flagged & wrong).sum()),
            "seconds": round(time.perf_counter() - begun),
        }
    )
    write_json(target, cells)
    print({**cell, **{way: round(score["auc"]["value"], 3) for way, score in scores.items()}}, flush=True)


def without(table: Dataset, columns: Sequence[str]) -> Dataset:
    """The table without what is not to be known: `ratings` is optional, `rater` may be null."""
    if "ratings" in columns:
        table = table.remove_columns("ratings")
    if "rater" in columns:
        features = table.features
        table = table.map(lambda row: {"rater": None}, features=features)
    return table


def ways(result: Audit, cfg: DictConfig) -> dict[str, Floats]:
    """Suspicions of each signal, of what the audit makes of them, and of two other ways to put them together."""
    labels, signals = result.examples.labels, result.signals
    folds = make_folds(result.examples, cfg.folds, seed=cfg.seed)
    return {
        **{signal.name: signal.suspicion(labels) for signal in signals},
        "combined": result.combined.suspicion,
        "mean rank": mean_rank(signals, labels),
        "stacked": stacked(signals, labels, folds),
    }


def mean_rank(signals: Sequence[Signal], labels: Bools) -> Floats:
    """(N,) the mean, over the signals that can say, of an example's rank among their suspicions, from 0 to 1."""
    total, voices = np.zeros(len(labels)), np.zeros(len(labels))
    for signal in signals:
        known = signal.known
        total[known] += stats.rankdata(signal.suspicion(labels)[known]) / known.sum()
        voices += known
    return np.divide(total, voices, out=np.full(len(labels), 0.5), where=voices > 0)


def stacked(signals: Sequence[Signal], labels: Bools, folds: Ints) -> Floats:
    """(N,) the probability of the other label, by a plain logistic regression on the signals, out of fold."""
    from sklearn.linear_model import LogisticRegression

    silent = [~signal.known for signal in signals if not signal.known.all()]
    features = np.stack([*(signal.logits for signal in signals), *silent], axis=-1).astype(np.float64)
    up = np.zeros(len(labels))
    for fold in np.unique(folds):
        inside, outside = folds == fold, folds != fold
        model = LogisticRegression(C=1.0, max_iter=500).fit(features[outside], labels[outside])
        up[inside] = model.predict_proba(features[inside])[:, 1]
    return np.where(labels, 1 - up, up)


class Watch(Logger):
    """Calls a function after some optimiser steps: Lightning tells its loggers of each."""

    name = "watch"
    version = 0

    def __init__(self, steps: Sequence[int], function: Callable[[int], None]) -> None:
        """Call `function` with the number of the step after each of `steps`."""
        super().__init__()
        self.steps, self.function = set(steps), function

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """A step has been made."""
        if step in self.steps:
            self.function(step)


def readings() -> None:
    """Rewards over the steps of a run, of the examples it is trained on and of folds left out, on arithmetic."""
    cells = []
    for rate in (0.4, 0.2):
        for steps in (50, 150):
            noise = ["corruption=label_noise", f"corruption.rate={rate}", f"optimization.max_steps={steps}"]
            cfg = composed([*TINY, *noise])
            table = read_table(cfg)
            examples = Examples.of(table)
            wrong = examples.labels != np.array(table["desirable_clean"][:], dtype=bool)
            folds, recipe = make_folds(examples, cfg.folds, seed=cfg.seed), recipe_of(cfg)
            at = [steps * part // 5 for part in range(1, 6)]
            everything = np.arange(len(table))
            seen = rewards_at(at, table, everything, everything, recipe)
            unseen = np.zeros_like(seen)
            for fold in range(cfg.folds):
                inside = np.flatnonzero(folds == fold)
                unseen[:, inside] = rewards_at(at, table, np.flatnonzero(folds != fold), inside, recipe)
            cell: dict[str, Any] = {"rate": rate, "steps": steps, "at": at}
            for name, rewards, parts in (("seen", seen, np.zeros_like(folds)), ("unseen", unseen, folds)):
                for place, values in zip([*map(str, at), "mean"], [*rewards, rewards.mean(axis=0)], strict=True):
                    suspicion = of_rewards(values, examples.labels, parts).suspicion(examples.labels)
                    cell[f"{name} {place}"] = measure_found(suspicion, wrong, examples, seed=0).as_dict()
            cells.append(cell)
            write_json(RESULTS / "training.json", cells)
            print({key: round(value["auc"]["value"], 3) for key, value in cell.items() if isinstance(value, dict)})


def rewards_at(steps: Sequence[int], table: Dataset, train: Ints, score: Ints, recipe: Recipe) -> Floats:
    """(len(steps), len(score)) log-ratios of some examples after some steps of training on others."""
    import lightning.pytorch as pl

    loaded = recipe.load()
    pl.seed_everything(recipe.seed, verbose=False)
    policy = recipe.adapter.attach(loaded.model)
    encoder = Encoder.of(loaded, recipe.lengths)
    shared = find_exact_rows(loaded.model, longest=2 * recipe.lengths.max_length).shared
    data = prepare(Corrupted(table.select(train), ()), encoder, recipe.objective, recipe.optimization, seed=recipe.seed)
    tokens = encoder.encode_table(table.select(score)).tokens

    def logps() -> Floats:
        budget = recipe.optimization.micro_batch_tokens
        found = score_and_keep(
            policy,
            tokens,
            None,
            pad_id=encoder.pad_id,
            token_budget=budget,
            share_prompts=shared,
            advance=lambda n: None,
        )
        return found.numpy().astype(np.float64)

    before, after = logps(), {}
    with tempfile.TemporaryDirectory() as folder:
        fit(
            policy,
            data,
            recipe.objective,
            recipe.optimization,
            recipe.update_rule,
            ReferencePolicy(load=lambda: policy, inside=True),
            recipe.hardware,
            folder=Path(folder),
            loggers=[Watch(steps, lambda step: after.update({step: logps() - before}))],
            share_prompts=shared,
            seed=recipe.seed,
        )
    return np.stack([after[step] for step in steps])


INTRODUCTION = """# How well an audit finds wrong thumbs

`kto-lab feedback audit` on tables whose true labels are known. Written by `python scripts/audit_quality.py tables` from
the files beside this page, which the other parts of the script make; each cell there holds its overrides. On
`arithmetic` and `instruction_checks` thumbs of the training split are flipped at stated rates (down on good answers /
up on bad ones); on `movie_ratings` the label is one rater's, and the truth the sign of the mean of 15 to 20. An
interval is a bootstrap over prompts (95 %); where there are several draws, values and ends are their means. The audit
never reads the true labels.

- AUC: the chance that a wrong label is doubted more than a right one. Precision at k: the share of wrong labels among
  the k most doubtful; k is the number of wrong ones, then 50.
- `out_of_fold`, `training`, `raters`, `contradiction`: each signal alone; a signal that is silent on an example doubts
  it by 1/2. `combined` is what the audit ranks by; `mean rank` and `stacked` (logistic regression on the given labels)
  are two other ways to put the same signals together.
- `training` on `arithmetic` is the tiny policy, trained for each of five folds (150 steps of `kto`). It was not
  measured on `instruction_checks`, where the policy takes minutes per fold.
- On `arithmetic` 87 % of the rows have the same answer to the same prompt as another, which is what `raters` and
  `contradiction` live on; on `instruction_checks` hardly any has, and they say next to nothing.
- Rates: `noise_aware` goes from 0 to the bound that the thumbs show, with a value only where the fit is sure of some
  examples ("0.000 to 0.500": none); `raters` has a lower end of its own; `confident_learning` has no interval. What
  follows from them is in docs/feedback.md, and how often they hold in [coverage](coverage.md).
- `combined` with "one, ratings known" on `movie_ratings` sees the ratings that the truth is made of: an upper bound.
"""


def write_page() -> None:
    """All tables, as the page of the results."""
    parts = [INTRODUCTION]
    for name in ("arithmetic", "instruction_checks", "movie_ratings"):
        file = RESULTS / f"{name}.json"
        if file.exists():
            groups = grouped(json.loads(file.read_text()))
            draws = ", ".join(f"{len(group)} for {noise}" for noise, group in groups.items())
            parts += [f"## {name}\n", f"Draws: {draws}.\n"]
            parts += [of_measure(groups, which) for which in MEASURES]
            parts.append(of_rates(groups))
    if (RESULTS / "training.json").exists():
        parts.append(of_readings(json.loads((RESULTS / "training.json").read_text())))
    write_text(RESULTS / "README.md", "\n".join(parts))


def grouped(cells: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The cells of each kind of noise, by its name; the kinds in order."""
    keys = [key for key in ("rate_desirable", "rate_undesirable", "thumbs") if key in cells[0]]
    groups: dict[str, list[dict[str, Any]]] = {}
    for cell in sorted(cells, key=lambda cell: [cell[key] for key in keys]):
        name = " / ".join(f"{cell[key]:.0%}" if isinstance(cell[key], float) else cell[key] for key in keys)
        groups.setdefault(name, []).append(cell)
    return groups


def of_readings(cells: Sequence[Mapping[str, Any]]) -> str:
    """Rewards over the steps of a run: of what it is trained on, and of folds left out."""
    lines = [
        "## Rewards over the steps of a run\n",
        "AUC on `arithmetic` of finding flips by the reward alone, after a part of the steps, and by its mean over "
        "those parts; of examples that the policy is trained on (seen), and of folds left out (unseen). One draw each."
        "\n",
        "| flips | steps | | 1/5 | 2/5 | 3/5 | 4/5 | all | mean |",
        "|---" * 9 + "|",
    ]
    for cell in cells:
        for kind in ("seen", "unseen"):
            values = [averaged([cell[f"{kind} {at}"]["auc"]]) for at in [*cell["at"], "mean"]]
            lines.append(f"| {cell['rate']:.0%} | {cell['steps']} | {kind} | " + " | ".join(values) + " |")
    return "\n".join(lines) + "\n"


def of_measure(groups: Mapping[str, list[dict[str, Any]]], which: str) -> str:
    """One measure: one row per way to doubt, one column per kind of noise."""
    ways_found = list(dict.fromkeys(way for group in groups.values() for cell in group for way in cell["found"]))
    lines = [f"| {MEASURES[which]} | " + " | ".join(groups) + " |", "|---" * (len(groups) + 1) + "|"]
    for way in ways_found:
        cells = [[cell["found"][way][which] for cell in group if way in cell["found"]] for group in groups.values()]
        lines.append(f"| {way} | " + " | ".join(map(averaged, cells)) + " |")
    return "\n".join(lines) + "\n"


def of_rates(groups: Mapping[str, list[dict[str, Any]]]) -> str:
    """The estimated rates: a row per estimator and class, a column per kind of noise; the first rows are the truth."""
    methods = list(dict.fromkeys(method for group in groups.values() for cell in group for method in cell["rates"]))
    lines = ["| rate | " + " | ".join(groups) + " |", "|---" * (len(groups) + 1) + "|"]
    for side, words in (("desirable", "down on good"), ("undesirable", "up on bad")):
        truth = [f"{np.mean([cell['truth'][side] for cell in group]):.3f}" for group in groups.values()]
        lines.append(f"| {words}: the truth | " + " | ".join(truth) + " |")
        for method in methods:
            cells = [[c["rates"][method][side] for c in group if method in c["rates"]] for group in groups.values()]
            lines.append(f"| {words}: {method} | " + " | ".join(averaged(cell, 3) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def averaged(estimates: Sequence[Mapping[str, Any]], digits: int = 2) -> str:
    """The means of values and of interval ends; the ends alone where a value is not known."""
    values, lows, highs = ([one[part] for one in estimates] for part in ("value", "low", "high"))
    known = bool(estimates) and None not in values
    ends = [[end for end in part if end is not None] for part in (lows, highs)]
    if not all(ends):
        return f"{np.mean(values):.{digits}f}" if known else ""
    low, high = (f"{np.mean(part):.{digits}f}" for part in ends)
    return f"{np.mean(values):.{digits}f} [{low}, {high}]" if known else f"{low} to {high}"


if __name__ == "__main__":
    main()
