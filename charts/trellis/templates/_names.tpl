{{/* Labels, selectors and image names. Object names are fixed: identities, the injector and the command
line all know them. */}}

{{/* Labels of every object: include "trellis.labels" (list $ "ca") */}}
{{- define "trellis.labels" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{ include "trellis.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end }}

{{/* Labels that select the pods of one component. They can never change. */}}
{{- define "trellis.selector" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
app.kubernetes.io/name: trellis
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ $component }}
{{- end }}

{{/* An image by digest where one is given, else by tag: include "trellis.image" (list $ "ca") */}}
{{- define "trellis.image" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $image := $root.Values.image -}}
{{- $digest := get $image.digests $name -}}
{{- if $digest -}}
{{ printf "%s/%s@%s" $image.registry $name $digest }}
{{- else -}}
{{ printf "%s/%s:%s" $image.registry $name ($image.tag | default $root.Chart.AppVersion) }}
{{- end -}}
{{- end }}

{{/* Host and port of a service of the control plane: include "trellis.address" (list $ "ca" 15012) */}}
{{- define "trellis.address" -}}
{{- $root := index . 0 -}}
{{ printf "trellis-%s.%s.svc:%v" (index . 1) $root.Release.Namespace (index . 2) }}
{{- end }}

{{/* What no workload would accept is refused before anything is installed. */}}
{{- define "trellis.checkAlgorithms" -}}
{{- if eq .Values.proxy.signatures "require" -}}
{{- $root := . -}}
{{- range $path, $algorithm := dict "ca.rootAlgorithm" .Values.ca.rootAlgorithm "proxy.leafAlgorithm" .Values.proxy.leafAlgorithm "discovery.leafAlgorithm" .Values.discovery.leafAlgorithm -}}
{{- if eq $algorithm "ecdsa-p256" -}}
{{- fail (printf "%s is ecdsa-p256, and proxy.signatures is require: no proxy would accept it. Set proxy.signatures=prefer for as long as the mesh is on its way to ML-DSA." $path) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}
