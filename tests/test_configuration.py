"""What is asked of a configuration before any of it is made."""

import pytest
from omegaconf import OmegaConf

from kto_lab.configuration import check_keys, refuse_repeated
from kto_lab.errors import LabError
from kto_lab.kinds import Node, Seed


def test_what_nothing_reads_is_refused_and_what_is_missing_is_named() -> None:
    check_keys(OmegaConf.create({"seed": 0}), {"seed": Seed})
    with pytest.raises(LabError, match=r"Nothing reads the configuration's sed\. Known: seed"):
        check_keys(OmegaConf.create({"sed": 0}), {"seed": Seed})
    with pytest.raises(LabError, match=r"Not set: feedback\.path"):
        check_keys(OmegaConf.create({"feedback": {"path": "???"}}), {"feedback": Node})


def test_a_key_that_a_function_does_not_take_is_refused() -> None:
    node = {"_target_": "kto_lab.losses.values.logistic", "_partial_": True, "loss_aversion": 2}
    check_keys(OmegaConf.create({"value": node}), {"value": Node})
    with pytest.raises(LabError, match=r"There is no key 'value\.aversion'"):
        check_keys(OmegaConf.create({"value": {**node, "aversion": 2}}), {"value": Node})


def test_a_key_that_is_set_twice_in_one_place_is_refused() -> None:
    refuse_repeated(["--cfg", "job", "loss=kto", "loss.beta=1", "value@loss.value=concave", "~seed"])
    for words in (["seed=0", "seed=0"], ["loss.beta=1", "++loss.beta=2"], ["loss=kto", "--dry-run", "loss=dpo"]):
        with pytest.raises(LabError, match=r"the command line sets \S+ twice: "):
            refuse_repeated(words)
