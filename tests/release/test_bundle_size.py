"""A large gallery is loaded with little memory beyond its vectors."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from skumatch.bundle import LabelledVectors, read_gallery, write_bundle
from skumatch.errors import BundleError
from tests.code import ROOT

ROWS, DIM = 160_000, 256
LOAD = """
import hashlib, json, re, sys
from pathlib import Path
from skumatch.bundle import Bundle

def kib(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

small = Bundle.load(Path(sys.argv[1]))  # imports what loading needs
before = kib("VmRSS")
gallery = Bundle.load(Path(sys.argv[2])).gallery
more = kib("VmHWM") - before
digest = hashlib.sha256(gallery.embeddings).hexdigest()
ends = [gallery.ids[0], gallery.ids[-1], gallery.skus[0], gallery.skus[-1]]
print(json.dumps([more * 1024 / gallery.embeddings.nbytes, digest, ends]))
"""


def test_loading_a_bundle_takes_little_more_than_its_vectors(
    encoder_dir: Path, made: Path, tmp_path: Path
) -> None:
    """Its gallery has several row groups, and reading one whole would take more."""
    vectors = np.random.default_rng(0).standard_normal((ROWS, DIM), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = [f"train/{row:026}" for row in range(ROWS)]
    skus = [f"brand and product {row // 5:06}" for row in range(ROWS)]
    write_bundle(tmp_path / "large", encoder_dir, LabelledVectors(ids, skus, vectors), {}, ids[:3])
    words = [sys.executable, "-c", LOAD, str(made), str(tmp_path / "large")]
    ended = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    share, digest, ends = json.loads(ended.stdout)
    print(f"peak memory {share:.2f} times the vectors")
    assert share < 1.5, f"{share:.2f} times the vectors"
    assert digest == hashlib.sha256(vectors).hexdigest()
    assert ends == [ids[0], ids[-1], skus[0], skus[-1]]


@pytest.mark.parametrize("dim", [128, 512], ids=["shorter", "longer"])
def test_a_gallery_of_vectors_of_another_size_is_refused(dim: int, made: Path) -> None:
    with pytest.raises(BundleError, match=f"doesn't hold 12 unit vectors of {dim} numbers"):
        read_gallery(made / "gallery.parquet", dim)
