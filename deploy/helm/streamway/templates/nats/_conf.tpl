{{/* The files of NATS. Nine tenths of the volume are for streams. */}}
{{- define "streamway.natsConf" -}}
{{- $size := include "streamway.bytes" .Values.nats.bundled.persistence.size | int64 -}}
nats.conf: |
  # docs/engines.md explains these settings.
  server_name: $POD_NAME
  port: 4222
  http_port: 8222
  max_payload: 2MB
  pid_file: "/tmp/nats.pid"
  lame_duck_grace_period: 5s
  lame_duck_duration: 30s
  # From the Secret {{ include "streamway.natsSecret" . }}: authorizes the replicas' key only.
  include "authorization.conf"
  include "client-tls.conf"
  jetstream {
    store_dir: "/data"
    sync_interval: always
    {{- $megabytes := div (mul $size 9) 10485760 }}
    max_file_store: {{ if eq (mod $megabytes 1024) 0 }}{{ div $megabytes 1024 }}GB{{ else }}{{ $megabytes }}MB{{ end }}
  }
  cluster {
    name: {{ include "streamway.fullname" . }}
    port: 6222
    # The routes are complete, so servers do not advertise the addresses of pods, which change.
    no_advertise: true
    # One connection for each pair, as servers that start together would close most connections of a pool as duplicates.
    pool_size: -1
    # From the Secret: the address of every server, with the password between them.
    include "routes.conf"
    include "route-tls.conf"
  }
{{- if .Values.tls.enabled }}
client-tls.conf: |
  tls { cert_file: "/etc/nats-tls/tls.crt", key_file: "/etc/nats-tls/tls.key", timeout: 5 }
route-tls.conf: |
  tls { cert_file: "/etc/nats-tls/tls.crt", key_file: "/etc/nats-tls/tls.key", ca_file: "/etc/nats-tls/ca.crt", verify: true, timeout: 5 }
{{- else }}
{{- range $file := list "client-tls.conf" "route-tls.conf" }}
{{ $file }}: |
  # The value tls.enabled replaces this with the TLS settings of NATS.
{{- end }}
{{- end }}
{{- end }}
