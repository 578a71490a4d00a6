"""Encoders as ONNX files, run by onnxruntime on a CPU: in float32, or in int8, calibrated on pictures."""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skumatch.errors import ParameterError
from skumatch.files import replacing
from skumatch.model.encoder import Encoder

OPSET = 17
PERCENTILE = 99.99  # of an activation's values that int8 spans; the few beyond would cost all others their precision
PACKAGES = ("onnx", "onnxruntime")


def available() -> bool:
    """Are the packages of the extra `int8` here?"""
    return all(find_spec(name) is not None for name in PACKAGES)


def check_available() -> None:
    """Raises ParameterError without the packages of the extra `int8`."""
    if not available():
        raise ParameterError("onnx and onnxruntime are not both installed; install skumatch[int8].")


class Session:
    """An ONNX file of `export` or `quantise` at work: normalised float32 [B, 3, H, W] -> float32 [B, dim] of length 1."""

    def __init__(self, path: Path, threads: int) -> None:
        check_available()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # decisions/0010
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def __call__(self, pixels: Tensor) -> Tensor:
        return torch.from_numpy(self.session.run(None, {"pixels": pixels.numpy()})[0])


def export(encoder: Encoder, path: Path) -> None:
    """Write the encoder, from normalised pixels [B, 3, H, W] to vectors of length 1, as an ONNX file of float32, for any B.

    The exporter is TorchScript's: the newer one needs onnxscript. Raises ParameterError without onnx.
    """
    check_available()
    encoder = encoder.cpu().eval()
    pixels = torch.zeros(2, 3, encoder.preprocess.height, encoder.preprocess.width)
    many = {0: "batch"}
    with replacing(path) as aside, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # it warns of its age, and of every test of a size that it follows
        torch.onnx.export(
            encoder,
            (pixels,),
            str(aside),
            input_names=["pixels"],
            output_names=["vectors"],
            dynamic_axes={"pixels": many, "vectors": many},
            opset_version=OPSET,
            dynamo=False,
        )


def quantise(source: Path, path: Path, pixels: Tensor) -> None:
    """Write an int8 file from one of `export`: weights by channel, activations by what they are for these pictures, less outliers.

    pixels: normalised float32 [n, 3, H, W], about a hundred training pictures (Jacob et al., arXiv 1712.05877).
    """
    check_available()
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    calibration = {"calibrate_method": CalibrationMethod.Percentile, "extra_options": {"CalibPercentile": PERCENTILE}}
    with tempfile.TemporaryDirectory() as folder, replacing(path) as aside:
        folded = str(Path(folder) / "folded.onnx")
        quant_pre_process(str(source), folded, skip_symbolic_shape=True)
        with redirect_stdout(io.StringIO()):  # it tells of its histograms
            quantize_static(folded, str(aside), _reader(pixels), quant_format=QuantFormat.QDQ, per_channel=True, **kinds, **calibration)


def _reader(pixels: Tensor) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """One picture at a time, so that calibrating takes the memory of one."""

        def __init__(self) -> None:
            self.left: Iterator[NDArray[np.float32]] = iter(pixels.numpy()[:, None])

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            found = next(self.left, None)
            return None if found is None else {"pixels": found}

    return Reader()
