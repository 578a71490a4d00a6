"""In place of transformers, which open_clip imports where it is installed; a user's installation has none.

Processes that tests start have this folder first on their path (`PYTHONPATH`), so that they start sooner.
"""

raise ImportError("hidden from the processes that tests start")
