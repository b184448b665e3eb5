{{/* Issuing keys that are elsewhere, and the CA above ours: arguments, environment, mounts and volumes. */}}
{{- define "trellis.keyArguments" -}}
{{- $keys := .Values.ca.keys -}}
{{- $bao := .Values.ca.openbao -}}
{{- if $keys.token.module }}
- --keys={{ ternary "token" "root" (eq $keys.place "token") }}
- --token-module={{ $keys.token.module }}
- --token-label={{ $keys.token.label }}
- --token-pin-file=/etc/trellis/token/{{ $keys.token.pinSecret.key }}
{{- end }}
{{- if $bao.address }}
- --openbao-address={{ $bao.address }}
- --openbao-mount={{ $bao.mount }}
{{- with $bao.issuer }}
- --openbao-issuer={{ . }}
{{- end }}
- --openbao-ca-file=/etc/trellis/openbao-ca/{{ $bao.caConfigMap.key }}
{{- if $bao.tokenSecret.name }}
- --openbao-token-file=/etc/trellis/openbao-token/{{ $bao.tokenSecret.key }}
{{- else }}
- --openbao-kubernetes-role={{ $bao.kubernetes.role }}
- --openbao-kubernetes-mount={{ $bao.kubernetes.mount }}
- --openbao-jwt-file=/var/run/secrets/trellis/openbao/token
{{- end }}
{{- end }}
{{- end }}

{{- define "trellis.keyMounts" -}}
{{- $token := .Values.ca.keys.token -}}
{{- $bao := .Values.ca.openbao -}}
{{- if $token.module }}
- name: token-pin
  mountPath: /etc/trellis/token
  readOnly: true
{{- if $token.volume }}
- name: token
  mountPath: /opt/token
{{- end }}
{{- end }}
{{- if $bao.address }}
- name: openbao-ca
  mountPath: /etc/trellis/openbao-ca
  readOnly: true
- name: openbao-login
  mountPath: {{ ternary "/etc/trellis/openbao-token" "/var/run/secrets/trellis/openbao" (ne $bao.tokenSecret.name "") }}
  readOnly: true
{{- end }}
{{- end }}

{{- define "trellis.keyVolumes" -}}
{{- $token := .Values.ca.keys.token -}}
{{- $bao := .Values.ca.openbao -}}
{{- if $token.module }}
- name: token-pin
  secret:
    secretName: {{ $token.pinSecret.name }}
    defaultMode: 0440
{{- with $token.volume }}
- name: token
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- if $bao.address }}
- name: openbao-ca
  configMap:
    name: {{ $bao.caConfigMap.name }}
- name: openbao-login
{{- if $bao.tokenSecret.name }}
  secret:
    secretName: {{ $bao.tokenSecret.name }}
    defaultMode: 0440
{{- else }}
  projected:
    sources:
      - serviceAccountToken:
          audience: {{ $bao.kubernetes.audience }}
          expirationSeconds: 600
          path: token
{{- end }}
{{- end }}
{{- end }}

{{- define "trellis.checkKeys" -}}
{{- $keys := .Values.ca.keys -}}
{{- $bao := .Values.ca.openbao -}}
{{- if and (eq $keys.place "token") (not $keys.token.module) -}}
{{- fail "ca.keys.place is token, and ca.keys.token.module is empty; name the PKCS#11 module" -}}
{{- end -}}
{{- if and $keys.token.module (not $keys.token.label) -}}
{{- fail "ca.keys.token.module is set, and ca.keys.token.label is empty; say which token" -}}
{{- end -}}
{{- if and $keys.token.module (not $keys.token.pinSecret.name) -}}
{{- fail "ca.keys.token.module is set, and ca.keys.token.pinSecret.name is empty; name the Secret with the PIN" -}}
{{- end -}}
{{- if and $bao.address (not $bao.caConfigMap.name) -}}
{{- fail "ca.openbao.address is set, and ca.openbao.caConfigMap.name is empty; name the ConfigMap with the server's CA" -}}
{{- end -}}
{{- if and $bao.address (eq (empty $bao.tokenSecret.name) (empty $bao.kubernetes.role)) -}}
{{- fail "ca.openbao.address needs one login: set either ca.openbao.kubernetes.role or ca.openbao.tokenSecret.name" -}}
{{- end -}}
{{- end }}
