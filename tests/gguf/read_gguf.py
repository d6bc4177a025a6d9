"""The metadata of a GGUF file (version 3, little-endian) as a dictionary; tensors are not read."""

import struct

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9


def read_metadata(path):
    with open(path, "rb") as file:
        data = file.read()
    at = 0

    def scalar(form):
        nonlocal at
        value, = struct.unpack_from(form, data, at)
        at += struct.calcsize(form)
        return value

    def value(kind):
        nonlocal at
        if kind == _STRING:
            size = scalar("<Q")
            at += size
            return data[at - size:at].decode("utf-8")
        if kind == _ARRAY:
            element, count = scalar("<I"), scalar("<Q")
            return [value(element) for _ in range(count)]
        return scalar(_SCALARS[kind])

    if data[:4] != b"GGUF":
        raise ValueError(f"{path}: begins with {data[:4]!r}, wanted b'GGUF'")
    at = 4
    version, _, count = scalar("<I"), scalar("<Q"), scalar("<Q")
    if version not in (2, 3):
        raise ValueError(f"{path}: GGUF version {version}, wanted 2 or 3")
    return {value(_STRING): value(scalar("<I")) for _ in range(count)}
