"""The command `kto-lab publish`: a finished run's policy with its model card, into a folder or onto the hub."""

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from kto_lab import console, files
from kto_lab.configuration import check_keys
from kto_lab.errors import LabError
from kto_lab.keys import PUBLISH
from kto_lab.publishing import hub
from kto_lab.publishing.card import HUB_NAME, Told, base_of, model_card
from kto_lab.runs.evaluate import saved_policy
from kto_lab.runs.record import check_file, read_record
from kto_lab.sealed import SUMS, check_sums, read_json, read_text, write_sums

HUB = "hub"
CARD = "README.md"
ADAPTER = "adapter_config.json"
MEND = "Put it back as the run wrote it, or train again."
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


def publish(cfg: DictConfig) -> str:
    """Run the whole of `kto-lab publish`, and return where the policy is then.

    Raises:
        LabError: something that a person can mend; see its message. Nothing is then half written.
    """
    check_keys(cfg, PUBLISH)
    run, to_hub = Path(cfg.run), cfg.to == HUB
    _check_asked(cfg, to_hub=to_hub)
    if not run.is_dir():
        raise LabError(f"There is no folder {run}. Give run= the folder of a finished run.")
    record = read_record(run)
    policy = saved_policy(run, record)
    check_sums(policy, MEND)
    names = _names(policy)
    place = str(cfg.repo if to_hub else cfg.to)
    told = Told(
        title=cfg.title or Path(place).name,
        # A folder by its name: where it lies is this machine's own.
        place=place if to_hub else f"./{Path(place).name}",
        base_model=cfg.base_model,
        dataset=cfg.dataset,
        license=cfg.license,
        license_of_base=cfg.license_of_base,
        license_of_data=cfg.license_of_data,
    )
    adapter = ADAPTER in names
    changed = {ADAPTER: _adapter_config(policy, base_of(record, told))} if adapter else {}
    changed[CARD] = model_card(record, told, adapter=adapter, chat=_is_chat(run, record, policy))
    if cfg.dry_run:
        return _show(cfg, policy, names, changed, place=place)
    console.stage("Publish", "The policy as it was saved and judged, its model card, and checksums of all files.")
    if not to_hub:
        with files.atomic_path(Path(cfg.to)) as partial:
            partial.mkdir()
            _write(policy, names, changed, partial)
        console.show_files({"model card": Path(cfg.to) / CARD, "checksums": Path(cfg.to) / SUMS})
        return place
    with tempfile.TemporaryDirectory() as scratch:
        _write(policy, names, changed, Path(scratch))
        where = hub.upload(Path(scratch), cfg.repo, private=cfg.private)
    console.say(f"    {where}")
    return where


def _check_asked(cfg: DictConfig, *, to_hub: bool) -> None:
    """Refuse what does not go together, before anything is read.

    Raises:
        LabError: it does not.
    """
    if to_hub and not HUB_NAME.fullmatch(cfg.repo or ""):
        raise LabError(f"repo is {cfg.repo!r}; to=hub needs repo=owner/name, as the hub writes it.")
    if not to_hub and cfg.repo is not None:
        raise LabError(f"repo={cfg.repo} is for to=hub, and to is {cfg.to!r}. Leave one out.")
    if not to_hub and Path(cfg.to).exists():
        raise LabError(f"{cfg.to} exists, and nothing there is overwritten. Remove it, or give another folder as to=.")
    for key in ("base_model", "dataset"):
        if cfg[key] is not None and not HUB_NAME.fullmatch(cfg[key]):
            raise LabError(f"{key} is {cfg[key]!r}; it is a name on the hub, owner/name.")
    for key in ("license", "license_of_base", "license_of_data"):
        if cfg[key] is not None and not _LICENSE.fullmatch(cfg[key]):
            raise LabError(f"{key} is {cfg[key]!r}; write it as the hub names licences, such as apache-2.0 or other.")


def _names(policy: Path) -> list[str]:
    """The files of a policy that a run wrote; whatever else lies in the folder is not published."""
    listed = policy / SUMS
    if not listed.is_file():
        raise LabError(
            f"{listed} is missing, so nobody can tell whether the policy is what was judged: an earlier version of "
            "kto-lab wrote it. Train again."
        )
    names = [line.partition("  ")[2] for line in read_text(listed, MEND).splitlines()]
    return [name for name in names if name != CARD]


def _adapter_config(policy: Path, base: str | None) -> str:
    """An adapter's configuration with its base by the hub's name, and no folder of this machine."""
    config = json.loads((policy / ADAPTER).read_text(encoding="utf-8"))
    if base is None:
        raise LabError(
            f"The policy is an adapter, and {config.get('base_model_name_or_path') or 'its base'} has no name on the "
            "hub: whoever loads it could not find the base. Give base_model=owner/name, or train with "
            "adapter.merge=true, which saves the whole model."
        )
    return json.dumps({**config, "base_model_name_or_path": base}, indent=2, sort_keys=True) + "\n"


def _is_chat(run: Path, record: Mapping[str, Any], policy: Path) -> bool:
    """Whether the policy was asked with conversations; where nothing was asked, whether it has a template for them."""
    answers = run / "evaluation" / "trained.json"
    if answers.is_file():
        check_file(record, run, "evaluation/trained.json")
        if found := read_json(answers, MEND).get("answers"):
            return not isinstance(found[0]["prompt"], str)
    return (policy / "chat_template.jinja").is_file()


def _write(policy: Path, names: list[str], changed: Mapping[str, str], folder: Path) -> None:
    """Write what is published into an empty folder."""
    for name in names:
        if name not in changed:
            shutil.copyfile(policy / name, folder / name)
    for name, text in changed.items():
        files.write_text(folder / name, text)
    write_sums(folder)


def _show(cfg: DictConfig, policy: Path, names: list[str], changed: Mapping[str, str], *, place: str) -> str:
    """Say what would be published, and write nothing."""
    where = f"the hub as {place}, {'private' if cfg.private else 'public'} if new" if cfg.to == HUB else place
    console.stage("Dry run", f"Nothing is written. This would go to {where}:")
    for name in names:
        if name not in changed:
            console.say(f"    {name}  {(policy / name).stat().st_size:,} bytes")
    for name, text in changed.items():
        console.say(f"    {name}  {len(text.encode()):,} bytes")
    console.stage("Model card", "As it would be written.")
    console.say(changed[CARD])
    return place
