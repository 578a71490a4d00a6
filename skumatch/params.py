"""Every section of params.yaml: defaults, which are the shipped recipe, and the bounds of the values."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from skumatch.cron import cron_problem
from skumatch.texts import composed

STAGES = (
    "validate",
    "split",
    "frozen",
    "train",
    "embed",
    "evaluate",
    "bundle",
    "gate",
    "report",
)  # of dvc.yaml
TASKS = ("pull", *STAGES, "register")  # of Airflow's DAGs
QUEUES = {"frozen": "gpu", "train": "gpu", "embed": "gpu"}
TIMEOUT_HOURS = {"frozen": 12, "train": 24, "embed": 12}
OTHER_TIMEOUT_HOURS = 2
NEVER = "none"  # instead of a cron text
MODEL_NAME_BYTES = 200  # it stands in names of files, and MLflow's column has 256 characters


def _read_with_dags(words: str | None = None) -> Any:
    """Mark a parameter that dags/recipe.py reads, when no run is known.

    `words` say what its value should be.
    """
    return Field(json_schema_extra={"read_with_dags": True} | ({"words": words} if words else {}))


READ_WITH_DAGS = _read_with_dags()
LIST = Field(strict=False)  # YAML has no tuples
Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]
Factor = Annotated[float, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, lt=1)]
Margin = Annotated[float, Field(gt=0, le=1)]
Queue = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
Hours = Annotated[int, Field(ge=1, le=168)]
Text = Annotated[str, Field(min_length=1)]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9;]+$")]
Words = Annotated[tuple[Word, ...], Field(min_length=1), LIST]


def _registered_name(name: str) -> str:
    """Refuse what MLflow would refuse after the training, or what the filters and files of skumatch can't hold."""
    wrong = sorted({character for character in name if character in "/:'\"" or not character.isprintable()})
    if wrong:
        shown = " ".join(
            character if character.isprintable() else f"U+{ord(character):04X}" for character in wrong
        )
        raise ValueError(f"a model's name can't hold {shown}; use letters, digits, blanks and . _ -")
    if name != name.strip() or not name or name == "." or name.startswith(".."):
        raise ValueError("a model's name can't be empty or ., begin with .., or begin or end with a blank")
    if name.endswith("-journal"):
        raise ValueError(
            "names with -journal at their end are for the journals of models; choose another end"
        )
    if len(name.encode()) > MODEL_NAME_BYTES:
        raise ValueError(f"a model's name has at most {MODEL_NAME_BYTES} bytes; shorten it")
    return name


ModelName = Annotated[str, AfterValidator(_registered_name)]


def _cron_or_never(text: str) -> str:
    """Refuse a schedule that Airflow could not read, or that has no next time."""
    problem = cron_problem(text) if text != NEVER else ""
    if problem:
        raise ValueError(f"{problem}; write {CRON_WORDS}")
    return text


CRON_WORDS = "a text of cron's form in UTC, such as '0 3 * * 1' or '@daily', or none"
Schedule = Annotated[str, AfterValidator(_cron_or_never), _read_with_dags(CRON_WORDS)]


