#!/usr/bin/env bash
# What the front door costs: pipelined publish, one record each, against a server without identities, one with
# tokens, a policy and quotas, and one with TLS besides, in turn. Prints records/s and their ratios.
#
#   benches/front-door.sh [ROUNDS] [SECONDS]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
rounds=${1:-7} seconds=${2:-2}
cargo build --release
dir=$(mktemp -d)
servers=()
trap 'kill "${servers[@]}"; wait; rm -rf "$dir"' EXIT

target/release/streamway token bench >"$dir/made"
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
    target/release/streamway serve --listen "127.0.0.1:$1" --admin-listen "127.0.0.1:$(($1 + 1))" \
        --data-dir "$dir/$1" "${@:2}" 2>"$dir/$1.log" &
    servers+=($!)
    for _ in $(seq 100); do
        target/release/streamway healthcheck --addr "127.0.0.1:$(($1 + 1))" >/dev/null 2>&1 && return
        sleep 0.1
    done
    cat "$dir/$1.log" >&2
    exit 1
}
identities=(--auth-tokens "$dir/tokens" --auth-policy "$dir/policy" --quota-publish-records-per-s 1000000000)
serve 50151
serve 50251 "${identities[@]}"
serve 50351 "${identities[@]}" --tls-cert "$dir/cert.pem" --tls-key "$dir/key.pem"

rate() { # SCHEME PORT [FLAG...]
    target/release/streamway bench publish --duration "${seconds}s" --no-request-ids --output json \
        --server "$1://127.0.0.1:$2" "${@:3}" | jq '.acknowledged.records_per_second | round'
}
for round in $(seq 0 "$rounds"); do
    none=$(rate http 50151)
    identified=$(rate http 50251 --token-file "$dir/token")
    tls=$(rate https 50351 --token-file "$dir/token" --tls-ca "$dir/ca.pem")
    # The first round warms up.
    ((round == 0)) || echo "$none $identified $tls"
done | awk '
    { print "none " $1 "/s, identified " $2 "/s, with TLS " $3 "/s"; a[NR] = $2 / $1; b[NR] = $3 / $2 }
    function median(v, n,   i, j, t) {
        for (i = 1; i <= n; i++) for (j = i + 1; j <= n; j++) if (v[j] < v[i]) { t = v[i]; v[i] = v[j]; v[j] = t }
        return n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
    }
    END { printf "median ratios: identified to none %.3f, TLS to identified %.3f\n", median(a, NR), median(b, NR) }'
