"""Parts of the project that Airflow reads with its DAGs: dvc.yaml's stages, and some parameters.

Airflow needs these parameters before a run begins. DAG files can't import skumatch, which Airflow's
environment may lack. So their defaults, and words that describe valid values, are repeated here; a test
compares them with skumatch/params.py. Values are read as they are written, since YAML turns a word such as
010 into another. Cron texts are checked by croniter in both places.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from croniter import croniter
from croniter.croniter import CroniterError


def variable(name: str, environ: Mapping[str, str] = os.environ) -> str:
    """Return an environment variable; empty if it is unset or blank, as in skumatch/config.py."""
    value = environ.get(name, "")
    return value if value.strip() else ""


def path_of(text: str) -> Path:
    """Return the path with a leading `~` expanded."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 pathlib's raises where there is no such user


PROJECT = path_of(variable("SKUMATCH_PROJECT") or str(Path(__file__).resolve().parents[1]))
# Tasks of this queue wait for a slot of the pool of the same name, so that two runs never share a card.
GPU = "gpu"
QUEUES = dict.fromkeys(("frozen", "train", "embed"), GPU)
TIMEOUT_HOURS = {"frozen": 12, "train": 24, "embed": 12}
OTHER_TIMEOUT_HOURS = 2
NEVER = "none"  # instead of a cron text
PRESETS = {"@quarterly": "0 0 1 */3 *"}  # Airflow's own; croniter knows the others
TRUTH = dict.fromkeys(("true", "True", "TRUE"), True) | dict.fromkeys(("false", "False", "FALSE"), False)
EMPTY = ("", "~", "null", "Null", "NULL")


class Knob(NamedTuple):
    """A parameter of params.yaml that Airflow reads.

    Attributes:
        default: Value if params.yaml leaves it out.
        read: Returns the parameter for the value as it is written, or None for an invalid one.
        words: Description of a valid value.
    """

    default: Any
    read: Callable[[Any], Any]
    words: str


def whole(most: int, default: int, least: int = 1) -> Knob:
    """Return the Knob of a whole number.

    Args:
        most: Largest value.
        default: Value if params.yaml leaves it out.
        least: Smallest value.
    """

    def read(value: Any) -> int | None:
        fits = (
            isinstance(value, str)
            and re.fullmatch(r"[-+]?0|\+?[1-9][0-9]{0,9}", value)
            and least <= int(value) <= most
        )
        return int(value) if fits else None

    return Knob(default, read, f"a whole number, at least {least} and at most {most}")


def truth(value: Any) -> bool | None:
    """Return a truth value, or None for an invalid text."""
    return TRUTH.get(value) if isinstance(value, str) else None


def cron(value: Any) -> str | None:
    """Return a cron text that Airflow can schedule by, or `none`; None for an invalid one."""
    if not isinstance(value, str):
        return None
    try:
        moments = croniter("@daily" if value == NEVER else PRESETS.get(value, value))
        moments.get_next()
        moments.get_prev()
    except CroniterError:
        return None
    return value


def execution(value: Any) -> str | None:
    """Return `subprocess` or `docker`, or None for any other value."""
    return value if value in ("subprocess", "docker") else None


def queues(value: Any) -> dict[str, str] | None:
    """Return the queue of each stage, with defaults for stages left out; None for an invalid value."""
    names = list(value.values()) if isinstance(value, dict) else [None]
    valid = all(isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_.-]+", name) for name in names)
    return QUEUES | value if valid else None


HOURS = whole(most=168, default=OTHER_TIMEOUT_HOURS)


def timeouts(value: Any) -> dict[str, int] | None:
    """Return the hours of each stage, with defaults for stages left out; None for an invalid value."""
    hours = (
        {name: HOURS.read(text) for name, text in value.items()} if isinstance(value, dict) else {"": None}
    )
    return TIMEOUT_HOURS | hours if None not in hours.values() else None


CRON_WORDS = "a text of cron's form in UTC, such as '0 3 * * 1' or '@daily', or none"

KNOBS = {
    "release.approval_hours": whole(most=8760, default=72),
    "schedule.retrain": Knob("0 3 * * 1", cron, CRON_WORDS),
    "schedule.refresh": Knob("30 * * * *", cron, CRON_WORDS),
    "schedule.on_new_data": Knob(True, truth, "true or false"),
    "schedule.debounce_minutes": whole(least=0, most=60, default=5),
    "runtime.execution": Knob("subprocess", execution, "subprocess or docker"),
    "runtime.parallel_runs": whole(most=1000, default=1),
    "runtime.queues": Knob(QUEUES, queues, "a section of stages and their queues"),
    "runtime.timeout_hours": Knob(
        TIMEOUT_HOURS,
        timeouts,
        "a section of stages and their hours, whole numbers, at least 1 and at most 168",
    ),
}


def sections(name: str) -> dict[str, Any]:
    """Return the sections of a YAML file of the project, each value as it is written.

    Raises:
        ValueError: The file is missing or can't be read; Airflow shows the sentence among its import errors.
    """
    path = PROJECT / name
    try:
        tree = yaml.BaseLoader(path.read_text("utf-8")).get_single_data()  # texts, lists and mappings only
    except FileNotFoundError as error:
        raise ValueError(f"There is no {path}; set SKUMATCH_PROJECT to the project's folder.") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} can't be read as YAML in UTF-8 ({reason}); correct it.") from error
    return section({name: tree}, name)


def section(tree: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the section `name`; empty if it is left out.

    Raises:
        ValueError: The value is no section.
    """
    inner = tree.get(name)
    if inner is None or inner in EMPTY:
        return {}
    if not isinstance(inner, dict):
        raise ValueError(
            f"'{name}' should hold names and values, but is {inner!r} (in {PROJECT}); correct it."
        )
    return inner


def value_of(name: str, tree: dict[str, Any]) -> Any:
    """Return a parameter's value, or its default if params.yaml leaves it out.

    Args:
        name: Full name of the parameter.
        tree: Sections of params.yaml.

    Raises:
        ValueError: The value is invalid.
    """
    knob, (part, _, last) = KNOBS[name], name.partition(".")
    written = section(tree, part).get(last)
    if written is None:
        return knob.default
    value = knob.read(written)
    if value is None:
        raise ValueError(f"Parameter {name} is {written!r} in params.yaml; make it {knob.words}.")
    return value


PIPELINE = section(sections("dvc.yaml"), "stages")
STAGES = list(PIPELINE)
PARAMS = sections("params.yaml")
VALUES = {name: value_of(name, PARAMS) for name in KNOBS}
APPROVAL_HOURS: int = VALUES["release.approval_hours"]
RUNTIME = {
    name: VALUES[f"runtime.{name}"] for name in ("execution", "parallel_runs", "queues", "timeout_hours")
}
SCHEDULE = {
    name: VALUES[f"schedule.{name}"] for name in ("retrain", "refresh", "on_new_data", "debounce_minutes")
}
