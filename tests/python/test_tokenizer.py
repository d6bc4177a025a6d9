"""`plimsoll data encode` and `decode` against Hugging Face's library `tokenizers`, where that is installed
(pip install tokenizers), and byte for byte where it is not."""

import json
import os
import random
import subprocess
import tempfile
import unittest
from pathlib import Path

try:
    import tokenizers
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
except ImportError:
    tokenizers = None

ROOT = Path(__file__).resolve().parents[2]
PLIMSOLL = os.environ.get("PLIMSOLL_BINARY", str(ROOT / "build/plimsoll"))
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
          r"\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace("{1,3}", "")
SPECIALS = ["<|endoftext|>", "<|bos|>"]


def run(command, tokenizer, *options, data=b""):
    return subprocess.run([PLIMSOLL, "data", command, "--tokenizer", str(tokenizer), *options], input=data,
                          capture_output=True)


def json_lines(command, tokenizer, lines, *options):
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    done = run(command, tokenizer, "--json-lines", *options, data=data)
    if done.returncode != 0:
        raise AssertionError(f"plimsoll data {command}: status {done.returncode}: {done.stderr.decode()}")
    return [json.loads(line) for line in done.stdout.decode().split("\n")[:-1]]


def corpus():
    """The repository's own texts."""
    paths = sorted(path for room in ("", "data", "kernels", "train", "tests") for path in (ROOT / room).glob("*.md"))
    return [path.read_text(encoding="utf-8") for path in [*paths, ROOT / "tests/golden/shakespeare_excerpt.txt"]]


def split_by(regex):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(regex), "isolated"),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def trained(pre_tokenizer, vocab=700, initial=True, **model):
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet() if initial else []
    tokenizer.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=vocab, special_tokens=SPECIALS,
                                                                initial_alphabet=alphabet, show_progress=False))
    return tokenizer


def random_text(rng, words):
    """Words, contractions, digits, kinds of white space, names of special tokens and any code points, mixed."""
    def any_code():
        while True:
            code = rng.choice([rng.randrange(0x300), rng.randrange(0x3000), rng.randrange(0x20000),
                               rng.randrange(0x110000)])
            if not 0xD800 <= code < 0xE000:
                return chr(code)
    kinds = [lambda: rng.choice(words), lambda: rng.choice(words), lambda: " ", lambda: " " * rng.randrange(1, 5),
             lambda: rng.choice("\n\r\t\v\f\x85\xa0\u2003\u2028\u3000\x1c\u200b\u180e"), lambda: "\n" * rng.randrange(1, 4),
             lambda: "\r\n", lambda: rng.choice(["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'LL", "'Re", "'ſ", "'"]),
             lambda: str(rng.randrange(10 ** rng.randrange(1, 8))), lambda: rng.choice("½²٣५Ⅷ①"), lambda: rng.choice("éßДあ漢क्ष"),
             lambda: rng.choice(["👍🏽", "e\u0301", "…", "--", "!?", "<|", "|>", "ĠĊ"]), any_code, any_code,
             lambda: rng.choice([*SPECIALS, "<|x|>", "  two", "<|endoftext", "endoftext|>"])]
    return "".join(rng.choice(kinds)() for _ in range(rng.randrange(0, 14)))


