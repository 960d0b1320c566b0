"""The files around pictures, as viewers read them: damage beside the pixels is left out."""

import struct
import zlib

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_XMP = b"XML:com.adobe.xmp\0\0"
# What decides how a PNG looks, with the fewest bytes that each needs. Texts, of any length, do not.
_PNG_CHUNKS = {b"tRNS": 1, b"eXIf": 8, b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"iCCP": 4, b"sBIT": 1}
_LARGEST_PROFILE = 1 << 26
# Of WebP's extended header, the flags of chunks that a picture does without.
_WEBP_FLAGS = {b"ICCP": 0x20, b"EXIF": 0x08, b"XMP ": 0x04}


def png(file: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """(a PNG with the chunks alone that a viewer shows it by, its chunks before the pixels).

    Raises `ValueError` where pixels are missing or neither of their two checksums is right.
    """
    kept, chunks, pixels, sound = [PNG_SIGNATURE], {}, [], True
    position = len(PNG_SIGNATURE)
    while position + 8 <= len(file):
        length, kind = struct.unpack_from(">I4s", file, position)
        start, position = position + 8, position + 12 + length
        body, checksum = file[start : start + length], file[start + length : position]
        right = checksum == struct.pack(">I", zlib.crc32(kind + body))
        if kind == b"IDAT":
            if len(body) < length:
                raise ValueError("pixels cut short")
            pixels.append(body)
            sound &= right
        elif kind in (b"IHDR", b"PLTE"):
            chunks[kind] = body
            kept.append(file[start - 8 : position])
        elif right and kind == b"iTXt" and body.startswith(_XMP) and length < 1 << 20:
            kept.append(_chunk(kind, body))
        elif right and kind not in chunks and length >= _PNG_CHUNKS.get(kind, length + 1):
            chunks[kind] = body
    kept += [_chunk(kind, chunks[kind]) for kind in (b"tRNS", b"eXIf") if kind in chunks]
    kept += [_chunk(b"IDAT", _checked(b"".join(pixels), sound)), _chunk(b"IEND", b"")]
    return b"".join(kept), chunks


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _checked(pixels: bytes, sound: bool) -> bytes:
    """Compressed pixels as Pillow takes them: it leaves pixels black where this would raise."""
    for end in (len(pixels), -4):  # without their own checksum, which some writers get wrong
        decoder, rest = zlib.decompressobj(), pixels[:end]
        try:
            while rest and not decoder.eof:
                decoder.decompress(rest, 1 << 22)
                rest = decoder.unconsumed_tail
        except zlib.error:
            if sound:
                continue
            break
        return pixels[:end]
    raise ValueError("pixels damaged")


def png_profile(chunks: dict[bytes, bytes]) -> bytes | None:
    """The ICC profile of a PNG's chunks, if there is a readable one."""
    _, _, packed = chunks.get(b"iCCP", b"").partition(b"\0")
    try:
        return zlib.decompressobj().decompress(packed[1:], _LARGEST_PROFILE) or None
    except zlib.error:
        return None


def webp(file: bytes) -> bytes:
    """A WebP file of its whole chunks, with the length that it really has."""
    kept: dict[bytes, bytes] = {}
    frames, position = [], 12
    while position + 8 <= len(file):
        kind, length = struct.unpack_from("<4sI", file, position)
        chunk = file[position : position + 8 + length]
        if len(chunk) < 8 + length:
            break
        position += 8 + length + length % 2
        kept[kind] = chunk + b"\0" * (length % 2)
        frames.append(kept[kind])
    if b"VP8X" in kept and frames[0] == kept[b"VP8X"]:
        missing = sum(flag for kind, flag in _WEBP_FLAGS.items() if kind not in kept)
        frames[0] = frames[0][:8] + bytes([frames[0][8] & ~missing]) + frames[0][9:]
    body = b"WEBP" + b"".join(frames)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def may_lack_its_end_alone(jpeg: bytes) -> bool:
    """Whether the last scan that a JPEG begins with is one that completes a picture.

    A progressive picture whose later scans are missing is shown too, but blurred.
    """
    scan = jpeg.rfind(b"\xff\xda")
    head = jpeg[scan + 4 : scan + 4 + struct.unpack_from(">H", jpeg, scan + 2)[0] - 2]
    progressive = b"\xff\xc2" in jpeg[:scan]
    first = len(head) > 1 and head[1] in (0, 1)  # the component that the last refinement is of
    return not progressive or (first and head[-2] == 63 and not head[-1] & 15)
