"""Measures `kto-lab feedback import`, and writes results/feedback/import-*.json.

python scripts/benchmark_import.py scale               # rows per second and peak memory against the number of rows
python scripts/benchmark_import.py scale --rows 10000 100000 1000000 --settings plain
python scripts/benchmark_import.py personal            # how much personal data is found, and what is taken for some

Each import of `scale` is a process of its own, over JSON lines that it reads with export=file. `personal` also measures
presidio-analyzer where it can be imported (put it on PYTHONPATH).
"""

import argparse
import importlib.util
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
# Of this checkout, whichever kto-lab is installed.
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "scripts"))

from kto_lab.files import write_json  # noqa: E402
from kto_lab.statistics import proportion_interval  # noqa: E402

RESULTS = ROOT / "results" / "feedback"
SEED = 0
SETTINGS = {
    "plain": ["personal_data=ignore"],
    "personal data": ["personal_data=redact"],
    "near duplicates": ["personal_data=ignore", "duplicates.near_threshold=0.8", "duplicates.near=drop"],
}
WORDS = ["the", "river", "runs", "past", "a", "mill", "and", "under", "an", "old", "stone", "bridge", "before", "it"]
WORDS += [
    "meets",
    "sea",
    "clouds",
    "are",
    "grey",
    "in",
    "winter",
    "poem",
    "question",
    "answer",
    "because",
    "you",
    "ask",
]
MEBIBYTE = 2**20


