"""The search for duplicates among the pictures of a data version.

neighbours.py proposes pairs; census.py decides which are near-duplicates, by the residual that alignment.py
measures, up to the threshold that calibration.py chooses.
"""
