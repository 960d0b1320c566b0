"""What functions of arrays take: those of a device, or NumPy's on the host."""

import jax
import numpy as np

Array = jax.Array | np.ndarray
