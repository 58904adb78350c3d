{{- define "streamway.dnsEgress" -}}
# DNS, which clusters run in a namespace, on every node, or outside the pod network.
- ports: [{ port: 53, protocol: UDP }, { port: 53, protocol: TCP }, { port: 5353, protocol: UDP }, { port: 5353, protocol: TCP }]
{{- end }}

{{/* Ports of nats.url, separated by commas. */}}
{{- define "streamway.natsPorts" -}}
{{- $ports := list }}
{{- range $server := splitList "," .Values.nats.url }}
{{- $ports = append $ports (regexFind ":[0-9]+/?$" $server | trimAll ":/" | default "4222") }}
{{- end }}
{{- join "," $ports }}
{{- end }}
