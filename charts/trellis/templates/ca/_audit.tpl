{{/* Where the audit trail goes, as the CA takes it. Each replica has a file of its own: not every volume can be
appended to from two nodes. */}}
{{- define "trellis.auditSinks" -}}
{{- $sinks := list -}}
{{- range .Values.ca.audit.sinks -}}
{{- $sinks = append $sinks (ternary "file:/var/log/trellis/$(TRELLIS_POD_NAME).audit" . (eq . "file")) -}}
{{- end -}}
{{- join "," $sinks -}}
{{- end }}

{{- define "trellis.checkAudit" -}}
{{- if and (has "file" .Values.ca.audit.sinks) (not .Values.ca.audit.volume) -}}
{{- fail "ca.audit.sinks has file, and ca.audit.volume is empty; name a volume that outlives the pod" -}}
{{- end -}}
{{- if and (has "otlp" .Values.ca.audit.sinks) (not .Values.otlp.endpoint) -}}
{{- fail "ca.audit.sinks has otlp, and otlp.endpoint is empty; say where the collector is" -}}
{{- end -}}
{{- end }}
