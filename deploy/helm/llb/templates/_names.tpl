{{/* SPDX-License-Identifier: Apache-2.0 */}}
{{/* Names and labels of all objects. */}}

{{- define "llb.name" -}}
{{ .Values.nameOverride | default .Release.Name | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "llb.account" -}}
{{ .Values.serviceAccount.name | default (include "llb.name" .) }}
{{- end }}

{{- define "llb.selector" -}}
app.kubernetes.io/name: llb
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "llb.labels" -}}
{{ include "llb.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "llb.image" -}}
{{- $why := "image.repository is required: no registry has an image of llb. Build it, push it to a registry of yours or load it on the nodes, and name it here" -}}
{{- $repository := required $why .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{ $repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ $repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* Not empty if only the node itself reaches the admin endpoint. */}}
{{- define "llb.adminIsLocal" -}}
{{- $address := .Values.admin.address -}}
{{- if or (hasPrefix "127." $address) (has $address (list "localhost" "[::1]")) }}true{{ end -}}
{{- end }}

{{/* NAMESPACE/NAME of the Lease of the agents' group, as the agent chooses it; empty: there is none. */}}
{{- define "llb.lease" -}}
{{- if eq .Values.lease "off" -}}
{{- else if .Values.lease -}}
{{ .Values.lease }}
{{- else -}}
{{- $name := regexReplaceAll "[^a-z0-9.]" (lower .Values.class) "-" -}}
{{- $name := regexReplaceAll "-*[.][-.]*" $name "." | trimAll "-." | default "llb" -}}
{{ first (sortAlpha .Values.namespaces) | default "kube-system" }}/{{ $name }}
{{- end -}}
{{- end }}
