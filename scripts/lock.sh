#!/bin/sh
# Resolves requirements.lock for Python 3.10 to 3.13. Called by `make lock`.
# PyTorch's CUDA packages are left out: a build of torch that needs them asks for them itself, a CPU build does not.
set -eu

"$VENV/bin/pip" install --quiet uv
{
    echo "# Made by 'make lock' from pyproject.toml; do not edit."
    "$VENV/bin/uv" pip compile pyproject.toml --extra bench --extra fast --extra dev --universal --python-version 3.10 \
        --no-annotate --no-header --quiet | grep -vE '^(nvidia-|cuda-|triton)'
} > requirements.lock.tmp
mv requirements.lock.tmp requirements.lock
