#!/bin/sh
# Makes .venv with the pinned packages and the host with its own requirements; run by make when they have changed.
set -eu

# A name on the PATH may be a version manager's shim that runs nothing, so each is tried.
python=
for candidate in ${PYTHON:-python3.12 python3.11 python3}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "Python 3.11 or 3.12 is needed and ${PYTHON:-none on the PATH} is neither: call make with PYTHON=/path/to/python3.12." >&2
    exit 1
fi

[ -x .venv/bin/python ] || "$python" -m venv .venv
host=$(.venv/bin/python dev/host.py)
.venv/bin/python -m pip install --quiet uv==0.13.8
# uv installs in half a minute what takes pip four; pip is the way where only pip is configured for a mirror.
.venv/bin/uv pip install --quiet --python .venv/bin/python -r dev/requirements.txt -r "$host/requirements.txt" ||
    .venv/bin/python -m pip install -r dev/requirements.txt -r "$host/requirements.txt"
