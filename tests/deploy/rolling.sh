#!/usr/bin/env bash
# The fleet's configuration from its manifests, on loopback: three nats-servers and three replicas under load, each of
# them restarted in turn as Kubernetes would. test_rolling.py runs this in a network and a mount namespace of its own, so
# that the manifests' host names and ports need no change.
#
#   rolling.sh STREAMWAY NATS-SERVER NATS.CONF ENVIRONMENT DIR
#
# ENVIRONMENT   the ConfigMap's settings, NAME=VALUE a line
set -euo pipefail
streamway=$1 nats=$2 conf=$3 environment=$4 dir=$5
declare -A nats_pid server_pid
mapfile -t settings <"$environment"

ip link set lo up
cp /etc/hosts "$dir/hosts"
for i in 0 1 2; do
    echo "127.0.0.1$i streamway-nats-$i.streamway-nats" >>"$dir/hosts"
    sed "s#\"/data\"#\"$dir/data$i\"#; s#/tmp/nats.pid#$dir/nats$i.pid#; s#port: 6222#listen: \"127.0.0.1$i:6222\"#" \
        "$conf" >"$dir/nats$i.conf"
done
mount --bind "$dir/hosts" /etc/hosts
clean_up() {
    local code=$?
    kill -KILL "${nats_pid[@]}" "${server_pid[@]}" 2>/dev/null || true
    [ "$code" = 0 ] || tail -n 40 "$dir"/*.log >&2
}
trap clean_up EXIT

# await URL: waits until it answers 200, a minute at most.
await() {
    for _ in $(seq 600); do
        if curl -s -f -o /dev/null "$1"; then
            return
        fi
        sleep 0.1
    done
    echo "no 200 from $1: $(curl -s "$1")" >&2
    exit 1
}

start_nats() {
    POD_NAME=streamway-nats-$1 "$nats" -c "$dir/nats$1.conf" -a "127.0.0.1$1" -l "$dir/nats$1.log" &
    nats_pid[$1]=$!
}

start_server() {
    env "${settings[@]}" "$streamway" serve --listen "127.0.0.2$1:50051" --admin-listen "127.0.0.2$1:8081" \
        2>"$dir/server$1.log" &
    server_pid[$1]=$!
}

for i in 0 1 2; do start_nats $i; done
for i in 0 1 2; do await "http://127.0.0.1$i:8222/healthz"; done
for i in 0 1 2; do start_server $i; done
for i in 0 1 2; do await "http://127.0.0.2$i:8081/readyz"; done

servers=http://127.0.0.20:50051,http://127.0.0.21:50051,http://127.0.0.22:50051
"$streamway" bench fanout --server "$servers" --subscribers 30 --publishers 3 --rate 300 --duration 90s >"$dir/bench" 2>&1 &
bench=$!
until [ "$(curl -s http://127.0.0.20:8081/metrics | grep -c '^streamway_delivery_records_total{.* [1-9]')" -gt 0 ]; do
    kill -0 "$bench" || { cat "$dir/bench" >&2; exit 1; }
    sleep 0.2
done

for i in 0 1 2; do
    kill -TERM "${server_pid[$i]}"
    wait "${server_pid[$i]}"
    start_server $i
    await "http://127.0.0.2$i:8081/readyz"
    echo "replica $i restarted"
done
for i in 2 1 0; do
    # As the preStop hook does; then the signal, which a server in lame duck mode ignores.
    "$nats" --signal "ldm=$dir/nats$i.pid"
    kill -TERM "${nats_pid[$i]}" 2>/dev/null || true
    wait "${nats_pid[$i]}" || echo "nats $i ended with $?"
    start_nats $i
    await "http://127.0.0.1$i:8222/healthz"
    echo "nats $i restarted"
done
kill -0 "$bench" || { echo "the load ended before the restarts did" >&2; exit 1; }
wait "$bench" || { cat "$dir/bench" >&2; exit 1; }
grep -E '^(acknowledged|delivered|delivery latency|verified)' "$dir/bench"
for i in 0 1 2; do
    kill -TERM "${server_pid[$i]}"
    wait "${server_pid[$i]}"
done
