#!/usr/bin/env bash
# Writes the files of pinned packages from pyproject.toml: constraints.txt with all that jaxft, its extras and its tests
# need, requirements/linux-cpu.txt with the hashes of what jaxft itself needs, requirements/build.txt with those of what
# builds a package that has no wheel. Pins that still fit stay; `--upgrade` takes the newest releases, and
# `--upgrade-package NAME` that of one package. Needs a package index.
set -euo pipefail
cd "$(dirname "$0")/.."
python=3.11
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT

"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q uv
# One version of a package for all Pythons and systems: the one that is tested.
compile=("$folder/venv/bin/uv" pip compile -q --universal --fork-strategy fewest --python-version "$python"
  --no-header --no-annotate)

cp constraints.txt "$folder/"
"${compile[@]}" "$@" --all-extras pyproject.toml -o "$folder/constraints.txt"
pins=(-c "$folder/constraints.txt" --generate-hashes)
"${compile[@]}" "${pins[@]}" pyproject.toml -o "$folder/linux-cpu.txt"
"${compile[@]}" "${pins[@]}" - -o "$folder/build.txt" <<< setuptools-scm  # seqeval needs it

write() { # FILE LINE...: the compiled file under a comment of these lines
  { printf '# %s\n' "${@:2}" "Made by \`make constraints\`."; cat "$folder/${1##*/}"; } > "$folder/whole"
  cp "$folder/whole" "$1"
}
write constraints.txt \
  "The versions that jaxft is tested with, on Python $python: pip install -c constraints.txt -e '.[test]'" \
  "Other Pythons and systems get the same versions."
write requirements/linux-cpu.txt \
  "What a release of jaxft needs on CPUs, without PyTorch; tested on Linux with Python $python. After build.txt:" \
  "pip install --require-hashes --no-build-isolation -r requirements/linux-cpu.txt"
write requirements/build.txt \
  "What builds packages that have no wheel, and jaxft: pip install --require-hashes -r requirements/build.txt"
