#!/usr/bin/env bash
# Runs the tests on every CPython from 3.7 to 3.13 that is found on the PATH or with pyenv, and says which.
set -u
cd "$(dirname "$0")/.." || exit 1
status=0 summary=""
for version in 3.7 3.8 3.9 3.10 3.11 3.12 3.13; do
    python=""
    # A pyenv shim is on the PATH whether or not its version may be used here: the real ones first, then what runs.
    for candidate in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version".*/bin/python3 "$(command -v python$version)"; do
        [ -x "$candidate" ] && "$candidate" -c 'import ensurepip, venv' 2>/dev/null && python=$candidate && break
    done
    if [ -z "$python" ]; then
        summary+="python $version: not found here"$'\n'
        continue
    fi
    echo "== python $version"
    if make --no-print-directory test PYTHON="$python" VENV=".venv-$version"; then
        summary+="python $version: passed"$'\n'
    else
        summary+="python $version: FAILED"$'\n' status=1
    fi
done
printf '%s' "$summary"
exit $status
