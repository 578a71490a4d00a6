"""The run's report: one static page for the person who must trust the decision, and a short model card."""

from __future__ import annotations

from functools import cache

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from skumatch.report.context import ReportContext
from skumatch.report.view import percent, view

METRICS = {"top1": "top-1", "top3": "top-3", "top5": "top-5", "macro_top1": "top-1, mean over SKUs"}
DATA_DOCS = "../validate/docs.html"  # from the report's place among the stages' results, here and in MLflow


def render_report(context: ReportContext) -> str:
    """One HTML file with everything in it: no script, no link, no font from elsewhere.

    Every text of the data escaped.
    """
    return _rendered("report.html.jinja", context)


def model_card(context: ReportContext) -> str:
    """What the model is, how good, on what, and what it is not for.

    Markdown, with the facts that Hugging Face reads at its head.
    """
    return f"---\n{_metadata(context).to_yaml()}\n---\n\n{_rendered('card.md.jinja', context)}"


def _metadata(context: ReportContext) -> ModelCardData:
    told = f"product matching, protocol {context.challenger.protocol}"
    results = [
        EvalResult(
            task_type="image-feature-extraction", task_name=told, dataset_type="private", dataset_name="a skumatch data version",
            metric_type=name, metric_name=words, metric_value=round(getattr(context.challenger, name), 6),
        )
        for name, words in METRICS.items()
    ]  # fmt: skip
    return ModelCardData(
        model_name=context.model_name, library_name="skumatch", pipeline_tag="image-feature-extraction", eval_results=results,
        base_model=context.training.weights if context.training else None, tags=["image-retrieval", "product-recognition", "retail"],
    )  # fmt: skip


def _rendered(name: str, context: ReportContext) -> str:
    return _environment().get_template(name).render(view(context), data_docs=DATA_DOCS)


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("skumatch.report"),
        autoescape=select_autoescape(disabled_extensions=("md.jinja",), default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {
        "percent": percent,
        "points": points,
        "count": "{:,}".format,
        "cell": cell,
        "sentence": sentence,
        "spread": spread,
    }
    return made


def spread(bounds: tuple[float, float]) -> str:
    return f"{100 * bounds[0]:.1f}–{100 * bounds[1]:.1f}"


def points(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "\u2212")


def sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def cell(value: object) -> str:
    """Text for a Markdown table: one line that opens no markup."""
    text = " ".join(str(value).split())
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>|#~" else letter for letter in text)
