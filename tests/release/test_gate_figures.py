"""What the gate measured, as a version's tag keeps it: no figure stands there without what it rests on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from skumatch.gate.gate import Gain
from skumatch.pipeline.message import Message
from skumatch.pipeline.register import figures_of
from skumatch.registry.gate_figures import ChampionGain, GateFigures, read_figures
from skumatch.retrieval.answers import Share
from tests.release.test_gate import evaluation, hits

MEASURED = {"gallery": "g" * 64, "queries": "q" * 64, "encoder": "e" * 64}
CHAMPION = evaluation(hits(2), hashes=MEASURED)
CHALLENGER = evaluation(hits(1), hashes=MEASURED)


def share(right: float) -> Share:
    return Share(n=80, skus=4, right=right, wrong=1 - right, unknown=0.0, interval=(0.0, 1.0))


def measured(champion: int | None, **parts: Any) -> GateFigures:
    """The figures of a run whose challenger was promoted, but for `parts` of its outcome."""
    gain = Gain(estimate=0.1, lower=0.02, confidence=0.99, smallest_detectable=None)
    outcome: dict[str, Any] = {
        "released": CHALLENGER,
        "refreshed": CHAMPION,
        "gallery_release": False,
        "answers": {"served": {"all": share(0.7)}, "refreshed": {"all": share(0.75)}},
        "data": "d" * 36,
        "decision": SimpleNamespace(gain=gain),
    }
    message = Message(run="now", inputs="0", champion=champion)
    return figures_of(message, SimpleNamespace(**(outcome | parts)))  # type: ignore[arg-type]


def test_a_model_has_the_gain_over_the_champion_on_the_same_queries() -> None:
    figures = measured(3)
    assert (figures.protocol, figures.gallery, figures.queries) == ("full", "g" * 64, "q" * 64)
    assert (figures.top1, figures.low, figures.high, figures.n) == (CHALLENGER.top1, 0, 1, CHALLENGER.n)
    assert figures.gain == ChampionGain(
        champion=3,
        figure="top-1",
        before=CHAMPION.top1,
        after=CHALLENGER.top1,
        lower=0.02,
        confidence=0.99,
    )
    assert "protocol full, gallery gggggggggggg" in figures.words and "data version dddd" in figures.words


def test_a_gallery_has_the_change_of_the_right_answers_as_served() -> None:
    """Its encoder is the champion's, so its top-1 shows no gain."""
    gain = measured(3, gallery_release=True, released=CHAMPION).gain
    assert gain == ChampionGain(champion=3, figure="right answers", before=0.7, after=0.75)


def test_a_first_version_has_no_gain() -> None:
    assert measured(None, refreshed=None, decision=SimpleNamespace(gain=None), answers={}).gain is None


@pytest.mark.parametrize("text", [None, "", "{}", "no JSON"])
def test_a_tag_that_cannot_be_read_is_no_figure(text: str | None) -> None:
    whole = measured(3)
    assert read_figures(whole.model_dump_json()) == whole and read_figures(text) is None
