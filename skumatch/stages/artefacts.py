"""The files that a run's stages read and write: each named once, with its path and the form of its content.

`dvc.yaml` says which stage writes a folder and which stages read it; docs/architecture.md has both for each
file. A name in braces within a path stands for a candidate, an encoder or a protocol.

Nothing here is imported before it is read: a stage must not depend on rooms whose files it doesn't touch.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, TypeAdapter

from skumatch.errors import DataError
from skumatch.files import replacing, write_json, write_parquet, write_text

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from skumatch.data.validation.drift import Profile
    from skumatch.gate.gate import Decision
    from skumatch.retrieval.answers import Shares
    from skumatch.retrieval.figures import Evaluation
    from skumatch.retrieval.thresholds import Thresholds

Content = TypeVar("Content")
ABSENT = "none.json"  # the only file of a folder whose content a run doesn't have


def out(stage: str) -> str:
    """Return the path of a stage's results, below the workspace."""
    return f"out/{stage}"


@dataclass(frozen=True)
class Artefact:
    """A file or folder of a run's workspace.

    Attributes:
        path: Its path below the workspace.
    """

    path: str

    def at(self, root: Path, **names: str) -> Path:
        """Return its path in the workspace `root`; `names` are the values of the path's names in braces."""
        return root / self.path.format(**names)

    @property
    def pointer(self) -> str:
        """Path of the file by which DVC finds its content."""
        return f"{self.path}.dvc"

    def exists(self, root: Path, **names: str) -> bool:
        """Return whether the workspace `root` has it."""
        return self.at(root, **names).exists()

    def logged(self, **names: str) -> str:
        """Return its path among the artifacts of the run in MLflow, which is its path below `out`."""
        return self.path.removeprefix("out/").format(**names)


@dataclass(frozen=True)
class Text(Artefact):
    """A page or another text."""

    def read(self, root: Path) -> str:
        """Return the text."""
        return self.at(root).read_text("utf-8")

    def write(self, root: Path, text: str) -> None:
        """Write the text atomically."""
        write_text(self.at(root), text)


@dataclass(frozen=True)
class Record(Artefact, Generic[Content]):
    """A JSON file.

    Attributes:
        form: Type of its content, or where that is defined, as `module:Name`.
    """

    form: Any

    @property
    def _adapter(self) -> TypeAdapter[Content]:
        return TypeAdapter(resolve_name(self.form) if isinstance(self.form, str) else self.form)

    def read(self, root: Path, **names: str) -> Content:
        """Return the content.

        Raises:
            DataError: The file has another form.
            FileNotFoundError: There is no such file.
        """
        path = self.at(root, **names)
        try:
            return self._adapter.validate_json(path.read_bytes())
        except ValueError as error:
            problem = f"{path} doesn't have the form that this skumatch writes"
            raise DataError(f"{problem} ({_first(error)}); run the stage that writes it again.") from error

    def write(self, root: Path, content: Content, **names: str) -> None:
        """Write the content as canonical JSON, atomically."""
        write_json(self.at(root, **names), self._adapter.dump_python(content, mode="json"))


def _first(error: ValueError) -> str:
    """Return the first problem that pydantic names, or the error's own words."""
    if not hasattr(error, "errors"):
        return str(error)
    problem = error.errors()[0]
    where = ".".join(map(str, problem["loc"]))
    return f"{where}: {problem['msg']}" if where else str(problem["msg"])


@dataclass(frozen=True)
class Table(Artefact):
    """A Parquet file.

    Attributes:
        schema: Its columns, or where they are defined, as `module:NAME`.
    """

    schema: pa.Schema | str

    @property
    def columns(self) -> list[str]:
        """Names of its columns, in order."""
        return list(self._schema.names)

    @property
    def _schema(self) -> pa.Schema:
        return resolve_name(self.schema) if isinstance(self.schema, str) else self.schema

    def read(self, root: Path, **names: str) -> pd.DataFrame:
        """Return all rows."""
        import pyarrow.parquet as pq

        rows: pd.DataFrame = pq.read_table(self.at(root, **names)).to_pandas()
        return rows

    def write(self, root: Path, rows: pd.DataFrame, **names: str) -> None:
        """Write rows with the table's columns, atomically."""
        write_parquet(self.at(root, **names), rows, self._schema)


@dataclass(frozen=True)
class Embeddings(Artefact):
    """A safetensors file with one tensor, `embeddings`: float32 [items, d]."""

    def read(self, root: Path, **names: str) -> NDArray[np.float32]:
        """Return the vectors."""
        from safetensors.numpy import load_file

        return load_file(self.at(root, **names))["embeddings"]

    def write(self, root: Path, vectors: NDArray[np.float32], **names: str) -> None:
        """Write the vectors atomically."""
        from safetensors.numpy import save_file

        with replacing(self.at(root, **names)) as aside:
            save_file({"embeddings": vectors}, aside)


