{{/* How the CA tells other trust domains of its bundle, and fetches theirs. */}}
{{- define "trellis.federationFlags" -}}
{{- if .Values.ca.bundleEndpoint.enabled -}}
- --bundle-listen=[::]:15016
{{ end -}}
{{ if .Values.ca.bundleEndpoint.webCertificate -}}
- --bundle-web-listen=[::]:15015
- --bundle-web-certificate=/etc/trellis/bundle-web
{{ end -}}
- --bundle-refresh-hint={{ .Values.ca.bundleEndpoint.refreshHint }}
- --federation-fetch-interval={{ .Values.ca.federation.fetchInterval }}
{{- if .Values.ca.federation.webRoots }}
- --federation-web-roots=/etc/trellis/web-roots/ca.crt
{{- end }}
{{- end }}
