{{/* Rules of the network policies. A kubelet's probes need none: a node always reaches its own pods. */}}

{{/* Any pod may connect: proxies are in any namespace, and what protects the port is TLS and a token. */}}
{{- define "trellis.fromEveryPod" -}}
- from:
    - namespaceSelector: {}
  ports:
    - port: {{ . }}
{{- end }}

{{- define "trellis.fromMetrics" -}}
- from:
    {{- if .Values.networkPolicy.metricsFrom }}
    {{- toYaml .Values.networkPolicy.metricsFrom | nindent 4 }}
    {{- else }}
    - namespaceSelector: {}
    {{- end }}
  ports:
    - port: 15020
{{- end }}
