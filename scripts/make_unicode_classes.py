#!/usr/bin/env python3
"""Writes data/unicode_classes.inc: which code points are letters, numbers and white space, for data/pretokenizer.cpp.

    letter = general category L*, number = N*, space = the property White_Space, as \\p{L}, \\p{N} and \\s of the
    regular expressions that byte-level BPE tokenizers split by

The version is fixed, because another one gives other tokens: 16.0.0 is the one of Hugging Face's tokenizers 0.23.
Python 3.14's unicodedata is of that version; with another Python: pip install unicodedata2==16.0.0
"""

import argparse
import sys
import unicodedata
from pathlib import Path

VERSION = "16.0.0"
OTHER, LETTER, NUMBER, SPACE = range(4)  # the enum CharClass of data/unicode_classes.h
# White_Space is every separator and these control characters (PropList.txt).
SPACE_CONTROLS = {0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x85}


def database():
    """The module whose tables are of VERSION; ends the script if there is none."""
    if unicodedata.unidata_version == VERSION:
        return unicodedata
    try:
        import unicodedata2
    except ImportError:
        unicodedata2 = None
    if unicodedata2 is None or unicodedata2.unidata_version != VERSION:
        seen = unicodedata2.unidata_version if unicodedata2 else unicodedata.unidata_version
        sys.exit(f"make_unicode_classes.py: Unicode {seen}, wanted {VERSION}: pip install unicodedata2=={VERSION}")
    return unicodedata2


def class_of(code, category):
    if code in SPACE_CONTROLS or category[0] == "Z":
        return SPACE
    return {"L": LETTER, "N": NUMBER}.get(category[0], OTHER)


def boundaries(data):
    """-> (first code point, class) of each longest range of one class, ascending."""
    ranges = []
    for code in range(0x110000):
        kind = class_of(code, data.category(chr(code)))
        if not ranges or ranges[-1][1] != kind:
            ranges.append((code, kind))
    return ranges


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).resolve().parent.parent / "data" / "unicode_classes.inc"
    parser.add_argument("--out", type=Path, default=default, help="file to write")
    options = parser.parse_args()
    words = [f"0x{code << 2 | kind:x}," for code, kind in boundaries(database())]
    lines = [f"// Written by scripts/make_unicode_classes.py from Unicode {VERSION}: {len(words)} ranges, each as",
             "// first code point * 4 + CharClass."]
    line = ""
    for word in words:
        if len(line) + 1 + len(word) > 120:
            lines.append(line)
            line = ""
        line += (" " if line else "") + word
    options.out.write_text("\n".join(lines + [line]) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
