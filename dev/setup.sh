#!/bin/sh
# Makes an environment (.venv) with the pinned packages and those that the host requires; run by make when they have changed.
# `sh dev/setup.sh FOLDER VERSION` makes another one, for another pinned host.
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

environment=${1:-.venv}
[ -x "$environment/bin/python" ] || "$python" -m venv "$environment"
host=$("$environment/bin/python" dev/host.py ${2:+"$2"})
"$environment/bin/python" -m pip install --quiet uv==0.13.8
# uv installs in half a minute what takes pip four; pip is the way where only pip is configured for a mirror.
"$environment/bin/uv" pip install --quiet --python "$environment/bin/python" \
    -r dev/requirements.txt -r "$host/requirements.txt" ||
    "$environment/bin/python" -m pip install -r dev/requirements.txt -r "$host/requirements.txt"
