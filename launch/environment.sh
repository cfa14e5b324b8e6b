# Sourced by run.sh and test.sh: makes .venv from requirements.txt, once, and sets `root` and `python`.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
base="${PYTHON:-python3}"
if ! "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "error: PYTHON = '$base'; allowed: a Python of at least 3.11" >&2
    exit 2
fi
python="$root/.venv/bin/python"
# The stamp is written last, so an installation that was cut off is done again.
stamp="$root/.venv/requirements.installed"
if ! cmp -s "$root/requirements.txt" "$stamp"; then
    echo "installing requirements.txt into .venv (a minute or two, once)" >&2
    "$base" -m venv "$root/.venv"
    "$python" -m pip install --quiet --disable-pip-version-check -r "$root/requirements.txt"
    cp "$root/requirements.txt" "$stamp"
fi
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
