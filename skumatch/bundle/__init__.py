"""The bundle, the unit of promotion: one folder with one hash.

It holds encoder, preprocessing, labelled gallery and thresholds, and no pickle.
"""

from skumatch.bundle.assortment import Assortment
from skumatch.bundle.manifest import FORMAT, MANIFEST, PARTS, Manifest, bundle_hash
from skumatch.bundle.matcher import Bundle, Match
from skumatch.bundle.parts import LabelledVectors, read_gallery, write_bundle
from skumatch.bundle.verify import verify_bundle

__all__ = [
    "FORMAT",
    "MANIFEST",
    "PARTS",
    "Assortment",
    "Bundle",
    "LabelledVectors",
    "Manifest",
    "Match",
    "bundle_hash",
    "read_gallery",
    "verify_bundle",
    "write_bundle",
]
