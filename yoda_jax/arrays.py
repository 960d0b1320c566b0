"""What functions of arrays take: those of a device, or NumPy's on the host; shapes with names."""

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

Array = jax.Array | np.ndarray

Pictures = Float[Array, "*B H W C"]  # or what is diffused in their place
Maps = Float[Array, "*B H W 1"]  # attention in [0, 1]
Masks = Bool[Array, "*B H W 1"]
Steps = Int[Array, "*B H W 1"]  # of T, in which a pixel is diffused
Levels = Float[Array, "*B"]  # one a picture
Times = Int[Array, "*B"]  # likewise
