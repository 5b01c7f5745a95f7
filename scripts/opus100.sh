#!/usr/bin/env bash
# The paper's benchmark opus100, from text to report: scripts/opus100.sh --help
exec bash "$(dirname "$0")/benchmark.sh" opus100 "$@"