class Section(BaseModel):
    """A part of params.yaml.

    A value of another kind is never converted, and an empty section is one left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_left_out(cls, given: Any) -> Any:
        return {} if given is None else given


class DataParams(Section):
    others: Annotated[tuple[Annotated[Text, AfterValidator(composed)], ...], LIST] = ("others",)
    serve_catalogue: bool = False


class ValidateParams(Section):
    min_skus: Positive = 2
    min_images_per_sku: Positive = 2
    max_sparse_share: Share = 0.05
    max_without_gallery_share: Share = 0.05
    max_without_query_share: Share = 0.5
    max_quarantined_share: Share = 0.02
    max_duplicate_share: Share = 0.3
    max_conflict_share: Share = 0.01
    max_leaked_share: Share = 0.2
    min_short_side: Positive = 32
    max_long_side: Positive = 10_000
    max_aspect: Factor = 10.0
    max_slim_share: Share = 0.01
    formats: Annotated[Words, Field(examples=[["JPEG", "PNG"]])] = (
        "JPEG",
        "PNG",
        "WEBP",
        "BMP",
        "GIF",
        "TIFF",
    )
    modes: Annotated[Words, Field(examples=[["L", "RGB"]])] = (
        *("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"),
        *("I;16", "I;16B", "I;16L", "I;16N"),
    )
    max_removed_share: Share = 0.1
    max_added_share: Share = 0.5
    min_images_ratio: Share = 0.8
    max_images_ratio: Factor = 3.0
    max_sku_ratio: Factor = 3.0
    max_changed_share: Share = 0.1
    max_size_ratio: Factor = 1.5
    max_aspect_ratio: Factor = 1.25


class SplitParams(Section):
    val_share: Share = 0.1
    unseen_share: Share = 0.05
    max_difference: Share = 0.014


class EncoderParams(Section):
    model: Text = "efficientnet-lite0"
    weights: Text = "package"
    height: Annotated[int, Field(ge=32, le=1024)] = 288
    width: Annotated[int, Field(ge=32, le=1024)] = 288
    resize: Literal["squash", "pad", "crop"] = "squash"
    dim: Annotated[int, Field(ge=0, le=4096)] = 0


class ProbeParams(Section):
    epochs: Annotated[int, Field(ge=0, le=10_000)] = 0
    views: Positive = 4
    lr: Rate = 1e-2
    batch: Positive = 256


class FixParams(Section):
    epochs: Annotated[int, Field(ge=0, le=1000)] = 0
    lr_share: Annotated[float, Field(gt=0, le=1)] = 0.1


class LossParams(Section):
    kind: Literal["arcface", "subcentre", "cosface", "supcon"] = "arcface"
    margin: Annotated[float, Field(ge=0, lt=1.5)] = 0.2
    margin_epochs: Annotated[float, Field(ge=0)] = 1.0
    scale: Annotated[float, Field(gt=0)] = 24.0
    centres: Annotated[int, Field(ge=1, le=16)] = 3
    temperature: Annotated[float, Field(gt=0)] = 0.1
    label_smoothing: Share = 0.1
    dims: Annotated[tuple[Positive, ...], LIST, Field(examples=[[64, 128]])] = ()


class SamplingParams(Section):
    power: Annotated[float, Field(ge=0, le=1)] = 1.0
    per_sku: Annotated[int, Field(ge=0)] = 0


class AugmentParams(Section):
    view: Annotated[float, Field(ge=0.25, le=1)] = 0.8
    min_crop: Annotated[float, Field(gt=0, le=1)] = 0.25
    ratio: Share = 0.3
    rotate: Annotated[float, Field(ge=0, le=45)] = 20.0
    perspective: Annotated[float, Field(ge=0, lt=0.25)] = 0.12
    flip: Share = 0.0
    jitter: Share = 0.6
    blur: Share = 0.3
    jpeg: Share = 0.3
    occlude: Share = 0.6
    cutout: Annotated[int, Field(ge=0)] = 64


class OptimizerParams(Section):
    lr_tower: Rate = 3e-4
    lr_head: Rate = 3e-3
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.05
    warmup_share: Share = 0.3
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    clip: Annotated[float, Field(ge=0)] = 0.0


class AverageParams(Section):
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    wise: Annotated[tuple[Margin, ...], LIST, Field(examples=[[0.5, 0.7, 0.9]])] = ()


class TowerParams(Section):
    freeze: Share = 0.24
    lora_rank: Annotated[int, Field(ge=0)] = 0
    patch_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    checkpointing: bool = False
    compile: bool = False


class TrainParams(Section):
    epochs: Annotated[int, Field(ge=0, le=1000)] = 24
    batch: Annotated[int, Field(ge=2, le=65536)] = 32
    validate_every: Positive = 3
    patience: Annotated[int, Field(ge=0)] = 0
    probe: ProbeParams = ProbeParams()
    fix: FixParams = FixParams()
    loss: LossParams = LossParams()
    sampling: SamplingParams = SamplingParams()
    augment: AugmentParams = AugmentParams()
    optimizer: OptimizerParams = OptimizerParams()
    average: AverageParams = AverageParams()
    tower: TowerParams = TowerParams()

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.loss.kind == "supcon" and self.sampling.per_sku < 2:
            raise ValueError(
                "loss.kind supcon compares pictures of one SKU in a batch; set sampling.per_sku to 2 or more"
            )
        if self.patience and not self.epochs:
            raise ValueError("patience is for fine-tuning; raise epochs, or set patience to 0")
        if self.patience and self.fix.epochs:
            raise ValueError(
                "patience would end the training before the fix; set patience or fix.epochs to 0"
            )
        if 0 < self.patience < self.validate_every:
            raise ValueError(
                "patience would end before the next validation; raise it, or lower validate_every"
            )
        if self.average.wise and not self.epochs + self.fix.epochs:
            raise ValueError("average.wise is for fine-tuning; raise epochs, or set it to []")
        return self


class EmbedParams(Section):
    batch: Positive = 64


class SearchParams(Section):
    backend: Literal["faiss", "torch"] = "faiss"


class EvaluateParams(Section):
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    resamples: Annotated[int, Field(ge=100)] = 10_000
    tail_images: Positive = 20
    voters: Annotated[int, Field(ge=1, le=50)] = 10
    unknown_rate: Annotated[float, Field(gt=0, lt=1)] = 0.05


class GuardMargins(Section):
    """Shares by which top-1 of a guarded slice may fall; 1 takes a guard off duty."""

    macro: Margin = 0.01
    tail: Margin = 0.03
    unseen: Margin = 0.03
    near_duplicate_free: Margin = 0.01
    k5: Margin = 0.01


class GateParams(Section):
    floor_top1: Share = 0.5
    margin: Share = 0.0
    retrains_a_year: Positive = 52
    false_promotions_a_year: Annotated[float, Field(gt=0)] = 0.5
    guard_margins: GuardMargins = GuardMargins()
    guard_confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    guard_min_skus: Annotated[int, Field(ge=10)] = 30
    resamples: Annotated[int, Field(ge=1000)] = 10_000
    max_bundle_mb: Positive = 2000
    max_p95_ms: Positive = 1000

    @model_validator(mode="after")
    def _some_confidence(self) -> Self:
        if self.confidence <= 0.5:
            raise ValueError("false_promotions_a_year should be less than half of retrains_a_year")
        return self

    @property
    def confidence(self) -> float:
        """Of one comparison, one-sided: each may let the year's share of false promotions through."""
        return 1 - self.false_promotions_a_year / self.retrains_a_year


