#!/usr/bin/env bash
# The paper's benchmark m4, from text to report: scripts/m4.sh --help
exec bash "$(dirname "$0")/benchmark.sh" m4 "$@"
