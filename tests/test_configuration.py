"""What is asked of a configuration before any of it is made."""

import pytest
from omegaconf import OmegaConf

from kto_lab.configuration import check_keys
from kto_lab.errors import LabError


def test_what_nothing_reads_is_refused_and_what_is_missing_is_named() -> None:
    check_keys(OmegaConf.create({"seed": 0}), ["seed"])
    with pytest.raises(LabError, match=r"Nothing reads the configuration's sed\. Known: seed"):
        check_keys(OmegaConf.create({"sed": 0}), ["seed"])
    with pytest.raises(LabError, match=r"Not set: feedback\.path"):
        check_keys(OmegaConf.create({"feedback": {"path": "???"}}), ["feedback"])


def test_a_key_that_a_function_does_not_take_is_refused() -> None:
    node = {"_target_": "kto_lab.losses.values.logistic", "_partial_": True, "loss_aversion": 2}
    check_keys(OmegaConf.create({"value": node}), ["value"])
    with pytest.raises(LabError, match=r"There is no key 'value\.aversion'"):
        check_keys(OmegaConf.create({"value": {**node, "aversion": 2}}), ["value"])
