#!/usr/bin/env bash
# All tests, or with arguments those that pytest selects: ./launch/test.sh [tests/nn -k pool …]
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$root"
exec "$python" -m pytest "$@"
