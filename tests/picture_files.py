"""Pictures encoded in memory."""

import io

import numpy as np
import tifffile
from PIL import Image


def encode(image: Image.Image, kind: str, **options) -> bytes:
    """The file Pillow writes."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def encode_tiff(samples: np.ndarray, **options) -> bytes:
    """The file tifffile writes, of depths and layouts Pillow has not."""
    stream = io.BytesIO()
    tifffile.imwrite(stream, samples, **options)
    return stream.getvalue()
