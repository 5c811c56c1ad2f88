"""Build the sample text of the package, Jane Austen's six novels, from Debian's package r-cran-janeaustenr.

    apt-get download r-cran-janeaustenr
    dpkg-deb -x r-cran-janeaustenr_*.deb unpacked
    python examples/assets/build_sample_text.py unpacked/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb

Every chapter of the six novels is kept. Dropped are what is not their prose: titles, headings of chapters and volumes,
dividers, what stands before the first chapter, editors' notes, underscores that mark italics. Hard-wrapped lines are
joined: a paragraph is a line, an empty line stands between chapters. The result is one bzip2 file (xz is larger here)
with a JSON object, title: text. The same input gives the same bytes.
"""

import argparse
import bz2
import json
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from roberta.data.sample import NOVELS

R_HEADER = struct.Struct(">2x3i")  # "X\n" for big-endian, the version of the format, two versions of R
R_STRINGS = 0x10  # a vector of strings
CHAPTER = re.compile(r"chapter ([ivxl]+|\d+)", re.IGNORECASE)
END = re.compile(r"the end|finis|a note on the text", re.IGNORECASE)
NOT_PROSE = re.compile(r"volume [ivx]+|[* ]+|\[.*\]", re.IGNORECASE)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rdb", type=Path, help="the file Rdata.rdb of the package")
    parser.add_argument("--output", type=Path, default=NOVELS, help="file to write (default: %(default)s)")
    options = parser.parse_args(arguments)
    novels = {}
    for packed in split_chunks(options.rdb.read_bytes()):
        lines = read_strings(packed)
        title = lines[0].title().replace(" And ", " and ")
        novels[title] = "\n\n".join("\n".join(chapter) for chapter in split_chapters(lines))
    text = json.dumps(dict(sorted(novels.items())), ensure_ascii=False, indent=0)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_bytes(bz2.compress(text.encode()))


def split_chunks(packed: bytes) -> Iterator[bytes]:
    """Yield the unpacked objects of an .rdb file: each is its unpacked size as uint32, then a zlib stream."""
    while packed:
        stream = zlib.decompressobj()
        yield stream.decompress(packed[4:])
        packed = stream.unused_data


def read_strings(serialised: bytes) -> list[str]:
    """Return a vector of strings that R serialised in version 3 of its binary format."""
    version, _, _ = R_HEADER.unpack_from(serialised)
    assert version == 3, f"version {version} of R's format"
    (name_length,) = struct.unpack_from(">i", serialised, R_HEADER.size)  # of the native encoding
    offset = R_HEADER.size + 4 + name_length
    kind, count = struct.unpack_from(">2i", serialised, offset)
    assert kind == R_STRINGS, f"R object of kind {kind}"
    offset += 8
    strings = []
    for _ in range(count):
        _, length = struct.unpack_from(">2i", serialised, offset)  # flags, bytes
        strings.append(serialised[offset + 8 : offset + 8 + length].decode())
        offset += 8 + length
    return strings


def split_chapters(lines: Sequence[str]) -> list[list[str]]:
    """Return the paragraphs of each chapter, every paragraph as one line."""
    chapters: list[list[str]] = []
    for paragraph in join_paragraphs(lines):
        if CHAPTER.fullmatch(paragraph):
            chapters.append([])
        elif END.fullmatch(paragraph):
            break
        elif chapters and not NOT_PROSE.fullmatch(paragraph):
            chapters[-1].append(paragraph)
    return chapters


def join_paragraphs(lines: Sequence[str]) -> Iterator[str]:
    """Yield paragraphs, the runs of lines without an empty one, each joined with single spaces."""
    text = "\n".join(line.strip().replace("_", "") for line in lines)
    for paragraph in re.split(r"\n\n+", text.strip()):
        yield " ".join(re.sub(r"--\n", "--", paragraph).split())


if __name__ == "__main__":
    main()
