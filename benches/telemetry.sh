#!/usr/bin/env bash
# What telemetry costs: publish and fan-out with it off and on (traces of 1 %, metrics every second), in turn.
#
#   benches/telemetry.sh COLLECTOR [ROUNDS]     COLLECTOR: http://127.0.0.1:4317, a receiver that is running
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
collector=${1:?name a collector}
cargo build --release --bench throughput
for round in $(seq "${2:-3}"); do
    echo "round $round, off"
    OTEL_SDK_DISABLED=true cargo bench -q --bench throughput -- publish fanout
    echo "round $round, on"
    OTEL_EXPORTER_OTLP_ENDPOINT=$collector OTEL_METRIC_EXPORT_INTERVAL=1000 \
        OTEL_TRACES_SAMPLER=parentbased_traceidratio OTEL_TRACES_SAMPLER_ARG=0.01 \
        cargo bench -q --bench throughput -- publish fanout
done
