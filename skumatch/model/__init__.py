import os

# Threads that wait for each other sleep instead of spinning: on a busy machine a training step takes a third of the CPU time. Read
# once, when torch loads its OpenMP library; a value that is already set stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
