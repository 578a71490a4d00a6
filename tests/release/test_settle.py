"""Choice of the release: the challenger, the refreshed gallery, or nothing."""

from __future__ import annotations

from typing import Any

import pytest

from skumatch.gate.fitness import Fitness, FitnessCheck
from skumatch.gate.gate import BundleFacts, Decision, Products, Refreshed, settle
from skumatch.params import GateParams
from tests.release.test_gate import Case, evaluation, first, hits

POLICY = GateParams()
FACTS = {
    "challenger_bundle": "refreshed",
    "champion_bundle": "served",
    "bundle_mb": 15.0,
    "blessed": True,
    "p95_ms": 40.0,
    "dirty_code": False,
    "commit": "c0ffee",
}


def refreshed(
    fit: bool = True, changed: bool = True, wrong: int = 2, held: dict[str, str] | None = None, **facts: Any
) -> Refreshed:
    """A gallery with five new products, of which `held` are held back; it misses `wrong` of ten queries."""
    status = "passed" if fit else "failed"
    checks = (FitnessCheck(name="old_vs_served", status=status, detail="old products lose 3 points"),)
    fitness = Fitness(checks=checks, losses=(), accepted={}, unasked=(), thresholds_note="")
    products = Products(new=5, retired=2, held=held or {})
    return Refreshed(
        evaluation(hits(wrong)), BundleFacts.model_validate(FACTS | facts), changed, fitness, products
    )


def model(verdict: str) -> Decision | None:
    """The gate's decision on a challenger; None for a refresh, which has none."""
    cases = {
        "first": first(),
        "promote": Case(),
        "keep": Case(ours=hits(2)),
        "refuse": Case(facts={"blessed": False}),
    }
    decision = cases[verdict].decide() if verdict != "none" else None
    assert decision is None or decision.verdict == verdict
    return decision


@pytest.mark.parametrize(
    ("challenger", "gallery", "verdict", "bundle"),
    [
        ("first", None, "first", "aa"),
        ("refuse", None, "refuse", "aa"),
        ("promote", refreshed(), "promote", "aa"),
        ("promote", refreshed(fit=False), "promote", "aa"),
        ("keep", refreshed(), "refresh", "refreshed"),
        ("keep", refreshed(fit=False), "keep", "aa"),
        ("keep", refreshed(changed=False), "keep", "aa"),
        ("refuse", refreshed(), "refresh", "refreshed"),
        ("refuse", refreshed(fit=False), "refuse", "aa"),
        ("none", refreshed(), "refresh", "refreshed"),
        ("none", refreshed(fit=False), "keep", "refreshed"),
        ("none", refreshed(changed=False), "keep", "refreshed"),
        ("none", refreshed(wrong=8), "keep", "refreshed"),
        ("none", refreshed(dirty_code=True), "refuse", "refreshed"),
        ("none", refreshed(commit=None), "refuse", "refreshed"),
        ("none", refreshed(blessed=False), "refuse", "refreshed"),
        ("none", refreshed(p95_ms=None), "refuse", "refreshed"),
        ("none", refreshed(bundle_mb=3000.0), "refuse", "refreshed"),
        ("none", refreshed(challenger_bundle=""), "refuse", ""),
    ],
)
def test_what_is_released(challenger: str, gallery: Refreshed | None, verdict: str, bundle: str) -> None:
    decision = settle(model(challenger), gallery, POLICY)
    assert (decision.verdict, decision.bundle) == (verdict, bundle)
    assert decision.promotable == (verdict in ("first", "promote", "refresh"))
    assert decision.model == (None if challenger == "none" else challenger)
    assert Decision.model_validate_json(decision.model_dump_json()) == decision
    assert decision.sentence.endswith(".") and decision.sentence.count("..") == 0


@pytest.mark.parametrize(
    ("gallery", "unfit"),
    [
        (refreshed(), False),
        (refreshed(changed=False), False),
        (refreshed(fit=False), True),
        (refreshed(blessed=False), True),
        (refreshed(fit=False, changed=False), False),
    ],
)
def test_an_unfit_gallery_is_told_from_one_that_did_not_change(gallery: Refreshed, unfit: bool) -> None:
    assert settle(None, gallery, POLICY).unfit == unfit


def test_a_refresh_is_told_with_its_products_by_name() -> None:
    few = settle(None, refreshed(held={"cola": "it is tea"}), POLICY).sentence
    assert few == "Refreshed the champion's gallery: 4 new products, 2 retired, 1 held back (cola)."
    many = settle(None, refreshed(held={f"sku {number}": "no" for number in range(9)}), POLICY).sentence
    assert "9 held back (sku 0, sku 1, sku 2, sku 3, sku 4 and 4 more)" in many


def test_a_promotion_names_what_its_own_gallery_holds_back() -> None:
    gallery = refreshed(held={"tea": "by the champion's encoder"})
    decision = settle(model("promote"), gallery, POLICY, {"cola": "by the challenger"})
    assert decision.products and decision.products.held == {"cola": "by the challenger"}
    assert decision.sentence.endswith("; 1 held back (cola).")
    kept = settle(model("keep"), gallery, POLICY, {"cola": "by the challenger"})
    assert (
        kept.products
        and kept.products.held == {"tea": "by the champion's encoder"}
        and "cola" not in kept.sentence
    )
    assert "held back" not in settle(model("promote"), gallery, POLICY).sentence


def test_a_retrain_that_refreshes_says_why_its_model_is_not_promoted() -> None:
    sentence = settle(model("keep"), refreshed(), POLICY).sentence
    assert (
        sentence.startswith("Refreshed the champion's gallery: 5 new products")
        and "Kept the champion: both models find as many" in sentence
    )
    kept = settle(model("keep"), refreshed(fit=False), POLICY).sentence
    assert kept.startswith("Kept the champion: ") and "its gallery stays: old products lose 3 points." in kept


def test_what_the_served_gallery_lacks_is_said_in_words() -> None:
    checks = {check.name: check for check in settle(None, refreshed(), POLICY).refresh}
    assert checks["changed"].detail == (
        "5 products of today's data can't be named by what serves, "
        "and 2 that it names are no longer in the data"
    )
    assert Products(new=1, retired=1).sentence.startswith(
        "1 product of today's data can't be named by what serves, and 1 that it names is"
    )
    assert Products(new=0, retired=0).sentence == "0 products of today's data can't be named by what serves"


def test_the_refreshed_bundle_is_among_the_hashes_of_the_decision() -> None:
    for challenger in ("promote", "keep", "none"):
        hashes = settle(model(challenger), refreshed(), POLICY).hashes
        assert (hashes["refreshed_bundle"], hashes["commit"]) == ("refreshed", "c0ffee")
        assert hashes["challenger_bundle"] == (None if challenger == "none" else "aa")
