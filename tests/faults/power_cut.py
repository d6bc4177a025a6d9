"""The disk after a power cut, from the journal that crash_shim.cpp wrote: only what was flushed is sure to be there."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Change:
    kind: str  # create open write fsync rename mkdir remove said; failed, with the kind as target
    rank: int
    number: int
    path: str
    target: str
    offset: int
    data: bytes


def read_journal(path):
    raw, at, changes = Path(path).read_bytes(), 0, []
    while at < len(raw):
        end = raw.index(b"\n", at)
        kind, rank, number, name, target, offset, size = raw[at:end].decode(errors="replace").split("\t")
        at = end + 1 + int(size)
        changes.append(Change(kind, int(rank), int(number), name, target, int(offset), raw[end + 1:at]))
    return changes


@dataclass
class Node:
    """A file's bytes, or a folder's entries: as the program sees them, and as they are on the disk for certain."""
    folder: bool = False
    now: bytearray = field(default_factory=bytearray)
    safe: bytes = b""
    entries: dict = field(default_factory=dict)
    safe_entries: dict = field(default_factory=dict)


class Disk:
    """What is below `root`, which exists for certain."""

    def __init__(self, root):
        self.root_path, self.root = str(root), Node(folder=True)

    def _parent(self, path):
        relative = path[len(self.root_path):].strip("/").split("/")
        node = self.root
        for name in relative[:-1]:
            node = node.entries[name]
        return node, relative[-1]

    def _node(self, path):
        if path == self.root_path:
            return self.root
        parent, name = self._parent(path)
        return parent.entries.get(name)

    def apply(self, change):
        path = change.path
        if change.kind in ("create", "open", "write") and not self._node(path):
            parent, name = self._parent(path)
            parent.entries[name] = Node()
        node = self._node(path) if change.kind != "said" else None
        if change.kind == "create":
            node.now.clear()
        elif change.kind == "write":
            node.now[change.offset:change.offset + len(change.data)] = change.data
        elif change.kind == "fsync" and node.folder:
            node.safe_entries = dict(node.entries)
        elif change.kind == "fsync":
            node.safe = bytes(node.now)
        elif change.kind == "mkdir":
            parent, name = self._parent(path)
            parent.entries[name] = Node(folder=True)
        elif change.kind == "rename":
            parent, name = self._parent(path)
            target, target_name = self._parent(change.target)
            target.entries[target_name] = parent.entries.pop(name)
        elif change.kind == "remove":
            parent, name = self._parent(path)
            parent.entries.pop(name)

    def restore(self, folder, names_last):
        """Writes into `folder` what a cut now leaves. names_last: the names of files may be lost, unless their folder
        was flushed; else they all are there already, and only bytes may be lost."""
        self._write(self.root, Path(folder), names_last)

    def _write(self, node, path, names_last):
        if not node.folder:
            path.write_bytes(node.safe)
            return
        path.mkdir(parents=True, exist_ok=True)
        for name, child in (node.safe_entries if names_last else node.entries).items():
            self._write(child, path / name, names_last)
