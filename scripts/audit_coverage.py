"""Do the intervals of `kto-lab feedback audit` hold the true flip rates? Invented tables, injected flips, many draws.

    python scripts/audit_coverage.py            # about eight minutes on a core; finished cells are kept

An answer is a dozen invented words. Good answers and bad ones draw from one vocabulary with chances that differ hardly
(weak: an AUC of about 0.55 before thumbs are turned round), a good deal (medium: 0.85), or so that nearly every answer
shows what it is (strong: 0.99). Then thumbs of both classes are turned round. Each draw is a table of its own.

Writes results/feedback/audit/coverage.json (a cell a table) and coverage.md (shares of tables whose interval holds the
rate, mean upper ends, and what was advised).
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from kto_lab.auditing.advice import advise
from kto_lab.auditing.audit import Settings, audit
from kto_lab.feedback.table import build_table
from kto_lab.feedback.table_numbers import flip_rates
from kto_lab.files import write_json, write_text
from kto_lab.statistics import proportion_interval

RESULTS = Path(__file__).resolve().parent.parent / "results" / "feedback" / "audit"
# How far the logarithm of a word's chance differs between good and bad answers, in deviations over the vocabulary.
STRENGTHS = {"weak": 0.06, "medium": 0.2, "strong": 0.5}
RATES = (0.0, 0.1, 0.2, 0.3)
VOCABULARY = tuple(
    a + b + c for a in ("ba", "ke", "lo", "mi", "ru") for b in ("dro", "fen", "gil", "sto") for c in "pnx"
)
ANSWER = 12
PER_PROMPT = 4


def main() -> None:
    """Audit every table that is not there yet, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8, help="tables of each kind")
    parser.add_argument("--prompts", type=int, default=400, help=f"prompts of a table, {PER_PROMPT} answers each")
    arguments = parser.parse_args()
    target = RESULTS / "coverage.json"
    cells: list[dict[str, Any]] = json.loads(target.read_text()) if target.exists() else []
    done = {(cell["strength"], cell["rate"], cell["prompts"], cell["seed"]) for cell in cells}
    for seed in range(arguments.seeds):
        for strength in STRENGTHS:
            for rate in RATES:
                if (strength, rate, arguments.prompts, seed) not in done:
                    cells.append(measure(strength, rate, arguments.prompts, seed))
                    write_json(target, cells)
    write_text(RESULTS / "coverage.md", page(cells))


def invented(strength: float, rate: float, prompts: int, seed: int) -> Dataset:
    """A table of `prompts` times PER_PROMPT invented answers, with a share of either class's thumbs turned round."""
    rng = np.random.default_rng([seed, round(1000 * strength), round(1000 * rate)])
    lean = rng.normal(size=len(VOCABULARY)) * strength
    chances = {good: np.exp(side * lean) / np.exp(side * lean).sum() for good, side in ((True, 1), (False, -1))}
    rows: list[dict[str, Any]] = []
    for number in range(prompts):
        asked = " ".join(rng.choice(VOCABULARY, size=3))
        for _ in range(PER_PROMPT):
            good = bool(rng.random() < 0.5)
            rows.append(
                {
                    "prompt": f"{asked} {number}",
                    "completion": " ".join(rng.choice(VOCABULARY, size=ANSWER, p=chances[good])),
                    "desirable": good != (rng.random() < rate),
                    "desirable_clean": good,
                    "split": "train",
                }
            )
    return build_table(rows, source="invented", held_out=0.0)


def measure(strength: str, rate: float, prompts: int, seed: int) -> dict[str, Any]:
    """One table's audit: the rates that were put in, and what is said of them."""
    begun = time.perf_counter()
    table = invented(STRENGTHS[strength], rate, prompts, seed)
    result = audit(table, Settings(["out_of_fold"], 5, None, seed), None)
    labels = result.examples.labels
    advice = advise(result.rates, result.bounds, int(labels.sum()), int((~labels).sum()))
    truth = flip_rates(table)
    assert truth is not None
    return {
        "strength": strength,
        "rate": rate,
        "prompts": prompts,
        "seed": seed,
        "truth": {"desirable": truth[0], "undesirable": truth[1]},
        "auc": result.bounds.auc.as_dict(),
        "rates": result.rates[0].as_dict(),
        "advice": advice[0].about,
        "prescribed": any(item.override for item in advice),
        "seconds": round(time.perf_counter() - begun, 1),
    }


def page(cells: Sequence[Mapping[str, Any]]) -> str:
    """The table: a row a kind of table. Held: of both rates of each table, how many intervals hold `rate`."""
    prompts = " or ".join(str(size) for size in sorted({cell["prompts"] for cell in cells}))
    lines = [
        "# Do an audit's intervals hold the truth?",
        "",
        f"By `python scripts/audit_coverage.py`, from coverage.json: invented tables of {prompts} prompts with "
        f"{PER_PROMPT} answers each. Held: tables whose intervals hold both rates that were put in, with Wilson's "
        "interval. Upper end, value: means over the tables, and in how many tables there is a value for both rates. Of "
        f"all tables together {_held(cells)} are held.",
        "",
        "| signal | turned round | tables | AUC | held | upper end | value | nothing to set | a loss prescribed |",
        "|---" * 9 + "|",
    ]
    for strength in STRENGTHS:
        for rate in RATES:
            group = [cell for cell in cells if cell["strength"] == strength and cell["rate"] == rate]
            if group:
                lines.append(_line(strength, rate, group))
    return "\n".join(lines) + "\n"


def _line(strength: str, rate: float, group: Sequence[Mapping[str, Any]]) -> str:
    sides = ("desirable", "undesirable")
    ends = [cell["rates"][side] for cell in group for side in sides]
    values = [end["value"] for end in ends if end["value"] is not None]
    told = sum(all(cell["rates"][side]["value"] is not None for side in sides) for cell in group)
    columns = [
        *(strength, f"{rate:.0%}", str(len(group))),
        f"{np.mean([cell['auc']['value'] for cell in group]):.2f}",
        _held(group),
        f"{np.mean([end['high'] for end in ends]):.3f}",
        f"{np.mean(values):.3f} ({told})" if values else "- (0)",
        str(sum(cell["advice"] == "nothing to set" for cell in group)),
        str(sum(cell["prescribed"] for cell in group)),
    ]
    return "| " + " | ".join(columns) + " |"


def _held(cells: Sequence[Mapping[str, Any]]) -> str:
    ends = [[cell["rates"][side] for side in ("desirable", "undesirable")] for cell in cells]
    held = sum(
        all(end["low"] <= cell["rate"] <= end["high"] for end in both) for cell, both in zip(cells, ends, strict=True)
    )
    found = proportion_interval(held, len(cells))
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


if __name__ == "__main__":
    main()
