"""The commands of `kto-lab`: what each is for, its configuration, and the function that takes it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kto_lab.sweeps.request import FLAGS

OUTPUT = {"output": "output"}


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        config: its configuration.
        function: that takes it.
        about: what the command is for.
        without: groups of the configuration that are another command's.
        flags: words of its own beside Hydra's, and what each does.
        groups: those whose choices its first line names.
        bare: the key that a first word without a key stands for.
        places: keys that say where it reads or writes, and what each is called in its first line.
    """

    config: str
    function: str
    about: str
    without: Sequence[str] = ()
    flags: Mapping[str, str] = field(default_factory=dict)
    groups: Sequence[str] = ()
    bare: str | None = None
    places: Mapping[str, str] = field(default_factory=dict)


COMMANDS = {
    "train": Command(
        "train",
        "kto_lab.runs.command:train",
        "align a policy with feedback, and judge it",
        without=["study"],
        groups=["loss", "model", "feedback"],
        places={"run_dir": "run folder"},
    ),
    "sweep": Command(
        "train",
        "kto_lab.sweeps.cell:run_cell",
        "run what is missing of a study, on a laptop or Slurm",
        flags=FLAGS,
    ),
    "report": Command(
        "report",
        "kto_lab.reports.report:report_study",
        "tables, figures and a page of a study's runs",
        groups=["study"],
        places={"folder": "study folder", "runs_dir": "runs in"},
    ),
    "evaluate": Command(
        "evaluate",
        "kto_lab.runs.evaluate:evaluate",
        "judge a finished run again, or any model",
        groups=["model", "feedback"],
        places={"run": "run folder", "output": "output"},
    ),
    "publish": Command(
        "publish",
        "kto_lab.publishing.command:publish",
        "the policy of a finished run with a model card, into a folder or onto the hub",
        places={"run": "run folder", "to": "to"},
    ),
    "feedback collect": Command(
        "collect",
        "kto_lab.feedback.command:collect_feedback",
        "sample answers from a model, and let a checker give the thumbs",
        groups=["model", "prompts"],
        places=OUTPUT,
    ),
    "feedback inspect": Command(
        "inspect",
        "kto_lab.feedback.inspect:inspect_feedback",
        "show what is in the thumbs, before and after a corruption",
        groups=["feedback", "corruption"],
        places=OUTPUT,
    ),
    "feedback export": Command(
        "export_table",
        "kto_lab.feedback.exporting:export_feedback",
        "write the thumbs as another tool reads them",
        groups=["feedback"],
        places=OUTPUT,
    ),
    "feedback import": Command(
        "import",
        "kto_lab.importing.command:import_feedback",
        "thumbs of a product, as its tools export them",
        groups=["export"],
        places=OUTPUT,
    ),
    "feedback label": Command(
        "label",
        "kto_lab.labeling.command:label_feedback",
        "give thumbs to answers by rules, principles or a model",
        groups=["answers", "labeler"],
        places=OUTPUT,
    ),
    "feedback audit": Command(
        "audit",
        "kto_lab.auditing.command:audit_feedback",
        "rank the labels to doubt",
        groups=["feedback"],
        places=OUTPUT,
    ),
    "feedback review": Command(
        "review",
        "kto_lab.auditing.review:review_feedback",
        "put a reviewer's decisions into the thumbs",
        groups=["feedback"],
        places=OUTPUT,
    ),
    "init": Command(
        "init",
        "kto_lab.project:init",
        "a project of one's own that runs at once: kto-lab init FOLDER",
        bare="folder",
        places={"folder": "folder"},
    ),
    "check": Command(
        "check",
        "kto_lab.checking.check:check",
        "whether this machine can run the lab",
        places={"runs_dir": "runs in", **OUTPUT},
    ),
    "cache": Command(
        "cache",
        "kto_lab.cache:cache",
        "what lies in the cache folder, and making room there",
        places={"reference_store.folder": "reference store"},
    ),
}


def under(words: Sequence[str]) -> list[str]:
    """The commands that begin with these words: all for none, those of a family for its name."""
    return [name for name in COMMANDS if name.split()[: len(words)] == list(words)]


def usage(names: Sequence[str]) -> str:
    """What `kto-lab --help` prints, of these commands."""
    width = max(map(len, names))
    return "\n".join(
        [
            "kto-lab: alignment from thumbs-up / thumbs-down, done as reproducible science",
            "",
            *(f"    kto-lab {name:<{width}}  {COMMANDS[name].about}" for name in names),
            "",
            "Every command takes Hydra overrides, such as loss=dpo optimization.learning_rate=1e-5;",
            "--help lists its groups, --cfg job prints its configuration, --config-dir adds your own.",
        ]
    )
