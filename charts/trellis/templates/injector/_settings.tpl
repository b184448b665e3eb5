{{/* The injector's settings, as trellis-api reads them: what it puts into every injected pod. */}}
{{- define "trellis.settings" -}}
{{- $settings := dict
  "version" .Chart.AppVersion
  "images" (dict
    "proxy" (include "trellis.image" (list . "proxy"))
    "capture" (include "trellis.image" (list . "capture"))
    "pullPolicy" .Values.image.pullPolicy)
  "namespace" .Release.Namespace
  "trustDomain" .Values.trustDomain
  "caAddress" (include "trellis.address" (list . "ca" 15012))
  "discoveryAddress" (include "trellis.address" (list . "discovery" 15013))
  "leafAlgorithm" .Values.proxy.leafAlgorithm
  "keyExchange" .Values.proxy.keyExchange
  "plaintext" .Values.proxy.plaintext
  "signatures" .Values.proxy.signatures
  "opaquePorts" .Values.proxy.opaquePorts
  "egress" .Values.proxy.egress
  "accessLog" .Values.proxy.accessLog
  "gatewayAccessLog" .Values.gateway.accessLog
  "traceSampling" (toString .Values.proxy.traceSampling)
  "log" .Values.proxy.logLevel
  "logFormat" .Values.log.format
  "proxy" (include "trellis.amounts" .Values.proxy.resources | fromJson)
  "capture" (include "trellis.amounts" .Values.proxy.captureResources | fromJson)
-}}
{{- with .Values.otlp.endpoint }}{{ $_ := set $settings "otlpEndpoint" . }}{{ end -}}
{{ toPrettyJson $settings }}
{{- end }}

{{/* Requests and limits with every amount as text: YAML makes a number of `cpu: 1`. */}}
{{- define "trellis.amounts" -}}
{{- $resources := dict -}}
{{- range $kind, $amounts := . -}}
{{- $texts := dict -}}
{{- range $name, $amount := $amounts }}{{ $_ := set $texts $name (toString $amount) }}{{ end -}}
{{- $_ := set $resources $kind $texts -}}
{{- end -}}
{{ toJson $resources }}
{{- end }}
