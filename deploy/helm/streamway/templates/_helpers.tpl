{{/* Names. The longest suffixes that Kubernetes and the chart append leave 40 characters. */}}
{{- define "streamway.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "streamway.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- default $full .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "streamway.serviceAccountName" -}}
{{- default (ternary (include "streamway.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name }}
{{- end }}

{{/* The following take (list ROOT SUFFIX) with the suffix of the name: "" for the servers, "-nats" and so on. */}}
{{- define "streamway.nameLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "streamway.name" $root }}{{ index . 1 }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
{{- end }}

{{/* Labels that select pods. The component tells the one server from the replicas, while an upgrade changes the engine. */}}
{{- define "streamway.selectorLabels" -}}
{{ include "streamway.nameLabels" . }}
{{- if not (index . 1) }}
app.kubernetes.io/component: {{ ternary "replica" "server" (eq (index . 0).Values.engine "jetstream") }}
{{- end }}
{{- end }}

{{/* Labels of every object but pods. */}}
{{- define "streamway.labels" -}}
{{- $root := index . 0 -}}
{{ include "streamway.nameLabels" . }}
{{ include "streamway.commonLabels" $root }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Labels of pods, which do not change with the version of the chart, as that would restart them. */}}
{{- define "streamway.podLabels" -}}
{{ include "streamway.selectorLabels" . }}
{{ include "streamway.commonLabels" (index . 0) }}
{{- end }}

{{- define "streamway.commonLabels" -}}
app.kubernetes.io/part-of: streamway
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The label of what runs an image. Takes (list ROOT IMAGE DEFAULT-TAG). */}}
{{- define "streamway.versionLabel" -}}
app.kubernetes.io/version: {{ (index . 1).tag | default (index . 2) | trunc 63 | trimAll "-_." | quote }}
{{- end }}

{{/* Takes (list ROOT IMAGE DEFAULT-TAG). */}}
{{- define "streamway.image" -}}
{{- $image := index . 1 }}
{{- $registry := default $image.registry (dig "imageRegistry" "" ((index . 0).Values.global | default dict)) }}
{{- with $registry }}{{ . }}/{{ end }}{{ $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ default (index . 2) $image.tag }}{{ end }}
{{- end }}

{{/* A size such as 10Gi or 2GiB as a number of bytes, and 0 for one with a fraction or another unit. */}}
{{- define "streamway.bytes" -}}
{{- $text := toString . | trimSuffix "B" }}
{{- $units := dict "" 1 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 }}
{{- $unit := regexReplaceAll "^[0-9]+" $text "" }}
{{- if and (regexMatch "^[0-9]+" $text) (hasKey $units $unit) }}
{{- mul (regexFind "^[0-9]+" $text | int64) (get $units $unit) }}
{{- else }}0{{ end }}
{{- end }}

{{/* Everything in the form of a setting, as numbers of values would otherwise be printed as 2e+06. */}}
{{- define "streamway.setting" -}}
{{- if and (kindIs "float64" .) (eq . (float64 (int64 .))) }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{/* Settings of the server: those that follow from other values, overridden by `config`. */}}
{{- define "streamway.config" -}}
{{- $all := include "streamway.derivedConfig" . | fromYaml }}
{{- range $name, $value := .Values.config }}
{{- if kindIs "invalid" $value }}{{ $all = omit $all $name }}{{ else }}{{ $_ := set $all $name (include "streamway.setting" $value) }}{{ end }}
{{- end }}
{{- toYaml $all }}
{{- end }}

{{- define "streamway.derivedConfig" -}}
# Every address of the pod, of IPv6 too where the cluster has it.
STREAMWAY_LISTEN: "[::]:50051"
STREAMWAY_ADMIN_LISTEN: "[::]:8081"
# Where the value `http` does not open it, `kubectl port-forward` alone reaches it.
STREAMWAY_HTTP_LISTEN: {{ ternary "[::]:8080" "127.0.0.1:8080" .Values.http.enabled | quote }}
{{- with .Values.http.hosts }}
STREAMWAY_HTTP_HOSTS: {{ join "," . | quote }}
{{- end }}
{{- with .Values.http.origins }}
STREAMWAY_HTTP_ORIGINS: {{ join "," . | quote }}
{{- end }}
STREAMWAY_DATA_DIR: /data
{{- if eq .Values.engine "embedded" }}
# No other server could take the calls, so it does not wait before it drains.
STREAMWAY_DRAIN_DELAY: 0s
{{- else }}
# Longer than it takes endpoints and load balancers to notice that a replica leaves.
STREAMWAY_DRAIN_DELAY: 5s
STREAMWAY_ENGINE: jetstream
{{- include "streamway.natsConfig" . }}
{{- end }}
{{- if .Values.tls.enabled }}
STREAMWAY_TLS_CERT: /etc/streamway/tls/tls.crt
STREAMWAY_TLS_KEY: /etc/streamway/tls/tls.key
{{- end }}
{{- if .Values.auth.enabled }}
{{- if .Values.auth.existingSecret }}
STREAMWAY_AUTH_TOKENS: /etc/streamway/auth/tokens.toml
{{- end }}
STREAMWAY_AUTH_POLICY: /etc/streamway/policy/policy.toml
{{- end }}
{{- if .Values.otel.enabled }}
OTEL_EXPORTER_OTLP_ENDPOINT: {{ quote .Values.otel.endpoint }}
OTEL_TRACES_SAMPLER: parentbased_traceidratio
OTEL_TRACES_SAMPLER_ARG: {{ quote .Values.otel.tracesRatio }}
{{- end }}
{{- end }}

{{- define "streamway.natsConfig" -}}
{{- $nats := .Values.nats }}
STREAMWAY_NATS_URL: {{ include "streamway.natsUrl" . | quote }}
{{- if eq $nats.credentials.method "creds" }}
STREAMWAY_NATS_CREDS_FILE: /etc/streamway/nats/nats.creds
{{- else if eq $nats.credentials.method "token" }}
STREAMWAY_NATS_TOKEN_FILE: /etc/streamway/nats/token
{{- else if and (eq $nats.credentials.method "nkey") (include "streamway.natsSecret" .) }}
STREAMWAY_NATS_NKEY_FILE: /etc/streamway/nats/seed
{{- end }}
{{- if include "streamway.natsTlsSecret" . }}
STREAMWAY_NATS_TLS_CA: /etc/streamway/nats-tls/ca.crt
{{- if and $nats.tls.clientCertificate (not $nats.bundled.enabled) }}
STREAMWAY_NATS_TLS_CERT: /etc/streamway/nats-tls/tls.crt
STREAMWAY_NATS_TLS_KEY: /etc/streamway/nats-tls/tls.key
{{- end }}
{{- end }}
{{- end }}

{{/* The names of the bundled NATS servers, separated by commas, between a prefix and a suffix. */}}
{{- define "streamway.natsServers" -}}
{{- $full := printf "%s-nats" (include "streamway.fullname" (index . 0)) }}
{{- $servers := list }}
{{- range $server := until 3 }}
{{- $servers = append $servers (printf "%s%s-%d.%s%s" (index $ 1) $full $server $full (index $ 2)) }}
{{- end }}
{{- join "," $servers }}
{{- end }}

{{- define "streamway.natsUrl" -}}
{{- if .Values.nats.bundled.enabled }}{{ include "streamway.natsServers" (list . "nats://" ":4222") }}{{ else }}{{ .Values.nats.url }}{{ end }}
{{- end }}

{{/* The Secret of the credentials for NATS, empty where there are none. */}}
{{- define "streamway.natsSecret" -}}
{{- $made := ternary (printf "%s-nats" (include "streamway.fullname" .)) "" .Values.nats.bundled.enabled }}
{{- default $made .Values.nats.credentials.existingSecret }}
{{- end }}

{{/* The Secret with the CA of NATS, empty for plaintext or a public CA. */}}
{{- define "streamway.natsTlsSecret" -}}
{{- if not .Values.nats.bundled.enabled }}{{ .Values.nats.tls.existingSecret }}
{{- else if .Values.tls.enabled }}{{ default (printf "%s-nats-tls" (include "streamway.fullname" .)) .Values.tls.natsExistingSecret }}
{{- end }}
{{- end }}

{{- define "streamway.tlsSecret" -}}
{{- default (printf "%s-tls" (include "streamway.fullname" .)) .Values.tls.existingSecret }}
{{- end }}
