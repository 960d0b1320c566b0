"""Pictures encoded in memory."""

import io
import struct
import zlib

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


def chunk(kind: bytes, body: bytes, right: bool = True) -> bytes:
    """A chunk of a PNG, with its checksum right or wrong."""
    checksum = zlib.crc32(kind + body) ^ (not right)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def encode_png(samples: np.ndarray, *chunks: bytes) -> bytes:
    """A PNG of 16 bits a sample in 1 (grey) to 4 channels, with chunks before its pixels."""
    height, width, channels = samples.shape
    header = struct.pack(">IIBBBBB", width, height, 16, (0, 4, 2, 6)[channels - 1], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + body


def with_chunks(png: bytes, *chunks: bytes) -> bytes:
    """A PNG with chunks behind its header."""
    return png[:33] + b"".join(chunks) + png[33:]


def encode_lzw_tiff(
    samples: np.ndarray, predictor: bool = False, extra: int | None = None
) -> bytes:
    """A TIFF of one strip in LZW, whose table is emptied before its codes exceed 9 bits."""
    height, width, channels = samples.shape
    stored = samples.copy()
    if predictor:
        stored[:, 1:] -= samples[:, :-1]
    codes = []
    for i, byte in enumerate(stored.tobytes()):
        codes += [256, byte] if i % 200 == 0 else [byte]
    bits = "".join(f"{code:09b}" for code in [*codes, 257])
    bits += "0" * (-len(bits) % 8)
    strip = int(bits, 2).to_bytes(len(bits) // 8, "big")
    photometric = 2 if channels > 2 else 1
    tags = {256: width, 257: height, 258: (8 * samples.itemsize,) * channels, 259: 5}
    tags |= {262: photometric, 273: 8, 277: channels, 278: height, 279: len(strip)}
    tags |= {317: 2 if predictor else 1, 339: ({"u": 1, "i": 2, "f": 3}[samples.dtype.kind],)}
    tags |= {} if extra is None else {338: extra}
    start = 8 + len(strip) + len(strip) % 2
    entries, values = b"", b""
    for tag, value in sorted(tags.items()):
        value = value if isinstance(value, tuple) else (value,)
        packed = struct.pack(f"<{len(value)}I", *value)
        if len(value) > 1:
            where = struct.pack("<I", start + 2 + 12 * len(tags) + 4 + len(values))
            values += packed
            packed = where
        entries += struct.pack("<HHI", tag, 4, len(value)) + packed
    head = b"II*\0" + struct.pack("<I", start) + strip + b"\0" * (len(strip) % 2)
    return head + struct.pack("<H", len(tags)) + entries + bytes(4) + values
