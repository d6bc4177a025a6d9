"""scripts/prepare_data.py: documents in, shards out, whatever happens in between."""

import hashlib
import json
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest
from array import array
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLIMSOLL = os.environ.get("PLIMSOLL_BINARY", str(ROOT / "build/plimsoll"))
SCRIPT = ROOT / "scripts/prepare_data.py"
sys.path.insert(0, str(ROOT / "scripts"))

from plimsoll_data import inputs as data_inputs  # noqa: E402

try:
    import tokenizers
except ImportError:
    tokenizers = None
try:
    import pyarrow
    import pyarrow.parquet
    import zstandard
except ImportError:
    pyarrow = None

SEPARATOR = "<|endoftext|>"


def run(*arguments, environment=None):
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True,
                          env=environment)


class Folders(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)


class Inputs(Folders):
    def read(self, path, part_bytes, separator=""):
        source, = data_inputs.open_inputs([str(path)], "text", separator, part_bytes)
        return [document for part in range(source.parts()) for document in source.read(part)]

    def test_documents_do_not_depend_on_the_size_of_parts(self):
        rng = random.Random(1)
        documents = ["".join(rng.choice("ab é漢<|") for _ in range(rng.randrange(0, 40))) for _ in range(200)]
        text, lines = self.folder / "a.txt", self.folder / "a.jsonl"
        text.write_text(SEPARATOR.join(documents), encoding="utf-8")
        lines.write_text("".join(json.dumps({"text": d}) + "\n" * rng.randrange(1, 4) for d in documents))
        wanted = [document for document in documents if document]
        for part_bytes in (1, 2, 7, 13, 14, 100, 1000, 10**6):
            self.assertEqual(self.read(text, part_bytes, SEPARATOR), wanted, part_bytes)
            self.assertEqual(self.read(lines, part_bytes), documents, part_bytes)
        self.assertEqual(self.read(text, 5), [SEPARATOR.join(documents)])

    def test_malformed_lines_are_named_with_their_place(self):
        path = self.folder / "a.jsonl"
        path.write_bytes(b'{"text": "good"}\n{\n[1]\n{"text": 5}\n{"text": "\\ud800"}\n"\xff"\n{"text": "end"}')
        rows = self.read(path, 10**6)
        self.assertEqual([row for row in rows if isinstance(row, str)], ["good", "end"])
        bad = [str(row) for row in rows if not isinstance(row, str)]
        for line, at, why in zip(bad, (17, 19, 23, 35, 54), ("no JSON", "no text in field 'text'", "no text in field",
                                                            "half a surrogate pair", "no JSON"), strict=True):
            self.assertIn(f"a.jsonl, byte {at}: {why}", line)
        path.write_bytes(b"[" * 100000)
        self.assertIn("no JSON", str(self.read(path, 10**6)[0]))
        path = self.folder / "a.txt"
        path.write_bytes(b"a\xff|b")
        bad, good = self.read(path, 10**6, "|")
        self.assertEqual((str(bad), good), (f"{path}, byte 0: no UTF-8 at byte 1 of the document", "b"))

    def test_files_that_cannot_be_used_are_named(self):
        for pattern, said in (("none*.txt", "no file matches"), (str(ROOT / "README.md"), "ends with none of")):
            with self.assertRaisesRegex(data_inputs.BadInput, said):
                data_inputs.open_inputs([pattern], "text", "", 1)

    def test_missing_library_ends_with_2_and_the_command_that_adds_it(self):
        (self.folder / "tokenizers.py").write_text("raise ImportError('not here')\n")
        (self.folder / "a.txt").write_text("a")
        done = run("--train-vocab", 300, "--out", self.folder / "out", self.folder / "a.txt",
                   environment={**os.environ, "PYTHONPATH": str(self.folder)})
        self.assertEqual(done.returncode, 2)
        self.assertIn("tokenizers is not installed: pip install tokenizers", done.stderr)
        self.assertFalse((self.folder / "out").exists())


