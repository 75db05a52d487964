#!/usr/bin/env bash
# Makes a virtual environment; installs what Debian or Ubuntu lack for that. Usage: setup.sh VENV_DIR
set -euo pipefail
venv=$1
python=${PYTHON:-python3}

missing=()
command -v "$python" >/dev/null || missing+=(python3)
"$python" -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
# The headers may belong to a Python that was not installed by the system.
"$python" -c 'import sysconfig, os, sys; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' \
    2>/dev/null || missing+=(python3-dev)
command -v "${CXX:-c++}" >/dev/null || missing+=(g++)
if ((${#missing[@]})); then
  if ! command -v apt-get >/dev/null; then
    echo "error: missing ${missing[*]} (Debian's names). Install them and run this again." >&2
    exit 1
  fi
  sudo=$([[ $(id -u) == 0 ]] || echo sudo)
  echo "Installing ${missing[*]}" >&2
  $sudo apt-get update -qq
  $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi

"$python" - <<'PY'
import sys
if sys.version_info < (3, 10):
    sys.exit(f"error: Python {sys.version.split()[0]} is too old: gt_infer needs 3.10 or newer. "
             "Name another one: make demo PYTHON=python3.12")
PY
[[ -x $venv/bin/python ]] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --upgrade pip
