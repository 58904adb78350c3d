{{/* What the pods that call the servers have in common: those of the backup and of `helm test`. */}}

{{- define "streamway.url" -}}
{{ ternary "https" "http" .Values.tls.enabled }}://{{ include "streamway.fullname" . }}:{{ .Values.service.port }}
{{- end }}

{{/* Settings of a pod that follow those of the servers. */}}
{{- define "streamway.podSettings" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "streamway.clientImage" -}}
image: {{ include "streamway.image" (list . .Values.image .Chart.AppVersion) | quote }}
{{- with .Values.image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
{{- with .Values.securityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The following take (list ROOT TOKEN-SECRET). */}}
{{- define "streamway.clientEnv" -}}
{{- if (index . 0).Values.tls.enabled }}
- { name: STREAMWAY_CLIENT_TLS_CA, value: /etc/streamway/tls/ca.crt }
{{- end }}
{{- if index . 1 }}
- { name: STREAMWAY_TOKEN_FILE, value: /etc/streamway/token/token }
{{- if not (index . 0).Values.tls.enabled }}
- { name: STREAMWAY_TOKEN_OVER_PLAINTEXT, value: "true" }
{{- end }}
{{- end }}
{{- end }}

{{- define "streamway.clientMounts" -}}
{{- if (index . 0).Values.tls.enabled }}
- { name: tls, mountPath: /etc/streamway/tls, readOnly: true }
{{- end }}
{{- if index . 1 }}
- { name: token, mountPath: /etc/streamway/token, readOnly: true }
{{- end }}
{{- end }}

{{- define "streamway.clientVolumes" -}}
{{- if (index . 0).Values.tls.enabled }}
- name: tls
  secret:
    secretName: {{ include "streamway.tlsSecret" (index . 0) }}
    defaultMode: 0400
    items: [{ key: ca.crt, path: ca.crt }]
{{- end }}
{{- with index . 1 }}
- name: token
  secret: { secretName: {{ . }}, defaultMode: 0400, items: [{ key: token, path: token }] }
{{- end }}
{{- end }}
