#!/usr/bin/env bash
# What the front door and telemetry cost: the same load against a plain server, one with tokens, a policy and quotas,
# one with TLS besides, and one that exports traces of 1 % and metrics every second, in turn. Prints rates and ratios.
#
#   benches/cost.sh COLLECTOR [ROUNDS] [SECONDS]     COLLECTOR: http://127.0.0.1:4317, a receiver that is running
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
collector=${1:?name a collector} rounds=${2:-7} seconds=${3:-2}
cargo build --profile dist
dir=$(mktemp -d)
servers=()
trap 'kill "${servers[@]}"; wait; rm -rf "$dir"' EXIT

target/dist/streamway token bench >"$dir/made"
grep '^"' "$dir/made" >"$dir/tokens"
grep -v '^"' "$dir/made" >"$dir/token"
cat >"$dir/policy" <<'POLICY'
[[rule]]
principals = ["bench"]
topics = ["*"]
actions = ["publish", "subscribe", "admin"]

[[quota]]
principals = ["bench"]
publish_bytes_per_s = 1_000_000_000_000
publish_records_per_s = 1_000_000_000
POLICY
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=ca \
    -keyout "$dir/ca.key" -out "$dir/ca.pem" 2>/dev/null
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=localhost \
    -CA "$dir/ca.pem" -CAkey "$dir/ca.key" -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=CA:FALSE \
    -keyout "$dir/key.pem" -out "$dir/cert.pem" 2>/dev/null

serve() { # PORT [FLAG...]
    target/dist/streamway serve --listen "127.0.0.1:$1" --admin-listen "127.0.0.1:$(($1 + 1))" \
        --data-dir "$dir/$1" "${@:2}" 2>"$dir/$1.log" &
    servers+=($!)
    for _ in $(seq 100); do
        target/dist/streamway healthcheck --addr "127.0.0.1:$(($1 + 1))" >/dev/null 2>&1 && return
        sleep 0.1
    done
    cat "$dir/$1.log" >&2
    exit 1
}
identities=(--auth-tokens "$dir/tokens" --auth-policy "$dir/policy" --quota-publish-records-per-s 1000000000)
serve 50151
serve 50251 "${identities[@]}"
serve 50351 "${identities[@]}" --tls-cert "$dir/cert.pem" --tls-key "$dir/key.pem"
OTEL_EXPORTER_OTLP_ENDPOINT=$collector OTEL_METRIC_EXPORT_INTERVAL=1000 \
    OTEL_TRACES_SAMPLER=parentbased_traceidratio OTEL_TRACES_SAMPLER_ARG=0.01 serve 50451

publish=(publish --no-request-ids) fanout=(fanout --subscribers 100 --batch 100)
measure() { # FIELD SCHEME PORT COMMAND [FLAG...]
    target/dist/streamway bench "${@:4}" --duration "${seconds}s" --output json --server "$2://127.0.0.1:$3" |
        jq ".$1.recordsPerSecond"
}
for round in $(seq 0 "$rounds"); do
    figures=(
        "$(measure acknowledged http 50151 "${publish[@]}")"
        "$(measure acknowledged http 50251 "${publish[@]}" --token-file "$dir/token")"
        "$(measure acknowledged https 50351 "${publish[@]}" --token-file "$dir/token" --tls-ca "$dir/ca.pem")"
        "$(measure acknowledged http 50451 "${publish[@]}")"
        "$(measure delivered http 50151 "${fanout[@]}")"
        "$(measure delivered http 50451 "${fanout[@]}")"
    )
    # The first round warms up.
    ((round == 0)) || echo "${figures[*]}"
done | jq -rRs '
    def median: sort | (.[(length - 1) / 2 | floor] + .[length / 2 | floor]) / 2;
    def row($name; $with; $without): "\($name): \(map(.[$with]) | median | round)/s, \(map(.[$with] / .[$without]) |
        sort | "\(median * 1000 | round) (\(first * 1000 | round) to \(last * 1000 | round))") per mille";
    [splits("\n") | select(. != "") | split(" ") | map(tonumber)]
    | row("publish, plain"; 0; 0), row("publish, identified, of plain"; 1; 0), row("publish, TLS besides, of identified"; 2; 1),
      row("publish, telemetry, of plain"; 3; 0), row("fan-out to 100, plain"; 4; 4), row("fan-out to 100, telemetry, of plain"; 5; 4)'
