"""What is promoted: one folder with one hash.

Encoder, preprocessing, labelled gallery and thresholds; no pickle anywhere.
"""

from skumatch.release.bundle.assortment import Assortment
from skumatch.release.bundle.manifest import FORMAT, MANIFEST, PARTS, Manifest, bundle_hash
from skumatch.release.bundle.matcher import Bundle, Match
from skumatch.release.bundle.parts import Gallery, read_gallery, write_bundle
from skumatch.release.bundle.verify import verify_bundle

__all__ = [
    "FORMAT", "MANIFEST", "PARTS", "Assortment", "Bundle", "Gallery", "Manifest", "Match", "bundle_hash",
    "read_gallery", "verify_bundle", "write_bundle",
]  # fmt: skip