def main(words: Sequence[str] | None = None) -> None:
    """Run a command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    scale_parser = commands.add_parser("scale")
    scale_parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    scale_parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    scale_parser.add_argument("--out", type=Path, default=RESULTS / "import-scale.json")
    scale_parser.set_defaults(run=scale)
    personal_parser = commands.add_parser("personal")
    personal_parser.add_argument("--out", type=Path, default=RESULTS / "import-personal-data.json")
    personal_parser.set_defaults(run=personal)
    one = commands.add_parser("one")
    one.add_argument("words", nargs="+")
    one.set_defaults(run=one_import)
    arguments = parser.parse_args(words)
    arguments.run(arguments)


def scale(arguments: argparse.Namespace) -> None:
    """Import files of several sizes under several settings, and write what each took; other runs of before are kept."""
    found: dict[tuple[int, str], dict[str, Any]] = {}
    if arguments.out.exists():
        found = {(run["rows"], run["setting"]): run for run in json.loads(arguments.out.read_text())["runs"]}
    with tempfile.TemporaryDirectory() as folder:
        for rows in arguments.rows:
            file = Path(folder) / "thumbs.jsonl"
            write_thumbs(file, rows)
            size = {"rows": rows, "source_mebibytes": round(file.stat().st_size / MEBIBYTE, 1)}
            for name in arguments.settings:
                run = found[rows, name] = {"setting": name, **size, **measure(file, SETTINGS[name])}
                print(
                    f"{name:<16} {rows:>9,} rows {run['seconds']:>7.1f} s {run['rows_a_second']:>6,} rows/s "
                    f"{run['cpu_seconds']:>7.1f} s of CPU {run['rows_a_cpu_second']:>6,} rows/s "
                    f"{run['peak_mebibytes']:>5,.0f} MiB {run['growth_mebibytes']:>+4,.0f} over its start",
                    flush=True,
                )
                # After each, so that a stopped measurement keeps what it has.
                runs = [found[key] for key in sorted(found)]
                write_json(
                    arguments.out, {"command": "python scripts/benchmark_import.py scale", **machine(), "runs": runs}
                )


def write_thumbs(file: Path, rows: int) -> None:
    """Write rows of invented thumbs: prompts with two answers or so, repeats, near repeats, and some bad rows."""
    rng = random.Random(SEED)
    last: dict[str, Any] = {}
    with file.open("w", encoding="utf-8") as handle:
        for number in range(rows):
            chance = rng.random()
            if last and chance < 0.02:
                row = last
            elif last and chance < 0.05:
                row = {**last, "label": not last["label"], "time": last["time"] + 60}
            elif last and chance < 0.08:
                row = {**last, "completion": last["completion"] + " indeed", "rater": "someone else"}
            else:
                row = {
                    "prompt": f"{' '.join(rng.choices(WORDS, k=20))} {number // 2}",
                    "completion": " ".join(rng.choices(WORDS, k=rng.choice((10, 60, 200)))),
                    "label": rng.random() < 0.7,
                    "rater": f"rater {rng.randrange(5000)}",
                    "model": f"model {rng.randrange(5)}",
                    "time": 1_750_000_000 + number,
                }
                if chance > 0.99:
                    row["completion"] += f" Write to jo{number}@example.org or call +1 415-555-{number % 10000:04}."
                last = row
            handle.write("{broken\n" if 0.08 <= chance < 0.085 else json.dumps(row) + "\n")


def measure(file: Path, words: list[str]) -> dict[str, Any]:
    """What an import in a process of its own took."""
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        columns = [f"export.columns.{name}={name}" for name in ("rater", "model")]
        whole = [
            "export=file",
            f"export.path={file}",
            *columns,
            "export.columns.timestamp=time",
            f"output={folder}/thumbs.parquet",
            *words,
        ]
        done = subprocess.run([sys.executable, __file__, "one", *whole], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def one_import(arguments: argparse.Namespace) -> None:
    """Import in this process, and print what it took: seconds and memory after the libraries are loaded."""
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    import kto_lab.feedback.table
    import kto_lab.importing.near
    from kto_lab import cli
    from kto_lab.importing.command import import_thumbs
    from kto_lab.importing.personal import find
    from kto_lab.importing.settings import settings

    with initialize_config_dir(str(cli.config_dir()), version_base="1.3"):
        cfg = compose("import", arguments.words)
    # What is loaded once is neither time nor memory of rows.
    find("+1 415-555-2671 AKIA-not-a-key-but-long-enough", None)
    kto_lab.feedback.table.build_table([{"prompt": "a", "completion": "b", "desirable": True}], source="", held_out=0.0)
    before, start, cpu = peak(), time.perf_counter(), time.process_time()
    report = import_thumbs(instantiate(cfg.export), Path(cfg.output), settings(cfg), source="thumbs.jsonl")
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    after = peak()
    size = Path(cfg.output).stat().st_size
    numbers = {
        "seconds": round(seconds, 2),
        "rows_a_second": round(report.rows / seconds),
        "cpu_seconds": round(cpu_seconds, 2),
        "rows_a_cpu_second": round(report.rows / cpu_seconds),
        "load": round(os.getloadavg()[0], 1),
        "peak_mebibytes": round(after / MEBIBYTE, 1),
        "growth_mebibytes": round((after - before) / MEBIBYTE, 1),
        "examples": report.examples,
        "table_mebibytes": round(size / MEBIBYTE, 1),
    }
    print(json.dumps(numbers))


def peak() -> int:
    """Bytes of memory that this process had at its most (Linux and macOS)."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


Finder = Callable[[str], Iterable[tuple[str, int, int]]]


def personal(arguments: argparse.Namespace) -> None:
    """Count what is found of the personal data in invented texts, and what is found where there is none."""
    from kto_lab.importing.personal import find

    def ours(region: str | None) -> Finder:
        return lambda text: [(one.kind.value, one.start, one.end) for one in find(text, region)]

    finders: dict[str, Finder] = {"kto-lab": ours(None), "kto-lab, phone_region=US": ours("US")}
    if importlib.util.find_spec("presidio_analyzer"):
        finders["presidio-analyzer, patterns"] = presidio()
    found = {name: quality(finder) for name, finder in finders.items()}
    for name, numbers in found.items():
        print(f"{name}: {numbers['cpu_microseconds_a_text']} microseconds of CPU a text")
        for kind, row in numbers["kinds"].items():
            recall = row["recall"]
            print(
                f"    {kind:<6} {row['found']:>3} of {row['there']:>3}  recall {recall['value']:.2f} "
                f"[{recall['low']:.2f}, {recall['high']:.2f}]  wrong {row['wrong']}"
            )
    tables = {name: taken(name, ours("US")) for name in ("arithmetic", "instruction_checks")}
    for name, share in tables.items():
        high = f"[{share['low']:.4f}, {share['high']:.4f}]"
        print(f"{name}: of {share['n']:,} examples without personal data, {share['value']:.4f} {high} have finds")
    what = {"command": "python scripts/benchmark_import.py personal", **machine(), "finders": found}
    write_json(arguments.out, {**what, "shipped_tables_with_finds": tables})


