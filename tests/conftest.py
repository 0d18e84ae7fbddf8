"""What all tests share."""

import os

# Before torch is imported. More threads than cores to run on would slow the tests down by an order
# of magnitude, and one number of threads gives one order of summation.
os.environ.setdefault("OMP_NUM_THREADS", "2")
