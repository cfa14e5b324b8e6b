#!/usr/bin/env bash
# The digits run, or with further arguments any run: ./launch/run.sh [--config FILE] [--workdir DIR] [--seed 1 …]
needed=requirements-run.txt
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
exec "$python" -m dass_jax.train --config "$root/configs/digits_dass.toml" "$@"
