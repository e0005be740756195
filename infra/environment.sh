#!/bin/sh
# Makes .venv: the newest Python that is supported and there, and the pinned packages.
#   PYTHON=python3.12 infra/environment.sh     with a Python of your own choice
set -eu
cd "$(dirname "$0")/.."
venv=.venv
# Newest first; also in pyproject.toml, and a test compares them.
versions="3.13 3.12 3.11"

stop() {
    echo "error: $*" >&2
    exit 2
}

# The version of a Python, as in 3.12; nothing where there is none.
version() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true
}

supported() {
    case " $versions " in *" ${1:-none} "*) ;; *) return 1 ;; esac
}

# Debian keeps these two in a package of their own.
makes_venvs() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null
}

# The newest Python that makes environments; otherwise the newest one that cannot.
newest() {
    lacking=
    for wanted in $versions; do
        for python in "python$wanted" python3 python; do
            if [ "$(version "$python")" = "$wanted" ]; then
                if makes_venvs "$python"; then
                    echo "$python"
                    return
                fi
                lacking=${lacking:-$python}
            fi
        done
    done
    echo "$lacking"
}

# `make` puts this first, where a Python that is to be replaced would find itself.
while [ "${PATH#"$PWD/$venv/bin:"}" != "$PATH" ]; do
    PATH=${PATH#"$PWD/$venv/bin:"}
done
present=$($venv/bin/python -m pip --version >/dev/null 2>&1 && version $venv/bin/python || true)
if [ -n "$present" ] && [ "$present" = "$(version "${PYTHON:-$venv/bin/python}")" ] && supported "$present"; then
    : # Only its packages may have changed.
else
    python=${PYTHON:-$(newest)}
    found=$([ -z "$python" ] || version "$python")
    if [ -n "${PYTHON:-}" ] && ! supported "$found"; then
        stop "PYTHON=$PYTHON is ${found:+Python }${found:-no Python}: one of $versions is needed"
    elif [ -n "$python" ] && makes_venvs "$python"; then
        "$python" -m venv --clear $venv
    elif command -v uv >/dev/null; then
        # It fetches a Python where none is there. The seed is pip.
        uv venv --quiet --clear --seed --python "${python:-${versions%% *}}" $venv
    elif [ -n "$python" ]; then
        stop "$python lacks the modules venv and ensurepip: apt-get install python$found-venv, or install uv"
    else
        found=$(version python3)
        stop "none of Python $versions is on the path${found:+ (python3 is $found)}:" \
            "install one, or uv (https://docs.astral.sh/uv)"
    fi
fi

echo "Python $(version $venv/bin/python): installing PyTorch, Ray, MLflow and what they need into $venv:" \
    "3 GB on disk, 6 with CUDA, minutes without a word…"
$venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
