"""The settings of an import, checked."""

from dataclasses import dataclass, fields
from typing import Any

from omegaconf import DictConfig, OmegaConf

from kto_lab.errors import LabError
from kto_lab.importing.repeats import Policies, Policy

PROMPT_FORMS = ("as_given", "chat", "text")
GROUPS = ("model", "signal", "rater", "none")
DUPLICATES = ("drop", "keep")
NEAR = ("report", "drop")
PERSONAL_DATA = ("report", "redact", "ignore")


@dataclass(frozen=True)
class Settings:
    """What an import does with thumbs; see conf/import.yaml.

    Raises:
        LabError: a value is not allowed.
    """

    held_out: float
    prompt_form: str
    group_by: str
    max_characters: int
    one_rater: Policy
    several_raters: Policy
    rows_in_order_of_time: bool
    duplicates: str
    anonymous: str
    near_threshold: float | None
    near: str
    personal_data: str
    phone_region: str | None
    recent_days: float
    places: int

    def __post_init__(self) -> None:
        """Check the values."""
        _one_of("prompt_form", self.prompt_form, PROMPT_FORMS)
        _one_of("group_by", self.group_by, GROUPS)
        _one_of("duplicates.exact", self.duplicates, DUPLICATES)
        _one_of("duplicates.anonymous", self.anonymous, DUPLICATES)
        _one_of("duplicates.near", self.near, NEAR)
        _one_of("personal_data", self.personal_data, PERSONAL_DATA)
        if not isinstance(self.rows_in_order_of_time, bool):
            raise LabError(
                f"repeats.rows_in_order_of_time is {self.rows_in_order_of_time!r}; it must be true or false."
            )
        if not 0 <= self.held_out < 1:
            raise LabError(f"held_out is {self.held_out}: the held-out share must be at least 0 and below 1.")
        if self.near_threshold is not None and not 0 < self.near_threshold <= 1:
            raise LabError(
                f"duplicates.near_threshold is {self.near_threshold}; it must be above 0 and at most 1, or null."
            )
        for name, least in (("max_characters", 1), ("recent_days", 1), ("places", 0)):
            if getattr(self, name) < least:
                raise LabError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        if self.phone_region is not None:
            _check_region(self.phone_region)

    @property
    def policies(self) -> Policies:
        """What to do with several thumbs on one answer."""
        return Policies(
            one_rater=self.one_rater,
            several_raters=self.several_raters,
            drop_duplicates=self.duplicates == "drop",
            drop_anonymous=self.anonymous == "drop",
            in_order_of_time=self.rows_in_order_of_time,
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for a report."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def settings(cfg: DictConfig) -> Settings:
    """The settings in a configuration.

    Raises:
        LabError: a value is not allowed.
    """
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    return Settings(
        held_out=plain["held_out"],
        prompt_form=plain["prompt_form"],
        group_by=str(plain["group_by"]),
        max_characters=plain["max_characters"],
        one_rater=_policy("repeats.one_rater", plain["repeats"]["one_rater"]),
        several_raters=_policy("repeats.several_raters", plain["repeats"]["several_raters"]),
        rows_in_order_of_time=plain["repeats"]["rows_in_order_of_time"],
        duplicates=plain["duplicates"]["exact"],
        anonymous=plain["duplicates"]["anonymous"],
        near_threshold=plain["duplicates"]["near_threshold"],
        near=plain["duplicates"]["near"],
        personal_data=plain["personal_data"],
        phone_region=plain["phone_region"],
        recent_days=plain["recent_days"],
        places=plain["places"],
    )


def _policy(name: str, value: Any) -> Policy:
    _one_of(name, value, tuple(Policy))
    return Policy(value)


def _one_of(name: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise LabError(f"{name} is {value!r}; it must be one of {', '.join(known)}.")


def _check_region(region: str) -> None:
    from phonenumbers import SUPPORTED_REGIONS

    if region not in SUPPORTED_REGIONS:
        raise LabError(
            f"phone_region is {region!r}; it must be a country by its two capital letters, such as US or DE, or null."
        )
