#!/bin/sh
# Write requirements/*.txt anew from pyproject.toml: pinned, hashed, for every platform and Python >= 3.11.
# They name no package index, and a wheel folder that this machine may be set up with is left out, so that
# the hashes are the public ones.
set -eu
cd "$(dirname "$0")/.."

command -v uv >/dev/null || { echo "make lock needs uv on the PATH" >&2; exit 1; }
unset UV_FIND_LINKS UV_CONFIG_FILE PIP_FIND_LINKS
export UV_CUSTOM_COMPILE_COMMAND="make lock"

compile() { # compile <lock> <what uv is to resolve>…
    out=requirements/$1
    shift
    uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-emit-find-links --output-file "$out" "$@"
    echo "$out: $(grep -c '==' "$out") packages"
}

# dev.txt first: the other two are constrained to it, so that what runs is what was tested.
compile dev.txt pyproject.toml --extra servers --extra example --group dev ${UPGRADE:+--upgrade}
compile run.txt pyproject.toml --constraint requirements/dev.txt
compile build.txt --group build --constraint requirements/dev.txt
