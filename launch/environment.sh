# Sourced by run.sh and test.sh: makes .venv, once, and sets `root` and `python`. `needed`: the file of requirements that
# is enough, requirements.txt if nothing is said; .venv may hold more.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
base="${PYTHON:-python3}"
if ! "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "error: PYTHON = '$base'; allowed: a Python of at least 3.11" >&2
    exit 2
fi
python="$root/.venv/bin/python"
needed="${needed:-requirements.txt}"
# The stamp is written last, so an installation that was cut off is done again.
stamp="$root/.venv/requirements.installed"
wanted() { cat "$root/requirements-run.txt" "$root/$1"; }
if ! cmp -s <(wanted requirements.txt) "$stamp" && ! cmp -s <(wanted "$needed") "$stamp"; then
    echo "installing $needed into .venv (a minute or two, once)" >&2
    "$base" -m venv "$root/.venv"
    "$python" -m pip install --quiet --disable-pip-version-check -r "$root/$needed"
    wanted "$needed" >"$stamp"
fi
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
