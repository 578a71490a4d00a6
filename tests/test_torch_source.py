"""`scripts/torch-source`: `make env` downloads no CUDA unasked, and waits for no dead index."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import ROOT

PYPI = "https://files.example.org/torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl"
OF_PYTORCH = "https://pytorch.example.org/torch-2.13.0%2Bcpu-cp311-cp311-manylinux_2_28_x86_64.whl"
Asked = Callable[..., tuple[str, str]]


@pytest.fixture
def decide(capsys: pytest.CaptureFixture[str]) -> Asked:
    """Run it on a machine that is described; returns pip's arguments and the sentence."""

    def run(
        *words: str, reachable: bool = True, card: bool = False, machine: str = "x86_64", local: bool = False
    ) -> tuple[str, str]:
        main = runpy.run_path(str(ROOT / "scripts/torch-source"))["main"]
        names: dict[str, Any] = main.__globals__

        class Machine:
            system, machine = staticmethod(lambda: "Linux"), staticmethod(lambda: machine_name)

        machine_name = machine
        names["platform"] = Machine
        names["has_card"] = lambda: card
        names["torch_file"] = lambda given: (
            OF_PYTORCH if local or any("pytorch" in w for w in given) else PYPI
        )
        names["answers"] = lambda _: reachable
        names["size_mb"] = lambda _: ", 7 MB"
        main(*words)
        printed = capsys.readouterr()
        return printed.out.strip(), printed.err.strip()

    return run


def test_without_a_card_pytorch_s_index_for_the_cpu_is_used(decide: Asked) -> None:
    arguments, sentence = decide("cpu")
    assert arguments.startswith("--extra-index-url https://download.pytorch.org/")
    assert "for the CPU (torch-2.13.0+cpu-" in sentence and "7 MB" in sentence and "CUDA" not in sentence


def test_without_a_card_and_index_nothing_is_downloaded(decide: Asked) -> None:
    with pytest.raises(SystemExit, match=r"no NVIDIA card.*(?s:.)*3 GB of CUDA.*EXTRA=gpu"):
        decide("cpu", reachable=False)


@pytest.mark.parametrize(
    ("words", "machine"),
    [(("gpu",), {}), (("cpu",), {"card": True})],
)
def test_cuda_is_downloaded_where_it_is_wanted(
    decide: Asked, words: tuple[str, ...], machine: dict[str, Any]
) -> None:
    arguments, sentence = decide(*words, reachable=False, **machine)
    assert arguments == "" and "with CUDA" in sentence and "3 GB" in sentence


@pytest.mark.parametrize("machine", [{"local": True}, {"machine": "aarch64"}])
def test_a_build_for_the_cpu_needs_no_other_index(decide: Asked, machine: dict[str, Any]) -> None:
    arguments, sentence = decide("cpu", reachable=False, **machine)
    assert arguments == "" and "for the CPU" in sentence


def test_an_index_that_can_not_be_reached_is_no_answer() -> None:
    answers = runpy.run_path(str(ROOT / "scripts/torch-source"))["answers"]
    assert answers("http://127.0.0.1:9/torch/") is False
    assert answers("no address") is False
