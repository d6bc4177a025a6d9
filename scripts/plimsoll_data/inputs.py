"""Documents out of input files: text, JSON lines (also zstandard-compressed) and Parquet.

A file is cut into parts that can be read alone, where its format allows it: text and JSON lines by bytes, Parquet by row
groups. Parts depend on the file alone, not on how many processes read them.
"""

import glob
import json
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = (".txt", ".jsonl", ".jsonl.zst", ".parquet")


class BadInput(Exception):
    """An input or option that cannot be used; the text names it."""


class MissingLibrary(Exception):
    """An optional Python library that this input needs."""


def library(name, package=None):
    try:
        return __import__(name, fromlist=["_"])
    except ImportError:
        package = package or name
        raise MissingLibrary(f"the Python library {package} is not installed: pip install {package}") from None


@dataclass(frozen=True)
class Malformed:
    """A line or row without a document: where it is and why."""
    place: str
    why: str

    def __str__(self):
        return f"{self.place}: {self.why}"


@dataclass(frozen=True)
class Input:
    path: str
    format: str  # one of SUFFIXES
    field: str  # of JSON and Parquet
    separator: str  # of text; "" = each file is one document
    part_bytes: int  # of text and JSON lines, decompressed

    @property
    def size(self):
        return Path(self.path).stat().st_size

    def parts(self):
        """How many parts can be read alone; None if only reading tells (compressed files)."""
        if self.format == ".jsonl.zst":
            return None
        if self.format == ".parquet":
            return _parquet(self.path).num_row_groups
        if self.format == ".txt" and not self.separator:
            return 1
        return max(1, -(-self.size // self.part_bytes))

    def read(self, part):
        """-> documents (text) and Malformed of a part, in the order of the file."""
        if self.format == ".parquet":
            return _rows(self, part)
        if self.format == ".jsonl":
            return (_json_document(line, f"{self.path}, byte {at}", self.field)
                    for at, line in _pieces_between(self.path, b"\n", part, self.part_bytes) if line.strip())
        if not self.separator:
            return iter([_decoded(Path(self.path).read_bytes(), f"{self.path}, byte 0")])
        return (_decoded(text, f"{self.path}, byte {at}")
                for at, text in _pieces_between(self.path, self.separator.encode(), part, self.part_bytes))

    def stream(self):
        """Parts of a compressed file in order -> (compressed bytes read so far, list as of read())."""
        documents, size, at = [], 0, 0
        for position, line in _zstandard_lines(self.path):
            if line.strip():
                documents.append(_json_document(line, f"{self.path}, decompressed byte {at}", self.field))
            at += len(line)
            size += len(line)
            if size >= self.part_bytes:
                yield position, documents
                documents, size = [], 0
        yield self.size, documents


def open_inputs(patterns, field, separator, part_bytes):
    """-> Inputs of files and patterns, each file once, in the order given, those of a pattern by name."""
    inputs, seen = [], set()
    for pattern in patterns:
        paths = [pattern] if Path(pattern).is_file() else sorted(str(path) for path in _matches(pattern))
        if not paths:
            raise BadInput(f"'{pattern}': no file matches")
        for path in paths:
            suffix = next((s for s in reversed(SUFFIXES) if path.endswith(s)), None)
            if suffix is None:
                raise BadInput(f"{path}: ends with none of {', '.join(SUFFIXES)}")
            if path not in seen:
                seen.add(path)
                inputs.append(Input(path, suffix, field, separator, part_bytes))
    for name, suffix in (("pyarrow", ".parquet"), ("zstandard", ".jsonl.zst")):
        if any(i.format == suffix for i in inputs):
            library(name)
    return inputs


def _zstandard_lines(path):
    """(compressed bytes read so far, line), over all frames."""
    zstandard = library("zstandard")
    frame, rest = None, b""
    with open(path, "rb") as file:
        while data := file.read(1 << 17):
            try:
                while data:  # the library's own reader takes a frame that was cut off for a whole one
                    frame = frame or zstandard.ZstdDecompressor().decompressobj()
                    rest += frame.decompress(data)
                    data = frame.unused_data if frame.eof else b""
                    frame = None if frame.eof else frame
            except zstandard.ZstdError as error:
                raise BadInput(f"{path}: cannot be decompressed: {error}") from None
            *lines, rest = rest.split(b"\n")
            for line in lines:
                yield file.tell(), line + b"\n"
        if frame is not None:
            raise BadInput(f"{path}: ends within a compressed frame; was the download cut off?")
        if rest:
            yield file.tell(), rest


def _matches(pattern):
    return [path for path in glob.glob(pattern, recursive=True) if Path(path).is_file()]


def _decoded(data, place):
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        return Malformed(place, f"no UTF-8 at byte {error.start} of the document")


def _json_document(line, place, field):
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        return Malformed(place, f"no JSON: {str(error)[:80]}")
    if not isinstance(row, dict) or not isinstance(row.get(field), str):
        return Malformed(place, f"no text in field '{field}'")
    try:
        row[field].encode("utf-8")
    except UnicodeEncodeError:
        return Malformed(place, f"half a surrogate pair in field '{field}'")
    return row[field]


def _pieces_between(path, separator, part, part_bytes):
    """(offset, bytes) of what stands between separators and begins within [part, part + 1) * part_bytes."""
    begin, end = part * part_bytes, (part + 1) * part_bytes
    with open(path, "rb") as file:
        # A piece that begins at `begin` has its separator just before.
        at = max(0, begin - len(separator))
        file.seek(at)
        buffer = b""
        if begin > 0:
            buffer, found = _read_until(file, buffer, separator)
            if found < 0:
                return
            at += found + len(separator)
            buffer = buffer[found + len(separator):]
        while at < end:
            buffer, found = _read_until(file, buffer, separator)
            if found < 0:
                if buffer:
                    yield at, buffer
                return
            if found > 0:
                yield at, buffer[:found]
            at += found + len(separator)
            buffer = buffer[found + len(separator):]


def _read_until(file, buffer, separator):
    """Reads on until the buffer holds the separator -> the buffer, and where; -1 at the end of the file."""
    searched = 0
    while True:
        found = buffer.find(separator, searched)
        if found >= 0:
            return buffer, found
        searched = max(0, len(buffer) - len(separator) + 1)
        more = file.read(max(1 << 16, len(buffer)))
        if not more:
            return buffer, -1
        buffer += more


def _parquet(path):
    library("pyarrow")
    import pyarrow
    import pyarrow.parquet
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise BadInput(f"{path}: cannot be read as Parquet: {error}") from None


def _rows(source, part):
    import pyarrow
    file = _parquet(source.path)
    if source.field not in file.schema_arrow.names:
        raise BadInput(f"{source.path}: no column '{source.field}'; it has {', '.join(file.schema_arrow.names)}")
    kind = file.schema_arrow.field(source.field).type
    if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
        raise BadInput(f"{source.path}: column '{source.field}' is {kind}, wanted string")
    first = sum(file.metadata.row_group(group).num_rows for group in range(part))
    for number, value in enumerate(file.read_row_group(part, columns=[source.field]).column(0)):
        place = f"{source.path}, row {first + number}"
        try:
            text = value.as_py()
        except UnicodeDecodeError:
            yield Malformed(place, f"no UTF-8 in column '{source.field}'")
            continue
        yield Malformed(place, f"no text in column '{source.field}'") if text is None else text