class _Form(BaseModel):
    """A form that ignores fields which another version of skumatch wrote."""

    model_config = ConfigDict(frozen=True)


class PackageFacts(_Form):
    """An installed skumatch.

    Attributes:
        version: Its version.
        sha256: Hash over its files as its wheel lists them; empty for an installation from a checkout.
    """

    version: str
    sha256: str


class CodeFacts(_Form):
    """The run's record of its own code.

    Attributes:
        commit: Id of the checked-out commit; None outside a git repository.
        dirty: True if the code differed from the commit.
        sha256: One hash over all code files.
        folder: The project's path in its repository, with a trailing slash; empty if it is the root.
        package: The installed skumatch; None if the project's own folder skumatch/ was the code.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    commit: str | None
    dirty: bool
    sha256: str
    folder: str = ""
    package: PackageFacts | None = None


class RunFacts(_Form):
    """A run's kind: `retrain` or `refresh`."""

    kind: str


class WeightsFacts(_Form):
    """The base weights.

    Random weights have the name `none` only; the other fields are then empty.

    Attributes:
        name: Name of the weights.
        source: Their origin.
        licence: Their licence.
        sha256: Hash of their file.
    """

    name: str
    source: str = ""
    licence: str = ""
    sha256: str = ""


class Expectation(_Form):
    """The result of one expectation of the data.

    Attributes:
        name: Name of the expectation.
        frame: The table that it is about.
        sentence: The expectation in words.
        passed: True if the data met it.
        observed: The observation in words.
        broken: Number of rows that break it.
        offenders: The worst of these rows.
        notes: A note on each of them.
    """

    name: str = ""
    frame: str = ""
    sentence: str = ""
    passed: bool
    observed: str = ""
    broken: int = 0
    offenders: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class SetAside(_Form):
    """A delivered picture that could not be used.

    Attributes:
        id: The picture's id.
        reason: The reason in a word.
        sentence: The reason as a sentence.
    """

    id: str
    reason: str
    sentence: str = ""


class ValidationFacts(_Form):
    """Results of the validation.

    Attributes:
        expectations: The results of all expectations.
        warnings: Warnings, a sentence each.
        quarantined: The pictures that were set aside.
    """

    expectations: tuple[Expectation, ...]
    warnings: tuple[str, ...]
    quarantined: tuple[SetAside, ...]


class DuplicateFacts(_Form):
    """Counts of duplicate pictures.

    Attributes:
        candidate_pairs: Pairs that were compared.
        confirmed_pairs: Pairs that are near-duplicates.
        calibration: How the threshold of the comparison was chosen.
        exact_groups: Groups of pictures with equal pixels.
        exact_images: Pictures in such groups.
        near_groups: Groups of near-duplicates.
        near_images: Pictures in such groups.
        largest_group: Pictures in the largest group.
        groups_of_several_skus: Groups with pictures of several products.
    """

    candidate_pairs: int = 0
    confirmed_pairs: int = 0
    calibration: dict[str, Any] = {}
    exact_groups: int = 0
    exact_images: int
    near_groups: int = 0
    near_images: int
    largest_group: int = 0
    groups_of_several_skus: int = 0


class ProtocolFacts(_Form):
    """A protocol's size: its draws, rows of gallery and queries in all draws, and a hash of its content."""

    draws: int
    gallery: int
    queries: int
    hash: str


class SplitFacts(_Form):
    """Counts of the split.

    Attributes:
        images: Role -> number of pictures.
        skus: Role -> number of products.
        unseen: Products that are never trained on.
        queries_with_duplicate: `gallery` or `train` -> number of queries with a duplicate there.
        duplicates: Counts of duplicate pictures.
        protocols: Protocol -> its size.
    """

    images: dict[str, int]
    skus: dict[str, int] = {}
    unseen: tuple[str, ...] = ()
    queries_with_duplicate: dict[str, int] = {}
    duplicates: DuplicateFacts
    protocols: dict[str, ProtocolFacts] = {}


class TrainedOn(_Form):
    """What a training learnt from.

    Attributes:
        images: Number of pictures.
        skus: Number of their products.
        weights: Facts of the base weights, as in inputs/weights/weights.json.
    """

    images: int
    skus: int
    weights: dict[str, str]


class EncoderHashes(_Form):
    """Encoder (`challenger`, `champion`) -> SHA-256 of its weights; None where the run has none."""

    encoders: dict[str, str | None]


