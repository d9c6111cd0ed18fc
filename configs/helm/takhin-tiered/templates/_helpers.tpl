{{- define "takhin-tiered.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "takhin-tiered.selector" -}}
app.kubernetes.io/name: takhin-tiered
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "takhin-tiered.labels" -}}
{{ include "takhin-tiered.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "takhin-tiered.secret" -}}
{{- .Values.secret.existing | default (include "takhin-tiered.name" .) -}}
{{- end -}}

{{- define "takhin-tiered.account" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "takhin-tiered.name" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}
