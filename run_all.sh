#!/usr/bin/env bash
# Installs what is needed, if it is not there, and runs all notebooks. ./run_all.sh --help says more.
#
# The active Python is used if it has every package of requirements.txt at its version; otherwise
# .venv is made (Python 3.11 to 3.13 and pip are all it takes). An interrupted installation is continued.
# --help and --list need no package, so nothing is installed for them.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" # this clone's tgd_lib, wherever one is installed

fail() {
    echo "error: $*" >&2
    exit 2
}

trap 'echo >&2; echo "interrupted: the same command goes on where this one stopped" >&2; exit 130' INT

# Whether the Python $1 runs, is one of ours, and has every package that the file $2 pins.
complete() {
    "$1" - "$root/${2:-requirements.txt}" 2>/dev/null <<'PYTHON'
import importlib.metadata, sys
lines = [line.split("#")[0].strip() for line in open(sys.argv[1])]
pins = [line.split("==") for line in lines if line]
sys.exit(not (3, 11) <= sys.version_info < (3, 14)
         # 2.15.0+cpu, of PyTorch's own index, is 2.15.0.
         or any(importlib.metadata.version(name).split("+")[0] != version for name, version in pins))
PYTHON
}

# Prints the first Python that runs, is 3.11 to 3.13 and has the modules $1 (as import names them).
suitable_python() {
    local candidate
    for candidate in python3 python3.11 python3.12 python3.13 "$root/.venv/bin/python"; do
        if "$candidate" -c "import sys, $1; sys.exit(not (3, 11) <= sys.version_info < (3, 14))" 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python 3.11, 3.12 or 3.13 with venv found on PATH; install one" \
        "(on Debian and Ubuntu also its package python3-venv)"
}

# What .venv must have been made from to be up to date.
fingerprint() {
    { echo "$root"; cat "$root/requirements.txt" "$root/pyproject.toml"; } | cksum
}

# Makes .venv, or goes on making it.
install() {
    [ "$(cat .venv/complete 2>/dev/null)" = "$(fingerprint)" ] && .venv/bin/python -c '' 2>/dev/null && return
    local python quiet=()
    if ! .venv/bin/python -c 'import pip, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
        python=$(suitable_python "ensurepip, venv")
        echo "Making .venv with $("$python" --version)."
        rm -rf .venv
        "$python" -m venv .venv || fail ".venv could not be made in $root; is there room, may you write there?"
    fi
    echo "Installing the pinned packages into .venv: 5.4 GB, 2 to 4 minutes on a fast connection; only this once."
    [ -t 1 ] || quiet=(--quiet)
    rm -f .venv/complete
    .venv/bin/python -m pip install ${quiet[@]+"${quiet[@]}"} --disable-pip-version-check -r requirements.txt &&
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . ||
        fail "the installation stopped (see above); the same command goes on where it did"
    fingerprint >.venv/complete
}

# Whether all that is asked for is help or the listing.
only_words() {
    local argument
    [ "${1:-}" != --test ] || return 1 # all further arguments are pytest's
    for argument in "$@"; do
        case $argument in -h | --help | --list) return 0 ;; esac
    done
    return 1
}

# Becomes the companion under the Python $1. Signals wait until it can answer them with a line of its
# own, where env knows how to hold them back (GNU's does).
companion() {
    local python=$1 held=()
    shift
    env --block-signal=INT true 2>/dev/null && held=(env --block-signal=INT --block-signal=TERM --block-signal=HUP)
    exec ${held[@]+"${held[@]}"} "$python" -P -m tgd_lib.companion "$@"
}

if only_words "$@"; then
    python=$(suitable_python argparse)
    companion "$python" "$@"
fi

python=python3
if ! complete "$python"; then
    (
        cd "$root"
        if command -v flock >/dev/null && ! flock --nonblock 9; then # one at a time, where that can be told
            echo "Another run is installing; waiting for it."
            flock 9 || true
        fi
        install
    ) 9<"$root/requirements.txt"
    python=$root/.venv/bin/python
fi

if [ "${1:-}" = --test ]; then
    cd "$root"
    exec "$python" -m pytest "${@:2}"
fi
if [ "${1:-}" = --site ]; then
    cd "$root"
    if ! complete "$python" requirements-docs.txt; then
        echo "Installing what the site is built with; only this once."
        "$python" -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt ||
            fail "the installation stopped (see above); the same command goes on where it did"
    fi
    exec "$python" docs/build.py "${@:2}"
fi
companion "$python" "$@"
