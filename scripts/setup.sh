#!/bin/sh
# Make .venv: Python 3.11 to 3.14, everything that requirements/dev.txt pins (hashes checked), and this checkout,
# editable. Called by `make setup`, which knows when it is due. Uses uv where it is, else venv and pip.
#   PYTHON=/path/to/python   use this interpreter, and no other
set -eu
cd "$(dirname "$0")/.."
VENV=.venv

# Interpreters are tried by running them: a version manager's shim may exist and still fail.
find_python() { # find_python <Python code that fails where the interpreter will not do>
    for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3.14 python3}; do
        if "$candidate" -c "import sys; assert (3, 11) <= sys.version_info < (3, 15); $1" >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
}

fail() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

if command -v uv >/dev/null 2>&1; then
    installer=uv
    python=$(find_python "")
    # Without one on the PATH uv looks further, and may fetch one.
    [ -n "$python" ] || [ -n "${PYTHON:-}" ] || python='>=3.11,<3.15'
else
    installer=pip
    python=$(find_python "import venv, ensurepip")
    if [ -z "$python" ] && [ -n "$(find_python "")" ]; then
        fail "$(find_python "") comes without the venv and ensurepip modules, and uv is not installed." \
            "On Debian and Ubuntu: apt-get install python3-venv"
    fi
fi
[ -n "$python" ] || fail "no Python 3.11 to 3.14 that runs${PYTHON:+ as PYTHON=$PYTHON}." \
    "Install one, or name it: make setup PYTHON=/path/to/python"

# A stamp says that the last set-up ran to its end, here; anything else is thrown away.
if [ "$(cat $VENV/.stamp 2>/dev/null)" != "$PWD" ] || ! $VENV/bin/python -c '' 2>/dev/null; then
    rm -rf $VENV
fi
rm -f $VENV/.stamp

# The build backends come first, then everything else is built with them: nothing unpinned is ever fetched.
if [ $installer = uv ]; then
    [ -d $VENV ] || uv venv --quiet --python "$python" $VENV
    install() { uv pip install --quiet --python $VENV/bin/python --no-build-isolation "$@"; }
else
    [ -d $VENV ] || "$python" -m venv $VENV
    # uv makes environments without pip.
    $VENV/bin/python -c 'import pip' 2>/dev/null || $VENV/bin/python -m ensurepip >/dev/null
    # -qq hides warnings (of pip's own age, of the machine's pip settings), never errors.
    install() { $VENV/bin/python -m pip install -qq --disable-pip-version-check --no-build-isolation --use-pep517 "$@"; }
fi
echo "setup: $($VENV/bin/python --version), packages of requirements/dev.txt by $installer …"
install --require-hashes -r requirements/build.txt
install --require-hashes -r requirements/dev.txt
install --no-deps --editable .
printf '%s\n' "$PWD" >$VENV/.stamp
echo "setup: done. The command is $VENV/bin/pg-analytics"
