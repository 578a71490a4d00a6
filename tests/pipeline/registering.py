"""Repeats the last task of a run, from results fetched once, and reads the state it leaves in MLflow."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from skumatch.config import Settings, apply_overrides
from skumatch.files import read_json, write_json, write_text
from skumatch.pipeline import register
from skumatch.pipeline.message import Message
from skumatch.pipeline.worker import workspace
from skumatch.promotion.promotion import heads, history, promote
from skumatch.registry import mlflow_model
from skumatch.registry.journal import HEAD, breaks, unheaded
from skumatch.registry.mlflow_model import BUNDLE_TAG
from skumatch.registry.registry import ENCODER_TAG, RELEASE_TAG, TRAINED_TAG, Registry
from skumatch.registry.tracking import EXPERIMENT, KIND_TAG, RUN_TAG
from tests.pipeline.home import Home

VARYING = ("skumatch.lineage", RUN_TAG, HEAD)  # tags that differ from run to run


@dataclass(frozen=True)
class Release:
    """Input and output of a run's last task.

    run: the run whose results it registers. verdict: the gate's. before: tags of the existing versions; each
    but `trained` was champion in turn. compared: the champion that the run saw. trained: the version whose
    encoder is judged again. tags, aliases: of the new version. champion: the champion afterwards.
    judge_again: the encoder that the summary names to be judged again.
    """

    run: str
    verdict: str
    before: tuple[dict[str, str], ...]
    compared: int | None
    tags: dict[str, str | None]
    aliases: tuple[str, ...]
    champion: int
    trained: int | None = None
    judge_again: int | None = None

    @property
    def version(self) -> int:
        """The number of the new version."""
        return len(self.before) + 1

    @property
    def champion_before(self) -> int | None:
        """The last version before that was champion."""
        return max((number for number in range(1, self.version) if number != self.trained), default=None)


MODEL, GALLERY = {ENCODER_TAG: "a"}, {ENCODER_TAG: "a", RELEASE_TAG: "1"}
TRAINED = {ENCODER_TAG: "b"}
RELEASES = {
    "first model": Release(
        run="first",
        verdict="first",
        before=(),
        compared=None,
        tags={KIND_TAG: "retrain", RELEASE_TAG: None, TRAINED_TAG: None},
        aliases=("challenger", "champion"),
        champion=1,
    ),
    "gallery": Release(
        run="refresh",
        verdict="refresh",
        before=(MODEL, GALLERY),
        compared=2,
        tags={KIND_TAG: "refresh", RELEASE_TAG: "1", TRAINED_TAG: None},
        aliases=("champion", "refreshed"),
        champion=3,
    ),
    "encoder judged again": Release(
        run="judged",
        verdict="promote",
        before=(MODEL, GALLERY, TRAINED),
        compared=2,
        tags={KIND_TAG: "refresh", RELEASE_TAG: None, TRAINED_TAG: "3"},
        aliases=("challenger", "champion"),
        champion=4,
        trained=3,
    ),
    "encoder overtaken again": Release(
        run="judged",
        verdict="promote",
        before=(MODEL, GALLERY, TRAINED),
        compared=1,
        tags={KIND_TAG: "refresh", RELEASE_TAG: None, TRAINED_TAG: "3"},
        aliases=("challenger",),
        champion=2,
        trained=3,
        judge_again=4,
    ),
}


@dataclass(frozen=True)
class LastTask:
    """The last task of a run whose results lie in the workspace `root`, each time for a model of its own."""

    settings: Settings
    message: Message
    root: Path
    release: Release

    def prepared(self, name: str) -> Registry:
        """A registered model with the versions before, whose champion is the last that was one."""
        registry = Registry(self.settings.mlflow_url, name, self.settings.home_dir / "locks")
        with registry.client() as client:
            client.create_registered_model(name)
            for number, tags in enumerate(self.release.before, 1):
                own = tags | {BUNDLE_TAG: str(number)}
                client.create_model_version(name, "skumatch:///before", tags=own, await_creation_for=0)
                if number != self.release.trained:
                    promote(registry, number, number - 1 or None, "run before", "")
        params = yaml.safe_load((self.root / "params.yaml").read_text("utf-8"))
        named = apply_overrides(params, [f"release.model_name={name}"])
        write_text(self.root / "params.yaml", yaml.safe_dump(named))
        return registry

    def register(self, name: str) -> dict[str, Any]:
        """Register for the model `name`, as a run of that name."""
        return register.register(self.settings, self.message.model_copy(update={"run": name}))

    def left(self, registry: Registry) -> dict[str, Any]:
        """All that the task wrote to MLflow, except for values that differ from run to run."""
        name, refs = registry.model_name, registry.versions()
        with registry.client() as client:
            experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
            (run,) = client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{name}'")
            description = client.get_model_version(name, str(refs[0].version)).description
            folders = [item.path for item in client.list_artifacts(run.info.run_id)]
            files = {path: len(client.list_artifacts(run.info.run_id, path)) for path in folders}
        entries = history(registry)
        assert breaks(entries) == unheaded(entries, heads(registry)) == []
        return {
            "versions": {ref.version: (ref.aliases, lasting(ref.tags)) for ref in refs},
            "champions": [entry.after.champion for entry in entries if entry.changed and entry.after],
            "status": run.info.status,
            "tags": lasting(run.data.tags),
            "metrics": run.data.metrics,
            "params": len(run.data.params),
            "data": len(run.inputs.dataset_inputs),
            "files": files,
            "description": description.partition("[run ")[0],
        }


def lasting(tags: Mapping[str, str]) -> dict[str, str]:
    """The package's own tags; of those that differ from run to run, only that they are there."""
    own = {name: value for name, value in tags.items() if name.startswith("skumatch.")}
    return own | {name: "there" for name in VARYING if name in own}


@contextmanager
def last_task(
    home: Home,
    message: dict[str, Any],
    release: Release,
    patch: pytest.MonkeyPatch,
) -> Iterator[LastTask]:
    """Fetch the run's results, and give the gate's decision the verdict of `release`."""
    settings = Settings(project=home.project, home=home.home, remote=str(home.remote), mlflow=home.mlflow)
    facts = {"champion": release.compared, "encoder": release.trained, "approved_by": "", "by_itself": False}
    wanted = Message.model_validate(message | facts)
    with workspace(settings, wanted, "killed") as repository:
        decision, pull = repository.folder / "out/gate/decision.json", repository.pull

        def fetch(*targets: str) -> None:
            if not decision.exists():
                pull(*targets)
                write_json(decision, read_json(decision) | {"verdict": release.verdict})

        def carried(package: Path, staged: Path) -> Path:
            """Instead of the whole package, each file of which is a request, one file of it."""
            (staged / package.name).mkdir()
            shutil.copyfile(package / "__init__.py", staged / package.name / "__init__.py")
            return staged / package.name

        patch.setattr(mlflow_model, "_carried", carried)
        patch.setattr(repository, "pull", fetch)
        patch.setattr(register, "workspace", lambda *_: nullcontext(repository))
        patch.setattr(register, "at_work", lambda *_: nullcontext())
        yield LastTask(settings, wanted, repository.folder, release)
