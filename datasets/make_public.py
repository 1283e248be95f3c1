"""Make the RecBole data sets Scientific and Beauty from public repositories that have them in other formats.

    git clone https://github.com/ysh-1998/CoWPiRec
    python datasets/make_public.py Scientific CoWPiRec -o data

    git clone https://github.com/Wenyueh/LLM-RecSys-ID
    git clone https://github.com/dh-r/LLM-Sequential-Recommendation
    python datasets/make_public.py Beauty LLM-RecSys-ID LLM-Sequential-Recommendation -o data

Writes data/Scientific or data/Beauty. Stops if a file doesn't have the SHA-256 below, that of the files used to measure
configs/scientific.yaml and configs/beauty.yaml. These commits are known to give the right files: db47560 (CoWPiRec),
2200ad9 (LLM-RecSys-ID) and 6464b39 (LLM-Sequential-Recommendation).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import sys
from pathlib import Path

SHA256 = {
    "Scientific.train.inter": "7284f6489d956fa20c9b64ffc84569264320edba5c3bc2fcb22db2ea083a1163",
    "Scientific.valid.inter": "5f37c84d3b54617cdc46638c89dfe8741c7efc4987acd5eb64de2cbd4311f46c",
    "Scientific.test.inter": "546da7e5f44002b4518d7fd58066684bc09613f76c240914e16976d57cfe7083",
    "Scientific.item": "5dd2edee145cd32a0ad6dfe3e231e949d52a31312ac55b821f064cf77840f273",
    "Beauty.inter": "11f9d49657ebf27d82ef21108068bbdd9e207b1dd539b5b16608e19b938628a5",
    "Beauty.item": "badde26aeb3fa3a5a91f586e9c810960bbde351fd5dedea3253ed4de2087d492",
}


def scientific(repository: Path) -> dict[str, str]:
    """Return the files of Scientific: the interactions unchanged, the texts under the item numbers used there."""
    source = repository / "dataset" / "Scientific"
    files = {name: _text(source / name) for name in SHA256 if name.startswith("Scientific.") and "inter" in name}
    text_of: dict[str, str] = {}
    for line in _text(source / "Scientific.text").splitlines()[1:]:
        item, _, text = line.partition("\t")
        text_of.setdefault(item, text.strip())
    numbers = (line.split("\t") for line in _text(source / "Scientific.item2index").splitlines())
    rows = [f"{number}\t{text_of[item]}\n" for item, number in numbers]
    return {**files, "Scientific.item": "".join(["item_id:token\ttext:token_seq\n", *rows])}


def beauty(sequences: Path, titles: Path) -> dict[str, str]:
    """Return the files of Beauty: the sequences as events, with the position as time, and the item titles."""
    item_of = json.loads(_text(sequences / "data" / "beauty" / "datamaps.json"))["id2item"]
    events, items = ["user_id:token\titem_id:token\ttimestamp:float\n"], dict[str, None]()
    for line in _text(sequences / "data" / "beauty" / "sequential_data.txt").splitlines():
        user, *numbers = line.split()
        for place, number in enumerate(numbers):
            events.append(f"{user}\t{item_of[number]}\t{place}\n")
            items[item_of[number]] = None
    number_of = json.loads(_text(titles / "beauty" / "item_id_to_int.json"))
    products = csv.DictReader(io.StringIO(_text(titles / "beauty" / "products_lookup.csv"), newline=""))
    title_of = {product["global_product_id"]: " ".join(product["name"].split()) for product in products}
    rows = [f"{item}\t{title_of.get(str(number_of.get(item)), '')}\n" for item in items]
    return {"Beauty.inter": "".join(events), "Beauty.item": "".join(["item_id:token\ttitle:token_seq\n", *rows])}


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8")


def main() -> None:
    """Write one of the data sets, if its files have the expected SHA-256."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=("Scientific", "Beauty"))
    parser.add_argument("repositories", type=Path, nargs="+", help="paths of the clones, in the order above")
    parser.add_argument("-o", "--out", type=Path, default=Path("data"), help="folder in which to create the data set")
    options = parser.parse_args()
    clones = options.repositories
    if len(clones) != (needed := {"Scientific": 1, "Beauty": 2}[options.name]):
        parser.error(f"{options.name} needs {needed} clone{'s' * (needed != 1)}, but got {len(clones)}")
    made = scientific(clones[0]) if options.name == "Scientific" else beauty(*clones)
    files = {name: content.encode() for name, content in made.items()}
    if other := [name for name, content in files.items() if hashlib.sha256(content).hexdigest() != SHA256[name]]:
        sys.exit(f"{', '.join(other)}: not the files used for the measurements; check out the commits listed in --help")
    folder = options.out / options.name
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    sys.stdout.write(f"{folder} is ready\n")


if __name__ == "__main__":
    main()
