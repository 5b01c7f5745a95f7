# Sourced by the other scripts: a Python environment with smoe_mt in it.
# Uses the virtual environment that is active, else makes .venv in the repository. SMOE_MT_EXTRAS="[test]" adds extras.
# SMOE_MT_CUDA=1 takes torch with CUDA where no GPU is seen (an image that is built elsewhere).
# PYTHON=python3.12 chooses the interpreter for a new one. In an installed wheel there is nothing left to do.

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

[ -f "$here/setup.py" ] || return 0

if [ -z "${VIRTUAL_ENV:-}" ]; then
    if [ ! -x "$here/.venv/bin/python" ]; then
        echo "making a virtual environment in $here/.venv"
        "${PYTHON:-python3}" -m venv "$here/.venv" || {
            rm -rf "$here/.venv"
            echo "error: python3 cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2
            exit 1
        }
    fi
    . "$here/.venv/bin/activate"
fi

python - <<'PY' || exit 1
import sys
if not (3, 10) <= sys.version_info[:2] <= (3, 12):
    sys.exit(f"error: smoe_mt needs Python 3.10 to 3.12, not {sys.version.split()[0]}; choose one with PYTHON=python3.11")
PY

install_torch() {
    # A machine without a GPU needs no CUDA libraries, several gigabytes of them.
    python -c "import torch" 2>/dev/null && return
    local version=2.13.0
    if command -v nvidia-smi >/dev/null 2>&1 || [ "${SMOE_MT_CUDA:-0}" = 1 ] || [ "$(uname -s)" != Linux ]; then
        pip install --quiet "torch==$version"
    else
        pip install --quiet "torch==$version+cpu" 2>/dev/null ||
            pip install --quiet "torch==$version" --index-url https://download.pytorch.org/whl/cpu ||
            pip install --quiet "torch==$version"
    fi
}

stamp="$VIRTUAL_ENV/.smoe_mt-installed${SMOE_MT_EXTRAS:-}"
wanted="$(cat "$here/setup.py" "$here/scripts/environment.sh" | cksum) $here"
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "installing smoe_mt and what it needs (fairseq compiles for about two minutes)"
    pip install --quiet --upgrade pip &&
        install_torch &&
        # With its build tools here first, fairseq compiles against this torch instead of fetching one of its own.
        pip install --quiet "numpy>=1.26" cython setuptools wheel &&
        pip install --quiet --no-build-isolation fairseq-fixed &&
        (cd "$here" && pip install --quiet --no-build-isolation -e ".${SMOE_MT_EXTRAS:-}") || { # pip reads [ in a path as extras
        echo "error: the installation failed; the lines above say why" >&2
        exit 1
    }
    echo "$wanted" >"$stamp"
fi
