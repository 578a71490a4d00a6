"""Sections of params.yaml as pydantic models.

The defaults are the shipped recipe; the annotations hold each value's bounds.
"""

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
    """Mark a parameter that dags/recipe.py reads with the DAGs, before any run is known.

    Args:
        words: Describe a valid value, for error messages; None: derived from the JSON schema.
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
    """Refuse a name that MLflow would refuse later, or that filters and file names can't hold."""
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
    """Refuse a schedule that Airflow can't read, or that never fires."""
    problem = cron_problem(text) if text != NEVER else ""
    if problem:
        raise ValueError(f"{problem}; write {CRON_WORDS}")
    return text


CRON_WORDS = "a text of cron's form in UTC, such as '0 3 * * 1' or '@daily', or none"
Schedule = Annotated[str, AfterValidator(_cron_or_never), _read_with_dags(CRON_WORDS)]


class Section(BaseModel):
    """Base class of every section of params.yaml.

    Values are never converted from another type, and an empty section counts as left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_left_out(cls, section: Any) -> Any:
        return {} if section is None else section


class DataParams(Section):
    """Special classes of the data set.

    Attributes:
        others: Catch-all classes. They are no SKUs: never trained on, never in the gallery, tested as
            unknown products.
        serve_catalogue: Whether to match against the catalogue picture of a product that has no other
            gallery picture.
    """

    others: Annotated[tuple[Annotated[Text, AfterValidator(composed)], ...], LIST] = ("others",)
    serve_catalogue: bool = False


class ValidateParams(Section):
    """Expectations that a data version must meet.

    The last nine compare with the version before under the same `release.model_name`; the rendered
    sample counts as none.

    Attributes:
        min_skus: Fewest SKUs with gallery images.
        min_images_per_sku: SKUs with fewer gallery images are sparse, and named in the report.
        max_sparse_share: Largest share of sparse SKUs among the SKUs with gallery images.
        max_without_gallery_share: Largest share of SKUs with queries but no gallery image.
        max_without_query_share: Largest share of SKUs with gallery images but no query.
        max_quarantined_share: Largest share of delivered images that could not be used.
        max_duplicate_share: Largest share of images with the same pixels as an earlier image.
        max_conflict_share: Largest share of images whose pixels carry two SKUs.
        max_leaked_share: Largest share of queries with the same pixels as a gallery image.
        min_short_side: Pixels; images with a smaller short side are set aside at import.
        max_long_side: Pixels; images with a larger long side count as slim.
        max_aspect: Images whose long side is more than so many times the short side count as slim.
        max_slim_share: Largest share of images beyond `max_long_side`, or beyond `max_aspect`.
        formats: Accepted file formats, in Pillow's words.
        modes: Accepted pixel modes, in Pillow's words.
        max_removed_share: Largest share of the earlier version's SKUs that are gone.
        max_added_share: Largest share of today's SKUs that are new.
        min_images_ratio: Fewest images today for each earlier one: in all, and on either side.
        max_images_ratio: Most images today for each earlier one: in all, and on either side.
        max_sku_ratio: Factor by which the number of a SKU's images may grow or shrink.
        max_changed_share: Largest share of SKUs beyond `max_sku_ratio`.
        max_size_ratio: Factor by which the short side of pictures may grow or shrink.
        max_aspect_ratio: Factor by which pictures may become wider or narrower in shape.
    """

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
    """How images are kept from training.

    Attributes:
        val_share: Share of gallery images kept from training, to tune and calibrate on.
        unseen_share: Share of SKUs, chosen by a hash of their names, that are in the gallery but never
            trained on.
        max_difference: Largest share of a picture's variance by which a near-duplicate may differ.
    """

    val_share: Share = 0.1
    unseen_share: Share = 0.05
    max_difference: Share = 0.014


class EncoderParams(Section):
    """The encoder's tower, canvas and projection.

    Attributes:
        model: `efficientnet-lite0`, `vit-s14-dinov2`, or the name of an open_clip model.
        weights: `package` (offline, for efficientnet-lite0), a .safetensors path, an open_clip tag or `none`.
        height: Canvas height in pixels.
        width: Canvas width in pixels.
        resize: `squash` fills the canvas, `pad` keeps the aspect ratio and fills with the mean colour,
            `crop` takes the middle.
        dim: Length of the embedding, through a trained projection; 0: the tower's own features.
    """

    model: Text = "efficientnet-lite0"
    weights: Text = "package"
    height: Annotated[int, Field(ge=32, le=1024)] = 288
    width: Annotated[int, Field(ge=32, le=1024)] = 288
    resize: Literal["squash", "pad", "crop"] = "squash"
    dim: Annotated[int, Field(ge=0, le=4096)] = 0


class ProbeParams(Section):
    """Training of projection and head alone, on the frozen tower's features, before fine-tuning.

    Attributes:
        epochs: Number of epochs; 0: no probe.
        views: Views of each picture: one as it is, the others augmented.
        lr: Learning rate.
        batch: Views in a batch.
    """

    epochs: Annotated[int, Field(ge=0, le=10_000)] = 0
    views: Positive = 4
    lr: Rate = 1e-2
    batch: Positive = 256


class FixParams(Section):
    """Training after fine-tuning on whole pictures at serving size, without augmentation.

    Attributes:
        epochs: Number of epochs; 0: none.
        lr_share: Learning rates, as a share of those of fine-tuning.
    """

    epochs: Annotated[int, Field(ge=0, le=1000)] = 0
    lr_share: Annotated[float, Field(gt=0, le=1)] = 0.1


class LossParams(Section):
    """Loss of the training.

    Attributes:
        kind: `subcentre` is ArcFace with several centres for each SKU; `supcon` compares pairs and needs
            `sampling.per_sku`.
        margin: In radians for arcface and subcentre, in cosine for cosface.
        margin_epochs: Epochs over which the margin grows linearly from 0.
        scale: Factor of the cosines.
        centres: Centres of each SKU, for subcentre.
        temperature: Temperature of supcon.
        label_smoothing: Share of label smoothing, for all but supcon.
        dims: Matryoshka: prefix lengths of the embedding that the loss is applied to as well.
    """

    kind: Literal["arcface", "subcentre", "cosface", "supcon"] = "arcface"
    margin: Annotated[float, Field(ge=0, lt=1.5)] = 0.2
    margin_epochs: Annotated[float, Field(ge=0)] = 1.0
    scale: Annotated[float, Field(gt=0)] = 24.0
    centres: Annotated[int, Field(ge=1, le=16)] = 3
    temperature: Annotated[float, Field(gt=0)] = 0.1
    label_smoothing: Share = 0.1
    dims: Annotated[tuple[Positive, ...], LIST, Field(examples=[[64, 128]])] = ()


class SamplingParams(Section):
    """How training images are drawn.

    Attributes:
        power: A SKU with n images is drawn n ** power times as often as a SKU with one; 1: each image once
            an epoch.
        per_sku: Images of each SKU in a batch (P-K sampling); 0: no such constraint.
    """

    power: Annotated[float, Field(ge=0, le=1)] = 1.0
    per_sku: Annotated[int, Field(ge=0)] = 0


class AugmentParams(Section):
    """Augmentation of training views.

    Attributes:
        view: Side of a training view, as a share of the canvas; ViTs always take the whole canvas.
        min_crop: Side of the smallest random crop, as a share of the picture's side.
        ratio: Share by which the crop's aspect ratio changes.
        rotate: Largest rotation either way, in degrees.
        perspective: Largest shift of a corner, as a share of the side.
        flip: Share of views that are mirrored.
        jitter: Strength of the changes of light and colour.
        blur: Share of views with motion blur.
        jpeg: Share of views that are compressed once more.
        occlude: Share of views with a neighbour over one edge.
        cutout: Side of the grey square, in pixels of a canvas of 224; 0: none.
    """

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
    """AdamW's settings for fine-tuning.

    Attributes:
        lr_tower: Learning rate of the tower.
        lr_head: Learning rate of projection and head.
        weight_decay: Decoupled weight decay.
        warmup_share: Share of the steps in which the learning rate rises.
        layer_decay: Learning rate of a layer, as a share of the rate of the layer after it; 1: one rate.
        clip: Largest norm of the gradients; 0: no limit.
    """

    lr_tower: Rate = 3e-4
    lr_head: Rate = 3e-3
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.05
    warmup_share: Share = 0.3
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    clip: Annotated[float, Field(ge=0)] = 0.0


class AverageParams(Section):
    """Averages of weights.

    Attributes:
        ema: Decay of the weights' moving average, which is then validated and kept; 0: the last weights.
        wise: WiSE-FT: shares of the way from the weights before training to those after it. The best one in
            validation is kept.
    """

    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    wise: Annotated[tuple[Margin, ...], LIST, Field(examples=[[0.5, 0.7, 0.9]])] = ()


class TowerParams(Section):
    """How much of the tower is trained, and at which cost.

    Attributes:
        freeze: Share of the tower's layers, from its input, that stay as they are.
        lora_rank: Rank of the low-rank updates of a ViT's blocks, merged afterwards; 0: all weights.
        patch_dropout: Share of a ViT's patches left out in training.
        checkpointing: Whether to recompute activations in the backward pass, for less memory.
        compile: Whether to use torch.compile.
    """

    freeze: Share = 0.24
    lora_rank: Annotated[int, Field(ge=0)] = 0
    patch_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    checkpointing: bool = False
    compile: bool = False


class TrainParams(Section):
    """Parameters of the stage `train`.

    Attributes:
        epochs: Epochs of fine-tuning the whole encoder.
        batch: Images in a batch.
        validate_every: Epochs between validations; the last epoch is always validated.
        patience: Epochs without a better validation top-1 before training stops; 0: never.
        probe: Training of projection and head before fine-tuning.
        fix: Training at serving size after fine-tuning.
        loss: The loss.
        sampling: How images are drawn.
        augment: Augmentation.
        optimizer: The optimizer.
        average: Averages of weights.
        tower: How much of the tower is trained.
    """

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
    """Parameters of the stage `embed`.

    Attributes:
        batch: Images in a batch.
    """

    batch: Positive = 64


class SearchParams(Section):
    """Nearest-neighbour search.

    Attributes:
        backend: Both backends are exact.
    """

    backend: Literal["faiss", "torch"] = "faiss"


class EvaluateParams(Section):
    """Parameters of the stage `evaluate`.

    Attributes:
        confidence: Confidence of every printed interval.
        resamples: Resamples of the cluster bootstrap by SKU.
        tail_images: SKUs with at most so many gallery images form the tail.
        voters: Nearest images that vote in the k-NN scorer.
        unknown_rate: Share of known products' pictures that may be called unknown.
    """

    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    resamples: Annotated[int, Field(ge=100)] = 10_000
    tail_images: Positive = 20
    voters: Annotated[int, Field(ge=1, le=50)] = 10
    unknown_rate: Annotated[float, Field(gt=0, lt=1)] = 0.05


class GuardMargins(Section):
    """Largest drops of top-1 in each guarded slice, as shares; 1 turns a guard off.

    Attributes:
        macro: Mean over SKUs, each counted alike.
        tail: SKUs of at most `evaluate.tail_images` gallery images.
        unseen: SKUs that were never trained on.
        near_duplicate_free: Every query, matched without the gallery images of its own duplicate group.
        k5: Protocol `k5`: at most five images of each SKU on either side.
    """

    macro: Margin = 0.01
    tail: Margin = 0.03
    unseen: Margin = 0.03
    near_duplicate_free: Margin = 0.01
    k5: Margin = 0.01


class GateParams(Section):
    """Parameters of the gate, which compares a challenger with the champion.

    Attributes:
        floor_top1: Least top-1 of any model, the first included.
        margin: The lower bound of the gain in top-1 must be above this share.
        retrains_a_year: Number of comparisons a year.
        false_promotions_a_year: Expected promotions a year of models no better than the champion.
        guard_margins: Largest drop of top-1 in each guarded slice.
        guard_confidence: Confidence of all guards together (Holm's correction).
        guard_min_skus: A slice with fewer SKUs is reported and not judged, unless it shows harm.
        resamples: Resamples of the cluster bootstrap by SKU.
        max_bundle_mb: Largest bundle, in megabytes.
        max_p95_ms: Largest 95th percentile of a query's processor time on one thread, in milliseconds.
    """

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
        """One-sided confidence of one comparison: 1 - `false_promotions_a_year` / `retrains_a_year`."""
        return 1 - self.false_promotions_a_year / self.retrains_a_year


class RefreshParams(Section):
    """Limits of a refreshed gallery's fitness to serve, and of new products that are held back.

    All limits are shares. The first two are judged against what serves and the last model release.

    Attributes:
        max_drop: Largest drop in the share of old products' queries that are answered right.
        max_unknown_rise: Largest rise in the share of old products' queries that are called unknown.
        min_new_found: Least share of new products' queries that are answered right. The refresh stops below
            it, and a single product below it is held back.
        max_new_unknown: Largest share of new products' queries that are called unknown.
        max_taken: A new product that takes a larger share of an old product's right answers is held back.
        min_skus: With fewer old products, their loss itself is compared with the limit, not its bound.
        confidence: One-sided confidence of each check.
        resamples: Resamples of the cluster bootstrap by SKU.
        accept: SKUs that a person accepts: never held back, named in the record.
    """

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
    """How models and galleries are released.

    Attributes:
        model_name: Name of MLflow's registered model.
        approval: `required`: a person approves a model in Airflow before it becomes the champion.
        approval_refresh: The same for a refreshed gallery.
        approval_hours: Hours after which an unanswered question ends and promotes nothing.
    """

    model_name: ModelName = "skumatch"
    approval: Literal["none", "required"] = "none"
    approval_refresh: Literal["none", "required"] = "none"
    approval_hours: Annotated[int, Field(ge=1, le=8760), READ_WITH_DAGS] = 72


class ScheduleParams(Section):
    """Schedules of runs that start without a person.

    Attributes:
        retrain: Cron text in UTC for retrains, or `none`.
        refresh: Cron text in UTC for refreshes, or `none`.
        on_new_data: Whether an import starts a refresh.
        debounce_minutes: Such a refresh waits until no import came for so many minutes.
    """

    retrain: Schedule = "0 3 * * 1"
    refresh: Schedule = "30 * * * *"
    on_new_data: Annotated[bool, READ_WITH_DAGS] = True
    debounce_minutes: Annotated[int, Field(ge=0, le=60), READ_WITH_DAGS] = 5


class RuntimeParams(Section):
    """Device, processes, queues and limits of the stages; no stage depends on this section.

    Attributes:
        device: Device for torch.
        nproc: Processes that train and embed together on this machine; with GPUs, one card for each.
        threads: Torch threads of each process; 0: all cores, shared. The same number gives the same bits.
        workers: Processes that load pictures; None: up to 16 for a GPU, one for training on several
            CPU cores.
        checkpoint_seconds: Seconds between a training's checkpoints and between parts of vectors.
        execution: How an Airflow task starts its stage.
        parallel_runs: Retrains at a time.
        queues: Airflow queue of each stage; stages that are left out use the default queue.
        timeout_hours: Hours until a task is stopped; OTHER_TIMEOUT_HOURS for tasks that are left out.
    """

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
        """Largest number of hours that Airflow lets any task run."""
        return max(OTHER_TIMEOUT_HOURS, *self.timeout_hours.values())


def _named(section: Any, defaults: dict[str, Any], names: tuple[str, ...]) -> Any:
    """Check the stage names of a section and complete it with `defaults`.

    Raises:
        ValueError: a name is not in `names`.
    """
    if not isinstance(section, dict):
        return section
    unknown = [name for name in section if name not in names]
    if unknown:
        raise ValueError(f"there is no stage '{unknown[0]}'; the stages are {', '.join(names)}")
    return defaults | section


class Params(Section):
    """All of params.yaml.

    A stage depends on the sections that dvc.yaml lists for it; no stage depends on `runtime`.

    Attributes:
        seed: Seed of split, order of images, augmentation and bootstrap.
        data: Special classes.
        validation: The section `validate`, expectations of the data.
        split: How images are kept from training.
        encoder: Tower, canvas and projection.
        train: Training.
        embed: Embedding.
        search: Nearest-neighbour search.
        evaluate: Evaluation.
        gate: Comparison of the challenger with the champion.
        refresh: Fitness of a refreshed gallery.
        release: Releases.
        schedule: When runs start.
        runtime: Where and how stages run.
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
                "train.patience and train.average.wise need pictures to validate on; "
                "raise split.val_share, or turn them off"
            )
        if train.probe.epochs and train.loss.kind == "supcon" and not self.encoder.dim:
            raise ValueError(
                "a probe with loss.kind supcon fits a projection, and nothing else; "
                "set encoder.dim to its length, or turn it off"
            )
        if train.probe.epochs and not train.epochs + train.fix.epochs and not self.encoder.dim:
            raise ValueError(
                "a probe alone trains a projection; "
                "set encoder.dim to its length, or train.epochs to more than 0"
            )
        return self
