#!/bin/sh
# Makes .venv with the pinned packages and the host with its own requirements; run by make when they have changed.
set -eu

"$PYTHON" - <<'CHECK'
import sys
if sys.version_info[:2] not in ((3, 11), (3, 12)):
    sys.exit(f"Python 3.11 or 3.12 is needed, this is {sys.version.split()[0]}: call make with PYTHON=python3.12.")
CHECK

[ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
host=$(.venv/bin/python dev/host.py)
.venv/bin/python -m pip install --quiet uv==0.13.8
# uv installs in half a minute what takes pip four; pip is the way where only pip is configured for a mirror.
.venv/bin/uv pip install --quiet --python .venv/bin/python -r dev/requirements.txt -r "$host/requirements.txt" ||
    .venv/bin/python -m pip install -r dev/requirements.txt -r "$host/requirements.txt"
