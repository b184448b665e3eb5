{{/* What the entries of both configurations have in common. */}}

{{/* How the injector is asked: include "trellis.asked" (list $ "/mutate") */}}
{{- define "trellis.asked" -}}
{{- $root := index . 0 -}}
clientConfig:
  service:
    name: trellis-injector
    namespace: {{ $root.Release.Namespace }}
    path: {{ index . 1 }}
    port: 443
timeoutSeconds: {{ $root.Values.injector.webhook.timeoutSeconds }}
admissionReviewVersions: [v1]
matchPolicy: Equivalent
{{- end }}

{{/* Namespaces that are never asked about, as JSON. */}}
{{- define "trellis.excluded" -}}
{{ concat (list "kube-system" "kube-public" "kube-node-lease" .Release.Namespace) .Values.injector.webhook.excludedNamespaces | uniq | toJson }}
{{- end }}

{{/* The groups in which the cryptographic kinds are served. */}}
{{- define "trellis.cryptoGroups" -}}
{{ ternary (list "crypto.trellis.dev" "qubesec.io") (list "crypto.trellis.dev") .Values.crypto.qubesec | toJson }}
{{- end }}
