"""The run's report: a static page for the person who has to trust the decision, and a short model card."""

from __future__ import annotations

from functools import cache

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from skumatch.report.context import ReportContext
from skumatch.report.view import percent, view
from skumatch.texts import FILTERS

METRICS = {"top1": "top-1", "top3": "top-3", "top5": "top-5", "macro_top1": "top-1, mean over SKUs"}
# Place in the report for facts that no result may hold, such as times; the copy that is kept has them there.
RUN_FACTS = "<!-- facts of the run -->"
DATA_DOCS = "../validate/docs.html"  # from the report's place among the stages' results, here and in MLflow


def render_report(context: ReportContext) -> str:
    """Return the report as one HTML file without scripts and without links to other files or fonts.

    Every text from the data is escaped.
    """
    return _rendered("report.html.jinja", context)


def model_card(context: ReportContext) -> str:
    """Return the model card: the model, its figures, its data, and its intended and unintended uses.

    It is Markdown, with the metadata for Hugging Face at its head.
    """
    return f"---\n{_metadata(context).to_yaml()}\n---\n\n{_rendered('card.md.jinja', context)}"


def _metadata(context: ReportContext) -> ModelCardData:
    task = f"product matching, protocol {context.challenger.protocol}"
    results = [
        EvalResult(
            task_type="image-feature-extraction", task_name=task, dataset_type="private",
            dataset_name="a skumatch data version", metric_type=name, metric_name=words,
            metric_value=round(getattr(context.challenger, name), 6),
        )
        for name, words in METRICS.items()
    ]  # fmt: skip
    return ModelCardData(
        model_name=context.model_name, library_name="skumatch", pipeline_tag="image-feature-extraction",
        eval_results=results, base_model=context.training.weights if context.training else None,
        tags=["image-retrieval", "product-recognition", "retail"],
    )  # fmt: skip


def _rendered(name: str, context: ReportContext) -> str:
    places = {"data_docs": DATA_DOCS, "run_facts": Markup(RUN_FACTS)}  # noqa: S704 - a constant
    return _environment().get_template(name).render(view(context), **places)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("skumatch.report"),
        autoescape=select_autoescape(disabled_extensions=("md.jinja",), default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= FILTERS | {
        "percent": percent,
        "points": points,
        "cell": cell,
        "sentence": sentence,
        "spread": spread,
    }
    return environment


def spread(bounds: tuple[float, float]) -> str:
    """Write an interval of shares in percent: (0.91, 0.97) is "91.0–97.0"."""
    return f"{100 * bounds[0]:.1f}–{100 * bounds[1]:.1f}"


def points(share: float) -> str:
    """Write a difference of shares in points, with a sign and a true minus: 0.005 is "+0.5"."""
    return f"{100 * share:+.1f}".replace("-", "\u2212")


def sentence(text: str) -> str:
    """Return the text with a capital first letter."""
    return text[:1].upper() + text[1:]


def cell(value: object) -> str:
    """Return a value as text for a Markdown table: one line, with markup escaped."""
    text = " ".join(str(value).split())
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>|#~" else letter for letter in text)
