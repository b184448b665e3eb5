{{/* What the three control-plane pods have in common. */}}

{{/* Arguments that every binary takes. */}}
{{- define "trellis.arguments" -}}
- --trust-domain={{ .Values.trustDomain }}
- --namespace={{ .Release.Namespace }}
- --log={{ .Values.log.level }}
- --log-file=/etc/trellis-log/filter
- --log-format={{ .Values.log.format }}
{{- with .Values.otlp.endpoint }}
- --otlp-endpoint={{ . }}
{{- end }}
{{- end }}

{{/* Annotations of a pod: include "trellis.podAnnotations" . */}}
{{- define "trellis.podAnnotations" -}}
{{- if .Values.monitoring.scrapeAnnotations }}
prometheus.io/scrape: "true"
prometheus.io/port: "15020"
prometheus.io/path: /metrics
{{- end }}
{{- with .Values.controlPlane.podAnnotations }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Everything of a pod's spec but its containers and volumes: include "trellis.podSpec" (list $ "ca") */}}
{{- define "trellis.podSpec" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
serviceAccountName: trellis-{{ $component }}
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with $root.Values.controlPlane.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
nodeSelector:
  {{- toYaml $root.Values.controlPlane.nodeSelector | nindent 2 }}
{{- with $root.Values.controlPlane.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
  {{- range $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    # Better two replicas on one node than one replica.
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "trellis.selector" (list $root $component) | nindent 8 }}
  {{- end }}
{{- end }}

{{/* Image, limits and probes of a container: include "trellis.container" (list $ "ca") */}}
{{- define "trellis.container" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
image: {{ include "trellis.image" (list $root $component) }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
readinessProbe:
  httpGet:
    path: /ready
    port: ready
  periodSeconds: 2
  failureThreshold: 2
livenessProbe:
  httpGet:
    path: /live
    port: ready
  periodSeconds: 10
  failureThreshold: 3
resources:
  {{- toYaml (get $root.Values $component).resources | nindent 2 }}
{{- end }}

{{/* Where an operator says what is logged, by a ConfigMap that need not be there. */}}
{{- define "trellis.logMount" -}}
- name: log
  mountPath: /etc/trellis-log
  readOnly: true
{{- end }}
{{- define "trellis.logVolume" -}}
- name: log
  configMap:
    name: trellis-log
    optional: true
{{- end }}

{{/* Ports of a container: include "trellis.ports" (list "grpc" 15012) */}}
{{- define "trellis.ports" -}}
- name: {{ index . 0 }}
  containerPort: {{ index . 1 }}
- name: metrics
  containerPort: 15020
- name: ready
  containerPort: 15021
{{- end }}

{{/* The name of the pod, for those whose replicas are told apart. */}}
{{- define "trellis.podName" -}}
- name: TRELLIS_POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
{{- end }}
