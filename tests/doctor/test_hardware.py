"""A full disk, and graphics cards that this machine doesn't have."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from skumatch.config import Settings
from skumatch.doctor import machine
from skumatch.params import Params, RuntimeParams
from tests.doctor.asking import DATA, ask

DRIVER = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.10  Release Build\n"


def wanting(device: Any) -> Params:
    return Params(runtime=RuntimeParams(device=device))


class Usage(NamedTuple):
    free: int


def test_a_disk_without_room_is_told(here: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(6 * machine.GIB))
    assert ask(machine.disk, here).verdict == "ok"
    (here.project / "data.dvc").write_text(DATA.replace("size: 10", f"size: {4 * machine.GIB}"))
    finding = ask(machine.disk, here)
    assert finding.verdict == "warning" and "6.0 GiB free" in finding.found and "wants 8.0" in finding.found
    assert not here.home_dir.exists()


@pytest.mark.parametrize(
    ("files", "free", "verdict"), [(10**6, 9_999, "warning"), (10**6, 10_000, "ok"), (0, 0, "ok")]
)
def test_a_disk_that_takes_no_more_files_is_told(
    here: Settings, monkeypatch: pytest.MonkeyPatch, files: int, free: int, verdict: str
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(99 * machine.GIB))
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_files=files, f_favail=free))
    assert ask(machine.disk, here).verdict == verdict


class Cuda:
    """torch.cuda of a machine with two cards, or with none and a reason for it."""

    def __init__(self, capability: tuple[int, int] | None, arches: list[str], why: str = "") -> None:
        self.capability, self.arches, self.why = capability, arches, why

    def is_available(self) -> bool:
        if self.why:
            warnings.warn(self.why, stacklevel=1)
        return self.capability is not None

    def __getattr__(self, name: str) -> Any:
        answers = {"get_arch_list": self.arches, "device_count": 2, "get_device_capability": self.capability}
        answers |= {"get_device_name": "NVIDIA H100", "mem_get_info": (1, 80 * machine.GIB)}
        return lambda *_: answers[name]


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Makes torch one that finds such cards, is built for such a CUDA, and computes or raises.

    And NVIDIA's driver.
    """

    def make(cuda: Cuda, built: str | None = "12.8", broken: str = "") -> None:
        def ones(*_: object, **__: object) -> Any:
            if broken:
                raise RuntimeError(f"{broken}\nand much more")
            return SimpleNamespace(sum=lambda: SimpleNamespace(item=lambda: 2.0))

        monkeypatch.setitem(
            sys.modules, "torch", SimpleNamespace(cuda=cuda, ones=ones, version=SimpleNamespace(cuda=built))
        )

    driver = tmp_path / "version"
    driver.write_text(DRIVER)
    monkeypatch.setattr(machine, "DRIVER", driver)
    return make


def test_a_gpu_is_told_with_its_driver(here: Settings, card: Any) -> None:
    card(Cuda((9, 0), ["sm_80", "sm_90"]))
    finding = ask(machine.gpu, here, wanting("cuda"))
    assert (finding.verdict, finding.found) == ("ok", "2 × NVIDIA H100, 80 GiB, CUDA 12.8, driver 570.86.10")


def test_a_gpu_that_nobody_wants_is_not_looked_for(here: Settings, card: Any) -> None:
    card(Cuda(None, []))
    assert ask(machine.gpu, here, wanting("cpu")).verdict == "ok"


@pytest.mark.parametrize(("cuda", "built", "broken", "device", "verdict", "said"), [
    (Cuda((5, 0), ["sm_80"]), "12.8", "", "auto", "failed",
     "architecture 5.0; PyTorch is compiled for sm_80"),
    (Cuda((9, 0), ["sm_90"]), "12.8", "CUDA error: out of memory", "auto", "failed",
     "can't compute (CUDA error: out of memory)"),
    (Cuda(None, [], "The NVIDIA driver on your system is too old"), "12.8", "", "cuda", "failed", "too old"),
    (Cuda(None, []), None, "", "cuda", "failed", "built for the CPU only"),
    (Cuda(None, []), None, "", "auto", "warning",
     "driver 570.86.10, but PyTorch, built for the CPU only, finds no GPU"),
])  # fmt: skip
def test_a_gpu_that_cannot_be_used_is_told(
    here: Settings,
    card: Any,
    cuda: Cuda,
    built: str | None,
    broken: str,
    device: str,
    verdict: str,
    said: str,
) -> None:
    card(cuda, built, broken)
    finding = ask(machine.gpu, here, wanting(device))
    assert finding.verdict == verdict and said in finding.found
    assert ("CUDA build" in finding.fix) == (built is None)


def test_without_a_driver_there_is_no_gpu_to_miss(
    here: Settings, card: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    card(Cuda(None, []))
    monkeypatch.setattr(machine, "DRIVER", here.project / "none")
    assert ask(machine.gpu, here, wanting("auto")).verdict == "ok"
    assert ask(machine.gpu, here, wanting("cuda")).verdict == "failed"


@pytest.mark.parametrize(("capability", "arches", "runs"), [
    ((8, 6), ["sm_80"], True), ((8, 0), ["sm_86"], False), ((9, 0), ["sm_80"], False),
    ((9, 0), ["sm_80", "compute_80"], True), ((12, 0), ["sm_120"], True), ((9, 0), ["sm_90a"], True),
    ((7, 5), [], False),
])  # fmt: skip
def test_code_runs_on_cards_of_its_kind(capability: tuple[int, int], arches: list[str], runs: bool) -> None:
    assert machine.runs_on(capability, arches) == runs
