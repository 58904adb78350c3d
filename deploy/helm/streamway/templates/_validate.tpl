{{/* What the schema of the values cannot say. Each message names the value to change. */}}
{{- define "streamway.validate" -}}
{{- $values := .Values }}
{{- $nats := $values.nats }}
{{- $config := include "streamway.config" . | fromYaml }}
{{- if eq $values.engine "embedded" }}
{{- if gt (int $values.replicaCount) 1 }}
{{- fail (printf "replicaCount: %d embedded servers would each have topics of their own. For replicas that share them set engine: jetstream" (int $values.replicaCount)) }}
{{- end }}
{{- if or $nats.url $nats.bundled.enabled }}
{{- fail "nats: only the engine jetstream uses NATS. Set engine: jetstream" }}
{{- end }}
{{- include "streamway.validateClaim" (list . "" "persistence" $values.persistence) }}
{{- else }}
{{- if and $nats.url $nats.bundled.enabled }}
{{- fail "nats: set either nats.url or nats.bundled.enabled" }}
{{- end }}
{{- if not (or $nats.url $nats.bundled.enabled) }}
{{- fail "nats: the engine jetstream needs nats.url, or nats.bundled.enabled for three NATS servers of this release" }}
{{- end }}
{{- if $nats.bundled.enabled }}
{{- if ne $nats.credentials.method "nkey" }}
{{- fail "nats.credentials.method: the bundled NATS servers accept an nkey only" }}
{{- end }}
{{- include "streamway.validateClaim" (list . "-nats" "nats.bundled.persistence" $nats.bundled.persistence) }}
{{- else if and (ne $nats.credentials.method "nkey") (not $nats.credentials.existingSecret) }}
{{- fail (printf "nats.credentials.existingSecret: the method %s needs a Secret" $nats.credentials.method) }}
{{- end }}
{{- end }}
{{- if and $values.auth.enabled (not $values.auth.existingSecret) (not (get $config "STREAMWAY_AUTH_JWKS")) (not (get $config "STREAMWAY_TLS_CLIENT_CA")) }}
{{- fail "auth.existingSecret: without it nobody could authenticate. Name a Secret with tokens.toml, or set STREAMWAY_AUTH_JWKS or STREAMWAY_TLS_CLIENT_CA in config" }}
{{- end }}
{{- $allowed := include "streamway.bytes" (get $config "STREAMWAY_MEMORY_MAX") | int64 }}
{{- $limit := include "streamway.bytes" (dig "limits" "memory" "" $values.resources) | int64 }}
{{- if and $limit (ge $allowed $limit) }}
{{- fail "resources.limits.memory: must exceed STREAMWAY_MEMORY_MAX in config, as the process itself and its socket buffers need memory too" }}
{{- end }}
{{- $drain := regexFind "^[0-9]+s$" (toString (get $config "STREAMWAY_DRAIN_TIMEOUT")) | trimSuffix "s" | int }}
{{- if lt (int $values.terminationGracePeriodSeconds) (add $drain 2 | int) }}
{{- fail (printf "terminationGracePeriodSeconds: must be at least %d, two seconds more than STREAMWAY_DRAIN_TIMEOUT in config" (add $drain 2)) }}
{{- end }}
{{- end }}
