# shellcheck shell=bash
# What tests/run and .ci/run install and share. Sourced by both, from the top of the clone.
# Never: touches anything outside the clone, but for Debian packages that are missing.

stage_name=""
stage_begun=0

# stage NAME: ends the stage before, saying how long it took, and begins another.
stage() {
    local now
    now=$(date +%s)
    if [ -n "$stage_name" ]; then
        echo "--- $stage_name: $((now - stage_begun)) s"
    fi
    stage_name=${1:-}
    stage_begun=$now
    if [ -n "$stage_name" ]; then
        echo "=== $stage_name"
    fi
}

# need COMMAND-THAT-MUST-WORK PACKAGE...: installs Debian packages where the command fails.
need() {
    local check=$1
    shift
    if bash -c "$check" >/dev/null 2>&1; then
        return
    fi
    echo "installing $*"
    local sudo=""
    [ "$(id -u)" = 0 ] || sudo="sudo"
    DEBIAN_FRONTEND=noninteractive $sudo apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -q -y --no-install-recommends "$@" >/dev/null
    bash -c "$check"
}

venv=$PWD/tests/.cache/venv

# The Python tools of tests/python/requirements.txt, in a virtual environment inside the clone.
need_venv() {
    local wanted=$PWD/tests/python/requirements.txt
    if cmp -s "$wanted" "$venv/installed.txt"; then
        return
    fi
    need 'd=$(mktemp -d) && python3 -m venv "$d/v" && rm -r "$d"' python3 python3-venv
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$wanted"
    cp "$wanted" "$venv/installed.txt"
}
