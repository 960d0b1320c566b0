"""What a benchmark's two sides share: the names of their calls, and the inputs.

A side is a dict of calls without arguments, each of which waits for its result. A call that gives
an array (`condition`, `forward`) leaves the weights alone; one that gives a loss is a training
step, and all of them train one set of weights.
"""

from collections.abc import Callable, Mapping

import numpy as np

LEARNING_RATE = 1e-4

Batch = dict[str, np.ndarray]  # pictures (B, H, W, C); the rest (B,)
Entries = Mapping[str, np.ndarray]  # weights by the names of the public implementation
Side = dict[str, Callable[[], np.ndarray] | Callable[[], float]]
