#!/bin/sh
# Builds $VENV from requirements.lock. Called by `make setup`.
set -eu

"$PYTHON" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || {
    echo "error: $PYTHON is $("$PYTHON" --version 2>&1 || echo 'not there'): expected Python 3.10 to 3.13;" \
        "try: make setup PYTHON=python3.12" >&2
    exit 2
}
"$PYTHON" -m venv "$VENV" || {
    echo "error: $PYTHON cannot make a virtual environment in $VENV; on Debian: apt-get install python3-venv" >&2
    exit 2
}

echo "setting up $VENV from requirements.lock (a minute or two, once)"

# opencv-python needs the system's libGL; slim containers have none, and the headless build is the same code
# without windows (nothing here opens one).
requirements="$VENV/requirements.txt"
if "$VENV/bin/python" -c 'import ctypes; ctypes.CDLL("libGL.so.1")' 2>/dev/null; then
    cp requirements.lock "$requirements"
else
    echo "libGL is not on this system: installing opencv-python-headless"
    sed 's/^opencv-python==/opencv-python-headless==/' requirements.lock > "$requirements"
fi

if [ -n "${TORCH_INDEX:-}" ]; then
    "$VENV/bin/pip" install --quiet --disable-pip-version-check --index-url "$TORCH_INDEX" \
        "$(grep -m1 '^torch==' requirements.lock)" || exit 2
fi
"$VENV/bin/pip" install --quiet --disable-pip-version-check -r "$requirements" || {
    echo "error: pip could not install requirements.lock (its message is above); try: make setup again" >&2
    exit 2
}
"$VENV/bin/python" -c 'import cv2, torch' || {
    echo "error: the environment in $VENV does not import; try: make clean setup" >&2
    exit 2
}