def quality(finder: Finder) -> dict[str, Any]:
    """Recall of each kind with its interval, and finds that touch nothing of the kind.

    A datum is found where finds of any kind cover all of it: it is then gone from a redacted text.
    """
    from personal_texts import TEXTS

    there: Counter[str] = Counter()
    found: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    missed, mistaken = [], []
    finds = [list(finder(text.text)) for text in TEXTS]
    # Again, with all plans of numbers loaded.
    start = time.process_time()
    for text in TEXTS:
        finder(text.text)
    seconds = time.process_time() - start
    for text, own in zip(TEXTS, finds, strict=True):
        covered = {place for _, begin, end in own for place in range(begin, end)}
        spans = []
        for kind, value in text.data:
            begin = text.text.index(value)
            spans.append(range(begin, begin + len(value)))
            there[kind] += 1
            # Signs around it, such as the bracket of a phone number, tell nobody anything.
            gone = all(place in covered or not text.text[place].isalnum() for place in spans[-1])
            found[kind] += gone
            if not gone:
                missed.append(f"{kind}: {text.text}")
        for kind, begin, end in own:
            if not any(place in span for span in spans for place in range(begin, end)):
                wrong[kind] += 1
                mistaken.append(f"{kind}: {text.text[begin:end]}")
    kinds = {
        kind: {
            "there": there[kind],
            "found": found[kind],
            "recall": proportion_interval(found[kind], there[kind]).as_dict(),
            "wrong": wrong[kind],
        }
        for kind in there
    }
    return {
        "kinds": kinds,
        "cpu_microseconds_a_text": round(1e6 * seconds / len(TEXTS)),
        "missed": missed,
        "mistaken": mistaken,
    }


def taken(table: str, finder: Finder) -> dict[str, Any]:
    """The share of a shipped table's examples in which something is found; none of them holds personal data."""
    rows = pq.read_table(ROOT / f"kto_lab/feedback/data/{table}.parquet", columns=["prompt", "completion"]).to_pylist()
    count = 0
    for row in rows:
        prompts = [row["prompt"]] if isinstance(row["prompt"], str) else [one["content"] for one in row["prompt"]]
        count += any(list(finder(text)) for text in (*prompts, row["completion"]))
    return proportion_interval(count, len(rows)).as_dict()


def presidio() -> Finder:
    """The recognisers of presidio-analyzer that go by patterns, without a model of language."""
    from presidio_analyzer.predefined_recognizers import (
        CreditCardRecognizer,
        EmailRecognizer,
        IbanRecognizer,
        PhoneRecognizer,
    )

    names = {"CREDIT_CARD": "CARD", "EMAIL_ADDRESS": "EMAIL", "IBAN_CODE": "IBAN", "PHONE_NUMBER": "PHONE"}
    recognizers = [CreditCardRecognizer(), EmailRecognizer(), IbanRecognizer(), PhoneRecognizer()]

    def find(text: str) -> list[tuple[str, int, int]]:
        return [
            (names[one.entity_type], one.start, one.end)
            for recognizer in recognizers
            for one in recognizer.analyze(text, recognizer.supported_entities, None) or ()
        ]

    return find


def machine() -> dict[str, Any]:
    """Where and with what it was measured."""
    names = (
        "pyarrow",
        "datasets",
        "datasketch",
        "phonenumbers",
        "python-stdnum",
        "detect-secrets",
        "presidio-analyzer",
    )
    there = {name: version(name) for name in names if importlib.util.find_spec(name.replace("-", "_")) or "std" in name}
    where = {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()}
    return {"seed": SEED, **where, "versions": there}


if __name__ == "__main__":
    main()
