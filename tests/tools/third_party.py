#!/usr/bin/env python3
"""Gathers the licences of all that is built into the program: what a package with it must hold.

third_party.py [CARGO-FEATURES] > THIRD-PARTY.txt     the feature `cluster` unless others are named

Each text stands once, with the crates that it is for. A crate that ships none is told with the expression of its licences.
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
NAMES = ("license", "licence", "copying", "copyright", "notice", "unlicense")


def cargo(*arguments):
    done = subprocess.run(["cargo", *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def built_in(metadata):
    """The crates that the program is linked with: without those that only tests or build scripts use."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    found, waiting = set(), [metadata["resolve"]["root"]]
    while waiting:
        crate = waiting.pop()
        if crate in found:
            continue
        found.add(crate)
        for dependency in nodes[crate]["deps"]:
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
                waiting.append(dependency["pkg"])
    found.discard(metadata["resolve"]["root"])
    return found


def texts(folder):
    """The texts of the licences in a folder of sources."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name.lower().startswith(NAMES):
            yield path.read_text(encoding="utf-8", errors="replace").strip()
        elif path.is_dir() and path.name.lower() in ("license", "licenses"):
            yield from texts(path)


def main():
    features = sys.argv[1] if len(sys.argv) > 1 else "cluster"
    host = next(l.split()[1] for l in subprocess.check_output(["rustc", "-vV"], text=True).splitlines() if l.startswith("host"))
    metadata = json.loads(cargo("metadata", "--locked", "--format-version=1", "--features", features, "--filter-platform", host))
    wanted = built_in(metadata)
    by_text, without = {}, []
    for package in sorted(metadata["packages"], key=lambda package: (package["name"], package["version"])):
        folder = Path(package["manifest_path"]).parent
        name = f"{package['name']} {package['version']}"
        if package["name"] == "luajit-src":
            # Only its sources are built in.
            name, found = "LuaJIT", list(texts(folder / "luajit2"))
        elif package["id"] in wanted:
            found = list(texts(folder))
            if package["name"] == "libmimalloc-sys":
                for inner in folder.glob("c_src/mimalloc*"):
                    found.extend(texts(inner))
        else:
            continue
        if not found:
            without.append(f"{name}: {package['license'] or 'see its sources'}")
        for text in found:
            by_text.setdefault(text, []).append(name)
    print("This program has parts that are under the licences below. Where there is a choice, all of it is shown.")
    if without:
        print("\nWithout a text of their own, under the usual ones of their names:\n" + "\n".join(without))
    for text, names in sorted(by_text.items(), key=lambda item: (-len(item[1]), item[1])):
        print("\n" + "=" * 100 + "\n" + ", ".join(dict.fromkeys(names)) + "\n" + "-" * 100 + "\n" + text)


if __name__ == "__main__":
    main()
