#!/usr/bin/env bash
# Builds the documentation site into build/site, in a virtual environment made for it where none is active. Warnings, broken links
# and anchors are errors. The build needs no network. Open build/site/index.html in a browser.
set -euo pipefail
cd "$(dirname "$0")/.."
SMOE_MT_EXTRAS="${SMOE_MT_EXTRAS:-[test,docs]}"
. scripts/environment.sh
# Silences a notice of the theme about MkDocs 2; setup.py asks for MkDocs 1.
NO_MKDOCS_2_WARNING=1 mkdocs build --quiet --strict --clean --config-file docs/site/mkdocs.yml
echo "site: build/site/index.html"