@unittest.skipIf(tokenizers is None, "the Python library tokenizers is not installed")
class AgainstTheLibrary(unittest.TestCase):
    TEXTS = 1500

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.rng = random.Random(20260101)
        words = [word for text in corpus() for word in text.split()]
        self.texts = [random_text(self.rng, words) for _ in range(self.TEXTS)] + corpus()[:2] + ["", " ", "\n"]

    def compare(self, tokenizer, specials=(False, True)):
        path = self.folder / "tokenizer.json"
        tokenizer.save(str(path))
        for parse in specials:
            tokenizer.encode_special_tokens = not parse
            wanted = [tokenizer.encode(text, add_special_tokens=False).ids for text in self.texts]
            seen = json_lines("encode", path, self.texts, *(["--specials"] if parse else []))
            for text, ids, want in zip(self.texts, seen, wanted, strict=True):
                self.assertEqual(ids, want, f"{text!r}, specials {parse}")
            for skip in (False, True):
                decoded = json_lines("decode", path, wanted, *([] if skip else ["--specials"]))
                for ids, text in zip(wanted, decoded, strict=True):
                    self.assertEqual(text, tokenizer.decode(ids, skip_special_tokens=skip), ids)

    def test_gpt2_expression(self):
        self.compare(trained(pre_tokenizers.ByteLevel(add_prefix_space=False)))

    def test_prefix_space(self):
        self.compare(trained(pre_tokenizers.ByteLevel(add_prefix_space=True)))

    def test_whole_text_as_one_piece(self):
        self.compare(trained(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), vocab=400))

    def test_llama3_expression_with_whole_pieces_first_and_a_bos(self):
        tokenizer = trained(split_by(LLAMA3), ignore_merges=True)
        tokenizer.post_processor = processors.Sequence([
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="<|bos|> $A", pair="<|bos|> $A <|bos|>:1 $B:1",
                                          special_tokens=[("<|bos|>", tokenizer.token_to_id("<|bos|>"))])])
        self.compare(tokenizer)

    def test_qwen2_expression(self):
        self.compare(trained(split_by(QWEN2)))

    def test_added_tokens_that_are_not_special(self):
        tokenizer = trained(pre_tokenizers.ByteLevel(add_prefix_space=False))
        tokenizer.add_tokens([AddedToken("  two", normalized=True), AddedToken("<|x|>", normalized=False), "the", "漢"])
        self.compare(tokenizer)

    def test_what_plimsoll_writes_the_library_reads(self):
        for name, tokenizer in (("gpt2", trained(pre_tokenizers.ByteLevel(add_prefix_space=False))),
                                ("llama3", trained(split_by(LLAMA3), ignore_merges=True))):
            path, out = self.folder / f"{name}.json", self.folder / name
            tokenizer.save(str(path))
            (self.folder / "text.txt").write_text("a few words\n")
            done = subprocess.run([PLIMSOLL, "data", "prepare", str(self.folder / "text.txt"), str(out), "--tokenizer",
                                   str(path)], capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)
            read = Tokenizer.from_file(str(out / "tokenizer.json"))
            for text in self.texts:
                self.assertEqual(read.encode(text).ids, tokenizer.encode(text, add_special_tokens=False).ids, repr(text))

    def test_byte_that_has_no_token_is_named(self):
        trained(pre_tokenizers.ByteLevel(add_prefix_space=False), initial=False).save(str(self.folder / "t.json"))
        done = run("encode", self.folder / "t.json", data="good \u0001".encode())
        self.assertEqual(done.returncode, 78)
        self.assertIn(r"byte \x01 at byte 5", done.stderr.decode())


class ByteForByte(unittest.TestCase):
    def test_any_bytes_come_back(self):
        rng = random.Random(7)
        tokenizer = ROOT / "tests/golden/bpe/tokenizer.json"
        utf8 = "Zwölf Boxkämpfer 漢字 👍🏽\n".encode()
        for case in range(12):
            data = rng.randbytes(rng.randrange(1, 5000))
            if case % 2:  # characters, broken at some places
                data = bytearray(utf8 * 40)
                for _ in range(30):
                    data[rng.randrange(len(data))] = rng.randrange(256)
                data = bytes(data)
            ids = run("encode", tokenizer, data=data)
            self.assertEqual(ids.returncode, 0, ids.stderr)
            self.assertEqual(run("decode", tokenizer, data=ids.stdout).stdout, data, f"case {case}")

    def test_ids_and_lines_that_cannot_be_used_are_named(self):
        tokenizer = ROOT / "tests/golden/bpe/tokenizer.json"
        for command, options, data, wanted in (
                ("decode", [], b"1 2 x", "token 2 of the input is 'x'"),
                ("decode", [], b"1 99999999999", "token 1 of the input is '99999999999'"),
                ("decode", [], b"1 70000", "id 70000 is outside its vocabulary"),
                ("decode", ["--json-lines"], b"[1]\n[1.5]\n", "line 2 of the input"),
                ("encode", ["--json-lines"], b'"a"\n7\n', "line 2 of the input")):
            done = run(command, tokenizer, *options, data=data)
            self.assertEqual(done.returncode, 78)
            self.assertIn(wanted, done.stderr.decode())


if __name__ == "__main__":
    unittest.main()