@unittest.skipIf(tokenizers is None, "the Python library tokenizers is not installed")
class Prepared(Folders):
    def setUp(self):
        super().setUp()
        rng = random.Random(2)
        words = (ROOT / "tests/golden/shakespeare_excerpt.txt").read_text(encoding="utf-8").split(" ")
        self.documents = [" ".join(rng.choice(words) for _ in range(rng.randrange(1, 200))) + " é 漢\n"
                          for _ in range(160)] + ["names <|endoftext|> and goes on"]
        half = len(self.documents) // 2
        with open(self.folder / "a.jsonl", "w") as file:
            for document in self.documents[:half]:
                file.write(json.dumps({"text": document}) + "\n")
        (self.folder / "b.jsonl").write_text("".join(json.dumps({"text": d}) + "\n" for d in self.documents[half:]))
        self.files = [self.folder / "a.jsonl", self.folder / "b.jsonl"]

    def prepare(self, out, *arguments, status=0, files=None):
        done = run("--out", self.folder / out, "--part-bytes", 4000, *arguments, *(files or self.files))
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        return done.stdout + done.stderr

    def content(self, out):
        return {path.name: path.read_bytes() for path in sorted((self.folder / out).iterdir())}

    def ids(self, out, split):
        ids = []
        for path in sorted((self.folder / out).glob(f"{split}_*.bin")):
            data = path.read_bytes()
            magic, version, count = struct.unpack_from("<3i", data)
            self.assertIn((magic, version), ((20240520, 1), (20240801, 7)))
            ids += array("H" if version == 1 else "I", data[1024:])
            self.assertEqual(len(data), 1024 + count * (2 if version == 1 else 4))
        return ids

    def wanted(self, tokenizer, documents, fraction, split, eot):
        """Split and encoded anew, document by document."""
        tokenizer.encode_special_tokens = True
        ids = []
        for document in documents:
            digest = int.from_bytes(hashlib.blake2b(document.encode(), digest_size=8).digest(), "big")
            if (digest < int(fraction * 2**64)) == (split == "val"):
                ids += ([] if eot is None else [eot]) + tokenizer.encode(document, add_special_tokens=False).ids
        return ids

    def test_shards_hold_every_document_once_behind_its_eot(self):
        said = self.prepare("out", "--train-vocab", 500, "--val-fraction", 0.2, "--shard-tokens", 3000, "--jobs", 2)
        tokenizer = tokenizers.Tokenizer.from_file(str(self.folder / "out/tokenizer.json"))
        self.assertEqual(tokenizer.get_vocab_size(), 500)
        for split in ("train", "val"):
            self.assertEqual(self.ids("out", split), self.wanted(tokenizer, self.documents, 0.2, split, 499), split)
        manifest = json.loads((self.folder / "out/manifest.json").read_text())
        self.assertEqual(manifest["documents"], len(self.documents))
        self.assertIn(f"{manifest['train_tokens']} training and {manifest['val_tokens']} validation tokens", said)
        for shard in manifest["shards"]:
            data = (self.folder / "out" / shard["file"]).read_bytes()
            self.assertEqual(shard["sha256"], hashlib.sha256(data).hexdigest())
            self.assertLessEqual(shard["tokens"], 3000)
        data = (self.folder / "out/tokenizer.json").read_bytes()
        self.assertEqual(manifest["tokenizer"]["sha256"], hashlib.sha256(data).hexdigest())
        # plimsoll reads it: the tokenizer is the manifest's, each document is counted, and it encodes alike.
        seen = subprocess.run([PLIMSOLL, "data", "inspect", str(self.folder / "out/*.bin")], capture_output=True, text=True)
        self.assertEqual(seen.returncode, 0, seen.stderr)
        self.assertIn("bpe, 500 ids", seen.stdout)
        text = "".join(self.documents)
        ids = subprocess.run([PLIMSOLL, "data", "encode", "--tokenizer", str(self.folder / "out")], input=text.encode(),
                             capture_output=True).stdout
        self.assertEqual(list(map(int, ids.split())), tokenizer.encode(text).ids)
        self.assertIn("nothing to do", self.prepare("out", "--train-vocab", 500, "--val-fraction", 0.2, "--shard-tokens",
                                                    3000, "--jobs", 1))

    def test_killed_runs_go_on_and_end_alike_whatever_the_processes(self):
        options = ["--train-vocab", 400, "--val-fraction", 0.1, "--shard-tokens", 2500]
        self.prepare("whole", *options, "--jobs", 1)
        work = self.folder / "killed" / ".work"
        before = {}
        for jobs, pieces in ((1, 3), (2, 9), (1, 0)):
            process = subprocess.Popen([sys.executable, str(SCRIPT), "--out", self.folder / "killed", "--part-bytes", "4000",
                                        *map(str, options), "--jobs", str(jobs), *map(str, self.files)],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while process.poll() is None and len(list(work.glob("*.piece"))) < pieces:
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
            process.wait()
            time.sleep(0.8)  # its workers notice
            after = {path.name: path.stat().st_ino for path in work.glob("*.piece")}
            self.assertEqual({name: after.get(name) for name in before}, before, "a finished piece was written again")
            before = after
        self.assertGreaterEqual(len(before), 9)
        self.prepare("killed", *options, "--jobs", 3)
        self.assertEqual(self.content("killed"), self.content("whole"))

    def test_documents_can_be_marked_by_an_index(self):
        self.prepare("out", "--train-vocab", 400, "--val-fraction", 0, "--shard-tokens", 1000, "--index", "--jobs", 1)
        tokenizer = tokenizers.Tokenizer.from_file(str(self.folder / "out/tokenizer.json"))
        ids = self.ids("out", "train")
        self.assertEqual(ids, self.wanted(tokenizer, self.documents, 0, "train", None))
        starts, base = [], 0
        for path in sorted((self.folder / "out").glob("train_*.bin")):
            data = Path(f"{path}.idx").read_bytes()
            self.assertEqual(data[:8], b"PLIMSIDX")
            version, tokens, count = struct.unpack_from("<3Q", data, 8)
            self.assertEqual((version, tokens), (1, (path.stat().st_size - 1024) // 2))
            starts += [base + start for start in struct.unpack_from(f"<{count}Q", data, 32)]
            base += tokens
        lengths = [len(tokenizer.encode(document, add_special_tokens=False).ids) for document in self.documents]
        self.assertEqual(starts, [sum(lengths[:i]) for i in range(len(lengths))])
        seen = subprocess.run([PLIMSOLL, "data", "inspect", str(self.folder / "out/*.bin")], capture_output=True, text=True)
        self.assertEqual(seen.returncode, 0, seen.stderr)

    def test_large_vocabulary_takes_32_bits(self):
        golden = json.loads((ROOT / "tests/golden/bpe/tokenizer.json").read_text(encoding="utf-8"))
        vocab = golden["model"]["vocab"]
        golden["added_tokens"][0]["id"] = 70000
        vocab.update({f"unused{i}": i for i in range(len(vocab), 70000)})
        (self.folder / "wide.json").write_text(json.dumps(golden), encoding="utf-8")
        self.prepare("out", "--tokenizer", self.folder / "wide.json", "--val-fraction", 0, "--jobs", 1)
        tokenizer = tokenizers.Tokenizer.from_file(str(self.folder / "wide.json"))
        self.assertEqual(self.ids("out", "train"), self.wanted(tokenizer, self.documents, 0, "train", 70000))

    def test_gpt2_files_are_a_tokenizer(self):
        self.prepare("out", "--tokenizer", ROOT / "tests/golden/bpe/vocab.json", "--val-fraction", 0, "--jobs", 1)
        tokenizer = tokenizers.Tokenizer.from_file(str(ROOT / "tests/golden/bpe/tokenizer.json"))
        self.assertEqual(self.ids("out", "train"), self.wanted(tokenizer, self.documents, 0, "train", 400))

    def test_malformed_lines_are_counted_or_fatal(self):
        (self.folder / "bad.jsonl").write_text('{"text": "one"}\n{"text": 1}\n{"text": "two"}\n')
        said = self.prepare("out", "--train-vocab", 300, "--val-fraction", 0, "--jobs", 1,
                            files=[self.folder / "bad.jsonl"])
        self.assertIn("bad.jsonl, byte 16: no text in field 'text'", said)
        self.assertIn("2 documents, 1 malformed", said)
        said = self.prepare("strict", "--train-vocab", 300, "--val-fraction", 0, "--jobs", 1, "--strict", status=78,
                            files=[self.folder / "bad.jsonl"])
        self.assertIn("bad.jsonl, byte 16", said)

    def test_what_cannot_be_used_is_refused(self):
        self.assertIn("wanted at least 257", self.prepare("a", "--train-vocab", 256, status=78))
        self.assertIn("no such file", self.prepare("a", "--tokenizer", "none.json", status=78))
        (self.folder / "bad.json").write_text("{}")
        self.assertIn("bad.json", self.prepare("b", "--tokenizer", self.folder / "bad.json", status=78))
        golden = json.loads((ROOT / "tests/golden/bpe/tokenizer.json").read_text(encoding="utf-8"))
        (self.folder / "bad.json").write_text(json.dumps({**golden, "normalizer": {"type": "NFC"}}))
        self.assertIn("normalizer NFC; plimsoll reads", self.prepare("e", "--tokenizer", self.folder / "bad.json", status=78))
        (self.folder / "full").mkdir()
        (self.folder / "full/x").write_text("")
        self.assertIn("is not empty", self.prepare("full", "--train-vocab", 300, status=78))
        (self.folder / "one.txt").write_text("a document\n")
        self.assertIn("takes whole documents", self.prepare("c", "--train-vocab", 300, status=78,
                                                            files=[self.folder / "one.txt"]))
        self.prepare("d", "--train-vocab", 300, "--val-fraction", 0, files=[self.folder / "one.txt"])
        self.assertIn("holds other data: tokenizer differ", self.prepare("d", "--train-vocab", 301, "--val-fraction", 0,
                                                                         status=78, files=[self.folder / "one.txt"]))
        self.assertIn("begun with another command", self.prepare("c", "--train-vocab", 301, status=78,
                                                                 files=[self.folder / "one.txt"]))

    @unittest.skipIf(pyarrow is None, "pyarrow or zstandard is not installed")
    def test_parquet_and_zstandard_hold_the_same_documents(self):
        table = pyarrow.table({"body": self.documents + [None], "text": ["x"] * (len(self.documents) + 1)})
        pyarrow.parquet.write_table(table, self.folder / "a.parquet", row_group_size=13)
        lines = [(json.dumps({"body": d}) + "\n").encode() for d in self.documents]
        with open(self.folder / "a.jsonl.zst", "wb") as file:  # two frames
            for part in (lines[:50], lines[50:]):
                file.write(zstandard.ZstdCompressor().compress(b"".join(part)))
        tokenizer = tokenizers.Tokenizer.from_file(str(ROOT / "tests/golden/bpe/tokenizer.json"))
        wanted = self.wanted(tokenizer, self.documents, 0, "train", 400)
        for name in ("a.parquet", "a.jsonl.zst"):
            said = self.prepare(name + ".out", "--tokenizer", ROOT / "tests/golden/bpe/tokenizer.json", "--field", "body",
                                "--val-fraction", 0, "--jobs", 2, files=[self.folder / name])
            self.assertEqual(self.ids(name + ".out", "train"), wanted, name)
            self.assertIn(f"{int(name == 'a.parquet')} malformed", said)
        self.assertIn("no column 'none'; it has body, text", self.prepare(
            "x", "--train-vocab", 300, "--field", "none", status=78, files=[self.folder / "a.parquet"]))
        cut = (self.folder / "a.jsonl.zst").read_bytes()
        (self.folder / "cut.jsonl.zst").write_bytes(b"no zstandard")
        self.assertIn("cut.jsonl.zst: cannot be decompressed", self.prepare(
            "y", "--train-vocab", 300, status=78, files=[self.folder / "cut.jsonl.zst"]))
        (self.folder / "cut.jsonl.zst").write_bytes(cut[:-20])
        self.assertIn("cut.jsonl.zst: ends within a compressed frame", self.prepare(
            "z", "--tokenizer", ROOT / "tests/golden/bpe/tokenizer.json", "--field", "body", status=78,
            files=[self.folder / "cut.jsonl.zst"]))


if __name__ == "__main__":
    unittest.main()
