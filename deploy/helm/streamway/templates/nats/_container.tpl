{{- define "streamway.natsContainer" -}}
{{- $nats := .Values.nats.bundled -}}
- name: nats
  image: {{ include "streamway.image" (list . $nats.image "") | quote }}
  {{- with $nats.image.pullPolicy }}
  imagePullPolicy: {{ . }}
  {{- end }}
  args: [--config, /etc/nats/nats.conf]
  env:
    - name: POD_NAME
      valueFrom: { fieldRef: { fieldPath: metadata.name } }
    {{- with include "streamway.bytes" (dig "limits" "memory" "" $nats.resources) | int64 }}
    # Below the memory limit, so that garbage is collected before the kernel kills the process.
    - { name: GOMEMLIMIT, value: {{ div (mul . 3) 4194304 }}MiB }
    {{- end }}
  ports:
    - { name: client, containerPort: 4222 }
    - { name: cluster, containerPort: 6222 }
    - { name: monitor, containerPort: 8222 }
  # Hands leadership over and sends clients to other servers. SIGTERM alone would cut them off.
  lifecycle:
    preStop:
      exec: { command: [nats-server, --signal, ldm=/tmp/nats.pid] }
  # Requires that every stream has caught up, so that an update does not restart the next server before.
  startupProbe:
    httpGet: { path: /healthz, port: monitor }
    periodSeconds: 5
    timeoutSeconds: 5
    failureThreshold: 180
  livenessProbe:
    httpGet: { path: "/healthz?js-enabled-only=true", port: monitor }
    periodSeconds: 30
    timeoutSeconds: 5
    failureThreshold: 3
  readinessProbe:
    httpGet: { path: "/healthz?js-server-only=true", port: monitor }
    periodSeconds: 5
    timeoutSeconds: 5
    failureThreshold: 3
  resources:
    {{- toYaml $nats.resources | nindent 4 }}
  {{- with .Values.securityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  volumeMounts:
    - { name: data, mountPath: /data }
    - { name: config, mountPath: /etc/nats, readOnly: true }
    - { name: tmp, mountPath: /tmp }
    {{- if .Values.tls.enabled }}
    - { name: tls, mountPath: /etc/nats-tls, readOnly: true }
    {{- end }}
{{- end }}

{{/* NATS reads a renewed certificate only when it is told to. */}}
{{- define "streamway.natsReloader" -}}
{{- $nats := .Values.nats.bundled -}}
- name: reload
  image: {{ include "streamway.image" (list . $nats.image "") | quote }}
  {{- with $nats.image.pullPolicy }}
  imagePullPolicy: {{ . }}
  {{- end }}
  command:
    - sh
    - -c
    - |
      last=$(cat /etc/nats-tls/* | sha256sum)
      while sleep 20; do
        now=$(cat /etc/nats-tls/* | sha256sum)
        if [ "$now" != "$last" ] && nats-server --signal reload=/tmp/nats.pid; then last=$now; fi
      done
  resources:
    requests: { cpu: 10m, memory: 16Mi }
    limits: { memory: 64Mi }
  {{- with .Values.securityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  volumeMounts:
    - { name: tls, mountPath: /etc/nats-tls, readOnly: true }
    - { name: tmp, mountPath: /tmp }
{{- end }}
