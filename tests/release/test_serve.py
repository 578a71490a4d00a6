"""`mlflow models serve`: a registered version answers over HTTP, without skumatch's pipeline beside it."""

from __future__ import annotations

import base64
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from skumatch.registry.registry import Registry
from tests.conftest import answers, free_port, wait_until

pytestmark = pytest.mark.live


@pytest.fixture
def served(registry: Registry, run_id: str, made: Path, tmp_path: Path) -> Iterator[str]:
    registry.register(made, run_id, {}, "")
    port = free_port()
    uri = f"models:/{registry.model_name}/1"
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "models",
        "serve",
        "-m",
        uri,
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
        "--env-manager",
        "local",
    ]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # MLflow looks for uvicorn there
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": registry.url,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PATH": path,
    }
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/health") or server.poll() is not None, 180)
        assert server.poll() is None, (tmp_path / "log").read_text()
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def encoded(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def test_a_picture_is_answered_with_ranked_skus_similarities_and_unknown(
    served: str, picture: Callable[[int], Image.Image]
) -> None:
    request = {
        "dataframe_split": {"columns": ["image"], "data": [[encoded(picture(5))], [encoded(picture(99))]]},
        "params": {"top_k": 2},
    }
    known, stranger = httpx.post(served, json=request, timeout=60).raise_for_status().json()["predictions"]
    assert known["skus"][0] == "sku 1" and len(known["skus"]) == len(known["similarities"]) == 2
    assert (
        known["similarities"][0] == pytest.approx(1, abs=1e-4)
        and known["similarities"][0] > known["similarities"][1]
    )
    assert (known["unknown"], stranger["unknown"]) == (False, True)
    broken = {"dataframe_split": {"columns": ["image"], "data": [["not a picture"]]}}
    refused = httpx.post(served, json=broken, timeout=60)
    assert refused.status_code >= 400 and "Row 0" in refused.text


def test_a_shop_is_answered_from_its_own_products(served: str, picture: Callable[[int], Image.Image]) -> None:
    data = [[encoded(picture(number))] for number in (5, 2)]
    pictures = {"dataframe_split": {"columns": ["image"], "data": data}}

    def answered(skus: object) -> httpx.Response:
        return httpx.post(served, json=pictures | {"params": {"skus": skus}}, timeout=60)

    stranger, known = answered(["SKU 2", "sku 3", "new"]).raise_for_status().json()["predictions"]
    assert sorted(stranger["skus"]) == ["sku 2", "sku 3"] and stranger["unknown"]
    assert known["skus"] == ["sku 2", "sku 3"] and not known["unknown"]
    cases = (([], "has no names"), (["new"], "is not in the model"), ("sku 2", "skus"), ([2], "skus"))
    for skus, words in cases:
        refused = answered(skus)
        assert refused.status_code >= 400 and words in refused.text
