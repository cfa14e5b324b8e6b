#!/usr/bin/env bash
# A run of several seeds on a CPU, each core at work for one seed at a time: ./launch/seeds.sh --seeds N [--config FILE …]
# XLA makes a device of each core, and splits no operation over them. Fewer seeds than cores leave some of them idle.
set -euo pipefail
cores="$(nproc)"
export JAX_PLATFORMS=cpu NPROC=1
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$cores"
exec "$(dirname "${BASH_SOURCE[0]}")/run.sh" --parallel.axis seeds "$@"
