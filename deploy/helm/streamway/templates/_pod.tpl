{{/* The pod template of the servers, which the StatefulSet and the Deployment share. */}}
{{- define "streamway.pod" -}}
metadata:
  labels:
    {{- include "streamway.podLabels" (list . "") | nindent 4 }}
    {{- include "streamway.versionLabel" (list . .Values.image .Chart.AppVersion) | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    # Restarts the pods when a setting changes.
    checksum/config: {{ include "streamway.config" . | sha256sum }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "streamway.serviceAccountName" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.podSecurityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.initContainers }}
  initContainers:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    {{- include "streamway.container" . | nindent 4 }}
    {{- with .Values.extraContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with include "streamway.volumes" . }}
  volumes:
    {{- . | nindent 4 }}
  {{- end }}
  {{- include "streamway.scheduling" . | nindent 2 }}
{{- end }}

{{- define "streamway.container" -}}
- name: streamway
  image: {{ include "streamway.image" (list . .Values.image .Chart.AppVersion) | quote }}
  {{- with .Values.image.pullPolicy }}
  imagePullPolicy: {{ . }}
  {{- end }}
  args:
    - serve
    {{- with .Values.extraArgs }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  envFrom:
    - configMapRef: { name: {{ include "streamway.fullname" . }} }
    {{- with .Values.extraEnvFrom }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  env:
    - name: POD_NAME
      valueFrom: { fieldRef: { fieldPath: metadata.name } }
    - name: POD_NAMESPACE
      valueFrom: { fieldRef: { fieldPath: metadata.namespace } }
    - name: POD_UID
      valueFrom: { fieldRef: { fieldPath: metadata.uid } }
    - name: NODE_NAME
      valueFrom: { fieldRef: { fieldPath: spec.nodeName } }
    {{- if and (eq .Values.engine "jetstream") (eq .Values.nats.credentials.method "password") }}
    {{- range $key := list "user" "password" }}
    - name: STREAMWAY_NATS_{{ upper $key }}
      valueFrom: { secretKeyRef: { name: {{ $.Values.nats.credentials.existingSecret }}, key: {{ $key }} } }
    {{- end }}
    {{- end }}
    {{- with .Values.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  ports:
    - { name: grpc, containerPort: 50051 }
    - { name: admin, containerPort: 8081 }
    {{- if .Values.http.enabled }}
    - { name: http, containerPort: 8080 }
    {{- end }}
  # Passes once the ports are bound, which is before the log recovers, however long that takes.
  startupProbe:
    grpc: { port: 8081, service: liveness }
    periodSeconds: 1
    failureThreshold: 60
  # Passes while the process answers. It ignores the state of storage, since a restart repairs no disk.
  livenessProbe:
    grpc: { port: 8081, service: liveness }
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 3
  # Fails while the log recovers, while the server accepts no writes, and while it drains.
  readinessProbe:
    grpc: { port: 8081, service: readiness }
    periodSeconds: 2
    timeoutSeconds: 2
    # One slow answer does not take a pod out of the Service. One that ends leaves it without any probe.
    failureThreshold: 3
  resources:
    {{- toYaml .Values.resources | nindent 4 }}
  {{- with .Values.securityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with include "streamway.volumeMounts" . }}
  volumeMounts:
    {{- . | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "streamway.volumeMounts" -}}
{{- if eq .Values.engine "embedded" }}
- { name: data, mountPath: /data }
{{- else }}
{{- if and (include "streamway.natsSecret" .) (ne .Values.nats.credentials.method "password") }}
- { name: nats-key, mountPath: /etc/streamway/nats, readOnly: true }
{{- end }}
{{- if include "streamway.natsTlsSecret" . }}
- { name: nats-tls, mountPath: /etc/streamway/nats-tls, readOnly: true }
{{- end }}
{{- end }}
{{- if .Values.tls.enabled }}
- { name: tls, mountPath: /etc/streamway/tls, readOnly: true }
{{- end }}
{{- if .Values.auth.enabled }}
{{- if .Values.auth.existingSecret }}
- { name: auth, mountPath: /etc/streamway/auth, readOnly: true }
{{- end }}
- { name: policy, mountPath: /etc/streamway/policy, readOnly: true }
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "streamway.volumes" -}}
{{- if eq .Values.engine "embedded" }}
{{- if not .Values.persistence.enabled }}
- name: data
  emptyDir: {}
{{- else if .Values.persistence.existingClaim }}
- name: data
  persistentVolumeClaim: { claimName: {{ .Values.persistence.existingClaim }} }
{{- end }}
{{- else }}
{{- include "streamway.natsVolumes" . }}
{{- end }}
{{- if .Values.tls.enabled }}
- name: tls
  secret: { secretName: {{ include "streamway.tlsSecret" . }}, defaultMode: 0400 }
{{- end }}
{{- if .Values.auth.enabled }}
{{- with .Values.auth.existingSecret }}
- name: auth
  secret: { secretName: {{ . }}, defaultMode: 0400 }
{{- end }}
- name: policy
  configMap: { name: {{ include "streamway.fullname" . }}-policy }
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "streamway.natsVolumes" -}}
{{- $credentials := .Values.nats.credentials }}
{{- $path := get (dict "nkey" "seed" "creds" "nats.creds" "token" "token") $credentials.method }}
{{- if and $path (include "streamway.natsSecret" .) }}
- name: nats-key
  secret:
    secretName: {{ include "streamway.natsSecret" . }}
    defaultMode: 0400
    items: [{ key: {{ default $path $credentials.key }}, path: {{ $path }} }]
{{- end }}
{{- with include "streamway.natsTlsSecret" . }}
- name: nats-tls
  secret:
    secretName: {{ . }}
    defaultMode: 0400
    items:
      - { key: ca.crt, path: ca.crt }
      {{- if and $.Values.nats.tls.clientCertificate (not $.Values.nats.bundled.enabled) }}
      - { key: tls.crt, path: tls.crt }
      - { key: tls.key, path: tls.key }
      {{- end }}
{{- end }}
{{- end }}

{{- define "streamway.scheduling" -}}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .Values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml .Values.topologySpreadConstraints | nindent 2 }}
{{- else if eq .Values.engine "jetstream" }}
# The replicas of another revision do not count, as an update removes them.
topologySpreadConstraints:
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  {{- include "streamway.spread" (list $ "" .) | nindent 2 }}
    matchLabelKeys: [pod-template-hash]
  {{- end }}
{{- end }}
{{- end }}

{{/* Takes (list ROOT SUFFIX TOPOLOGY-KEY). */}}
{{- define "streamway.spread" -}}
- maxSkew: 1
  topologyKey: {{ index . 2 }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "streamway.selectorLabels" . | nindent 6 }}
{{- end }}
