"""Retrain, judge, register and audit the model that says which product a shelf photo shows."""

import os

__version__ = "0.1.0"

# Read by OpenMP when torch or faiss loads it. Its default, waiting for other threads by spinning, makes small
# parallel loops hundreds of times slower if anything else runs on the same cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