class RefreshParams(Section):
    """When a refreshed gallery is fit to serve, and which new products are held back."""

    max_drop: Margin = 0.015
    max_unknown_rise: Margin = 0.03
    min_new_found: Share = 0.5
    max_new_unknown: Margin = 0.3
    max_taken: Margin = 0.3
    min_skus: Annotated[int, Field(ge=10)] = 300
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    resamples: Annotated[int, Field(ge=1000)] = 10_000
    accept: Annotated[
        tuple[Annotated[Text, AfterValidator(composed)], ...], LIST, Field(examples=[["cola", "tea"]])
    ] = ()


class ReleaseParams(Section):
    model_name: ModelName = "skumatch"
    approval: Literal["none", "required"] = "none"
    approval_refresh: Literal["none", "required"] = "none"
    approval_hours: Annotated[int, Field(ge=1, le=8760), READ_WITH_DAGS] = 72


class ScheduleParams(Section):
    retrain: Schedule = "0 3 * * 1"
    refresh: Schedule = "30 * * * *"
    on_new_data: Annotated[bool, READ_WITH_DAGS] = True
    debounce_minutes: Annotated[int, Field(ge=0, le=60), READ_WITH_DAGS] = 5


class RuntimeParams(Section):
    device: Literal["auto", "cpu", "cuda"] = "auto"
    nproc: Annotated[int, Field(ge=1, le=1024)] = 1
    threads: Annotated[int, Field(ge=0)] = 0
    workers: Annotated[int, Field(ge=0)] | None = None
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 60.0
    execution: Annotated[Literal["subprocess", "docker"], READ_WITH_DAGS] = "subprocess"
    parallel_runs: Annotated[int, Field(ge=1, le=1000), READ_WITH_DAGS] = 1
    queues: Annotated[
        dict[str, Queue],
        _read_with_dags("a section of stages and their queues"),
        Field(examples=[{"train": "gpu"}]),
    ] = QUEUES
    timeout_hours: Annotated[
        dict[str, Hours],
        _read_with_dags("a section of stages and their hours, whole numbers, at least 1 and at most 168"),
        Field(examples=[{"train": 24}]),
    ] = TIMEOUT_HOURS

    @field_validator("queues", mode="before")
    @classmethod
    def _queues_of_stages(cls, queues: Any) -> Any:
        return _named(queues, QUEUES, STAGES)

    @field_validator("timeout_hours", mode="before")
    @classmethod
    def _hours_of_tasks(cls, hours: Any) -> Any:
        return _named(hours, TIMEOUT_HOURS, TASKS)

    @property
    def longest_task_hours(self) -> int:
        """After so many hours Airflow has stopped any task."""
        return max(OTHER_TIMEOUT_HOURS, *self.timeout_hours.values())


def _named(given: Any, defaults: dict[str, Any], names: tuple[str, ...]) -> Any:
    """Check the names of a section of stages; a stage that is left out keeps its default."""
    if not isinstance(given, dict):
        return given
    unknown = [name for name in given if name not in names]
    if unknown:
        raise ValueError(f"there is no stage '{unknown[0]}'; the stages are {', '.join(names)}")
    return defaults | given


class Params(Section):
    """The whole of params.yaml.

    A stage depends on the sections dvc.yaml names for it; `runtime` is tracked by none.
    """

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 7
    data: DataParams = DataParams()
    validation: ValidateParams = Field(default=ValidateParams(), alias="validate")
    split: SplitParams = SplitParams()
    encoder: EncoderParams = EncoderParams()
    train: TrainParams = TrainParams()
    embed: EmbedParams = EmbedParams()
    search: SearchParams = SearchParams()
    evaluate: EvaluateParams = EvaluateParams()
    gate: GateParams = GateParams()
    refresh: RefreshParams = RefreshParams()
    release: ReleaseParams = ReleaseParams()
    schedule: ScheduleParams = ScheduleParams()
    runtime: RuntimeParams = RuntimeParams()

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        train = self.train
        if (train.patience or train.average.wise) and not self.split.val_share:
            raise ValueError(
                "train.patience and train.average.wise need pictures to validate on; raise split.val_share, or turn them off"
            )
        if train.probe.epochs and train.loss.kind == "supcon" and not self.encoder.dim:
            raise ValueError(
                "a probe with loss.kind supcon fits a projection, and nothing else; set encoder.dim to its length, or turn it off"
            )
        if train.probe.epochs and not train.epochs + train.fix.epochs and not self.encoder.dim:
            raise ValueError(
                "a probe alone trains a projection; set encoder.dim to its length, or train.epochs to more than 0"
            )
        return self
