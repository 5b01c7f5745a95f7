#!/usr/bin/env bash
# The paper's benchmark m15, from text to report: scripts/m15.sh --help
exec bash "$(dirname "$0")/benchmark.sh" m15 "$@"