class CandidateBundle(_Form):
    """A bundle that may be released.

    Attributes:
        bundle: Its hash.
        megabytes: Its size.
        blessed: True if it loads and matches pictures of its own gallery.
        p95_ms: Limit in milliseconds that 95 of 100 queries keep; None if it isn't blessed.
    """

    bundle: str
    megabytes: float
    blessed: bool
    p95_ms: float | None


# What pull lays into the inputs.
RUN = Record[RunFacts]("inputs/run.json", RunFacts)
CODE = Record[CodeFacts]("inputs/code.json", CodeFacts)
BASELINE = Artefact("inputs/baseline.json")  # read_baseline reads it
WEIGHTS = Artefact("inputs/weights")
WEIGHTS_FILE = Artefact("inputs/weights/weights.safetensors")  # absent for random weights
WEIGHTS_FACTS = Record[WeightsFacts]("inputs/weights/weights.json", WeightsFacts)
CHAMPION = Artefact("inputs/champion")  # a bundle, or a note that there is none
CHAMPION_ENCODER = Artefact("inputs/champion/encoder")
CHAMPION_PIXELS = Table("inputs/champion/training.parquet", pa.schema([("id", pa.string())]))
RELEASED = Artefact("inputs/released")
TRAINED = Artefact("inputs/trained")

VALIDATION = Record[ValidationFacts]("out/validate/validation.json", ValidationFacts)
PROFILE: Record[Profile] = Record("out/validate/profile.json", "skumatch.data.validation.drift:Profile")
DATA_DOCS = Text("out/validate/docs.html")

ROLES = Table("out/split/split.parquet", "skumatch.data.split:SCHEMA")
PROTOCOL = Table("out/split/protocols/{protocol}.parquet", "skumatch.data.protocols:SCHEMA")
SPLIT = Record[SplitFacts]("out/split/split.json", SplitFacts)

FROZEN: Record[Evaluation] = Record("out/frozen/frozen.json", "skumatch.retrieval.figures:Evaluation")

ENCODER = Artefact("out/train/encoder")
HISTORY = Artefact("out/train/history.jsonl")  # an epoch a line
TRAINING_PIXELS = Table("out/train/training.parquet", pa.schema([("id", pa.string())]))
TRAINING = Record[TrainedOn]("out/train/training.json", TrainedOn)

# `group` is the duplicate group. Only queries have width, height, blur and brightness.
ITEMS = Table(
    "out/embed/items.parquet",
    pa.schema(
        [(name, pa.string()) for name in ("id", "sku", "role", "group", "product_group", "sha256")]
        + [
            (name, pa.bool_())
            for name in ("unseen", "trained_challenger", "trained_champion", "catalogue_only")
        ]
        + [
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("blur", pa.float64()),
            ("brightness", pa.float64()),
        ]
    ),
)
VECTORS = Embeddings("out/embed/{encoder}.safetensors")
VECTORS_OF = {"challenger": "challenger", "refreshed": "champion"}  # candidate -> encoder of its vectors
ENCODERS = Record[EncoderHashes]("out/embed/embed.json", EncoderHashes)

EVALUATION: Record[Evaluation] = Record(
    "out/evaluate/{candidate}.json", "skumatch.retrieval.figures:Evaluation"
)
PROTOCOL_EVALUATION: Record[Evaluation] = Record(
    "out/evaluate/{candidate}-{protocol}.json", "skumatch.retrieval.figures:Evaluation"
)
RANKING = Table("out/evaluate/{candidate}.parquet", "skumatch.retrieval.evaluate:RANKING_SCHEMA")
HITS = Table("out/evaluate/{candidate}-hits.parquet", "skumatch.retrieval.hits:HITS_SCHEMA")
SKU_FIGURES = Record[list[dict[Hashable, Any]]]("out/evaluate/{candidate}-skus.json", list[dict[str, Any]])
THRESHOLDS: Record[Thresholds] = Record(
    "out/evaluate/{candidate}-thresholds.json", "skumatch.retrieval.thresholds:Thresholds"
)
ANSWERS = Table("out/evaluate/answers.parquet", "skumatch.retrieval.answers:SCHEMA")
SHARES: Record[Shares] = Record("out/evaluate/answers.json", "skumatch.retrieval.answers:Shares")
HELD_BACK = Record[dict[str, dict[str, str]]]("out/evaluate/held.json", dict[str, dict[str, str]])

BUNDLES = Record[dict[str, CandidateBundle | None]](
    "out/bundle/facts.json", dict[str, CandidateBundle | None]
)
BUNDLE = {  # candidate -> the folder of its bundle
    "challenger": Artefact("out/bundle/model"),
    "refreshed": Artefact("out/bundle/refreshed"),
}

DECISION: Record[Decision] = Record("out/gate/decision.json", "skumatch.gate.gate:Decision")

REPORT = Text("out/report/report.html")
CARD = Text("out/report/card.md")
