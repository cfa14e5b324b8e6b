#!/usr/bin/env bash
# One run by several processes: the same command on each host, with --process 0, 1, … on them.
#   ./launch/hosts.sh --coordinator HOST:PORT --processes N --process I [--config FILE --workdir DIR …]
# Without --coordinator the processes find each other by what a TPU pod, SLURM (srun) or Open MPI (mpirun) tells them.
# DASS_JAX_COORDINATOR, DASS_JAX_PROCESSES and DASS_JAX_PROCESS do the same for `python -m dass_jax.train` itself.
set -euo pipefail
export DASS_JAX_COORDINATOR="${DASS_JAX_COORDINATOR:-auto}"
while [ $# -gt 0 ]; do
    case "$1" in
        --coordinator | --processes | --process)
            if [ $# -lt 2 ]; then
                echo "error: $1: no value given; allowed: $1 VALUE" >&2
                exit 2
            fi
            name="DASS_JAX_$(tr '[:lower:]' '[:upper:]' <<<"${1#--}")"
            export "$name=$2"
            shift 2
            ;;
        *) break ;;
    esac
done
exec "$(dirname "${BASH_SOURCE[0]}")/run.sh" "$@"
