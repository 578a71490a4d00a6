from __future__ import annotations

from pathlib import Path

import pytest
import torch

from skumatch.bench import int8
from skumatch.errors import ParameterError
from skumatch.model.encoder import Encoder, build
from skumatch.params import EncoderParams

PIXELS = torch.randn(6, 3, 32, 48, generator=torch.Generator().manual_seed(1))
needs_onnx = pytest.mark.skipif(not int8.available(), reason="needs skumatch[int8]")


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(1)
    return build(EncoderParams(model="smoke", weights="none", height=32, width=48, dim=16), None).eval()


@needs_onnx
def test_an_exported_encoder_says_the_same_of_any_number_of_pictures(encoder: Encoder, tmp_path: Path) -> None:
    int8.export(encoder, tmp_path / "encoder.onnx")
    session = int8.Session(tmp_path / "encoder.onnx", threads=1)
    with torch.inference_mode():
        for count in (1, 2, 5):
            found = session(PIXELS[:count])
            assert found.shape == (count, 16) and torch.allclose(found, encoder(PIXELS[:count]), atol=1e-4)


@needs_onnx
def test_an_int8_file_is_smaller_and_nearly_says_the_same(encoder: Encoder, tmp_path: Path) -> None:
    whole, small = tmp_path / "encoder.onnx", tmp_path / "int8.onnx"
    int8.export(encoder, whole)
    int8.quantise(whole, small, PIXELS)
    assert small.stat().st_size < 0.6 * whole.stat().st_size
    found, expected = (int8.Session(path, threads=1)(PIXELS) for path in (small, whole))
    cosines = (found * expected).sum(dim=1)
    assert cosines.min() > 0.8 and not found.equal(expected)


def test_without_the_extra_one_is_told_to_install_it(encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "PACKAGES", ("a_package_that_is_not_there",))
    with pytest.raises(ParameterError, match=r"install skumatch\[int8\]"):
        int8.export(encoder, tmp_path / "encoder.onnx")
    assert not int8.available() and not list(tmp_path.iterdir())
