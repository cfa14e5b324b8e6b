# Sourced by run.sh and test.sh: makes .venv from requirements.txt, once, and sets `root`, `python` and
# `install`, which takes pip's arguments.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
base="${PYTHON:-python3}"
if ! "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "error: PYTHON = '$base'; allowed: a Python of at least 3.11" >&2
    exit 2
fi
python="$root/.venv/bin/python"
install() {
    "$python" -m pip install --quiet --disable-pip-version-check --no-compile "$@"
    # On all cores; pip compiles one module after the other. Some libraries ship templates that are no Python.
    "$python" -m compileall -qq -j 0 "$root/.venv/lib" || true
}
# The stamp is written last, so an installation that was cut off is done again.
stamp="$root/.venv/requirements.installed"
if ! cmp -s "$root/requirements.txt" "$stamp"; then
    echo "installing requirements.txt into .venv (a minute or two, once)" >&2
    "$base" -m venv "$root/.venv"
    install -r "$root/requirements.txt"
    cp "$root/requirements.txt" "$stamp"
fi
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
