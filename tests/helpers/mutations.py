"""Files with something wrong in them: bytes flipped, cut, doubled, columns gone, another encoding."""

from __future__ import annotations

from random import Random


def mutated(content: bytes, random: Random) -> bytes:
    """The content after one to four accidents; now and then still the same."""
    for _ in range(random.randint(1, 4)):
        content = random.choice(ACCIDENTS)(content, random)
    return content


def _flip(content: bytes, random: Random) -> bytes:
    place = random.randrange(len(content) or 1)
    return content[:place] + bytes([random.randrange(256)]) + content[place + 1 :]


def _cut(content: bytes, random: Random) -> bytes:
    return content[: random.randrange(len(content) + 1)]


def _drop(content: bytes, random: Random) -> bytes:
    begin = random.randrange(len(content) + 1)
    return content[:begin] + content[begin + random.randrange(40) :]


def _insert(content: bytes, random: Random) -> bytes:
    place = random.randrange(len(content) + 1)
    return content[:place] + random.choice(INTRUDERS) + content[place:]


def _column(content: bytes, random: Random) -> bytes:
    lines = content.split(b"\n")
    number = random.randrange(len(lines))
    lines[number] = lines[number].replace(random.choice([b",", b"\t", b":"]), random.choice([b"", b",,", b"\t"]), 1)
    return b"\n".join(lines)


def _encoding(content: bytes, random: Random) -> bytes:
    name = random.choice(["utf-16", "utf-8-sig", "latin-1", "utf-32"])
    return content.decode("utf-8", "replace").encode(name, "replace")


def _line_ends(content: bytes, random: Random) -> bytes:
    return content.replace(b"\n", random.choice([b"\r\n", b"\r", b"\n\n"]))


def _twice(content: bytes, random: Random) -> bytes:
    return content + content[random.randrange(len(content) + 1) :]


ACCIDENTS = (_flip, _flip, _flip, _cut, _drop, _insert, _column, _encoding, _line_ends, _twice)
INTRUDERS = (
    b'"',
    b"\0",
    b"\n",
    b"\r",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"{",
    b"}",
    b"[]",
    b"9" * 30,
    b"1e999",
    b"NaN",
    b"\\",
)
