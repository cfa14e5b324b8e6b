#!/usr/bin/env bash
# A run of several seeds on a CPU, each core with seeds of its own: ./launch/seeds.sh --seeds N [--config FILE …]
# N is a multiple of the number of cores. XLA makes a device of each core, and splits no operation over them.
set -euo pipefail
cores="$(nproc)"
export JAX_PLATFORMS=cpu NPROC=1
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$cores"
exec "$(dirname "${BASH_SOURCE[0]}")/run.sh" --parallel.axis seeds "$@"
