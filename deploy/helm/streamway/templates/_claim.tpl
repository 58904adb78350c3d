{{/* The claim template of a StatefulSet, with the API server's default values. Takes the values of a persistence. */}}
{{- define "streamway.claim" -}}
- apiVersion: v1
  kind: PersistentVolumeClaim
  metadata:
    name: data
  spec:
    accessModes: [ReadWriteOnce]
    volumeMode: Filesystem
    {{- with .storageClass }}
    storageClassName: {{ . }}
    {{- end }}
    resources:
      requests: { storage: {{ .size }} }
  status: { phase: Pending }
{{- end }}

{{/* Refuses a change of a claim template with the commands that carry it out, as Kubernetes would refuse it without them.
     There is nothing to compare with in `helm template`. Takes (list ROOT SUFFIX VALUE-PATH PERSISTENCE). */}}
{{- define "streamway.validateClaim" -}}
{{- $root := index . 0 }}
{{- $name := printf "%s%s" (include "streamway.fullname" $root) (index . 1) }}
{{- $wanted := index . 3 }}
{{- $found := lookup "apps/v1" "StatefulSet" $root.Release.Namespace $name }}
{{- if $found }}
{{- $wants := and (dig "enabled" true $wanted) (not (dig "existingClaim" "" $wanted)) }}
{{- $claims := dig "spec" "volumeClaimTemplates" list $found }}
{{- $commands := printf "kubectl -n %s delete statefulset %s --cascade=orphan, which leaves the pods and the volumes alone, and then this command again" $root.Release.Namespace $name }}
{{- if ne (len $claims) (ternary 1 0 $wants) }}
{{- fail (printf "%s: the new pods would begin without the topics of the present ones, and Kubernetes does not change a StatefulSet so. If that is what you want, run %s" (index . 2) $commands) }}
{{- end }}
{{- range $claims }}
{{- $size := .spec.resources.requests.storage }}
{{- if ne (include "streamway.bytes" $size) (include "streamway.bytes" $wanted.size) }}
{{- fail (printf "%s.size: Kubernetes does not change the size of a StatefulSet's volumes from %s to %s. To enlarge them, run kubectl -n %s patch pvc CLAIM -p '{\"spec\":{\"resources\":{\"requests\":{\"storage\":\"%s\"}}}}' for each claim data-%s-N, then %s" (index $ 2) $size $wanted.size $root.Release.Namespace $wanted.size $name $commands) }}
{{- end }}
{{- if ne (dig "spec" "storageClassName" "" .) $wanted.storageClass }}
{{- fail (printf "%s.storageClass: Kubernetes does not move a volume to another class. Install a second release and copy the topics with `streamway copy`" (index $ 2)) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
