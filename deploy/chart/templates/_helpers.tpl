{{- define "stream-app.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "stream-app.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "stream-app.labels" -}}
{{ include "stream-app.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "stream-app.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* The configuration, or a refusal that names the setting that pods need. */ -}}
{{- define "stream-app.config" -}}
{{- $config := required "config: pass the text of stream_app.toml, e.g. --set-file config=stream_app.toml" .Values.config -}}
{{- if not (regexMatch "(?m)^secrets_dir *= *\"/run/secrets/stream-app\"" $config) -}}
{{- fail "config: add the line secrets_dir = \"/run/secrets/stream-app\" above the first table: the chart mounts the Secret there" -}}
{{- end -}}
{{- if not (regexMatch "(?m)^(http\\.)?host *= *\"0\\.0\\.0\\.0\"|^http *= *\\{[^}]*host *= *\"0\\.0\\.0\\.0\"" $config) -}}
{{- fail "config: set host = \"0.0.0.0\" under [http]: probes and Prometheus reach a pod by its own address" -}}
{{- end -}}
{{- if and .Values.gateway.enabled (not (regexMatch "(?s)\\[gateway\\][^\\[]*\\bhost *= *\"0\\.0\\.0\\.0\"|\\bgateway\\.host *= *\"0\\.0\\.0\\.0\"" $config)) -}}
{{- fail "config: set host = \"0.0.0.0\" and behind_proxy = true under [gateway]: its ingress reaches a pod by its own address" -}}
{{- end -}}
{{- if and .Values.board.enabled (not (regexMatch "(?s)\\[board\\][^\\[]*\\bhost *= *\"0\\.0\\.0\\.0\"|\\bboard\\.host *= *\"0\\.0\\.0\\.0\"" $config)) -}}
{{- fail "config: set host = \"0.0.0.0\", behind_proxy = true, url and token_env under [board]: its ingress reaches a pod by its own address" -}}
{{- end -}}
{{- if regexMatch "(?m)^ *(http\\.)?(worker|replay|gateway|gateway_ops|trace|board|board_ops)_port" $config -}}
{{- fail "config: remove the ports from [http]: the chart's probes and Service name the default ports 9101 to 9108" -}}
{{- end -}}
{{- $config -}}
{{- end -}}

{{- define "stream-app.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end -}}

{{- define "stream-app.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- /* The mounts of a pod. Argument: state, as for the volumes. */ -}}
{{- define "stream-app.mounts" -}}
- { name: config, mountPath: /etc/stream-app, readOnly: true }
- { name: secrets, mountPath: /run/secrets/stream-app, readOnly: true }
{{- if . }}
- { name: state, mountPath: /var/lib/stream-app }
{{- end }}
- { name: tmp, mountPath: /tmp }
{{- end -}}

{{- /* The volumes of a pod. Arguments: root, secret, config (the name of the ConfigMap), state ("": none; a claim; or emptyDir). */ -}}
{{- define "stream-app.volumes" -}}
- name: config
  configMap: { name: {{ .config }} }
- name: secrets
  secret: { secretName: {{ required "existingSecret: name the Secret that has the variables of your stream_app.toml" .secret }}, defaultMode: 0440 }
{{- if .state }}
- name: state
  {{- if eq .state "emptyDir" }}
  emptyDir: {}
  {{- else }}
  persistentVolumeClaim: { claimName: {{ .state }} }
  {{- end }}
{{- end }}
- name: tmp
  emptyDir: {}
{{- end -}}

{{- /* The pod template of a process. Arguments: root, name, values, http (the port of a Service), port (of metrics and probes), state. */ -}}
{{- define "stream-app.pod" -}}
{{- $root := .root -}}
metadata:
  labels:
    {{- include "stream-app.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .name }}
  annotations:
    checksum/config: {{ include "stream-app.config" $root | sha256sum }}
    {{- with .values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .values.terminationGracePeriodSeconds }}
  securityContext:
    {{- include "stream-app.podSecurity" $root | nindent 4 }}
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "stream-app.selector" $root | nindent 10 }}
          app.kubernetes.io/component: {{ .name }}
  containers:
    - name: {{ .name }}
      image: {{ include "stream-app.image" $root }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args: [{{ .name }}]
      env:
        - { name: STREAM_APP_CONFIG, value: /etc/stream-app/stream_app.toml }
      ports:
        {{- with .http }}
        - { name: http, containerPort: {{ . }} }
        {{- end }}
        - { name: ops, containerPort: {{ .port }} }
      # The take-over of a partition with a million leads takes 5 s; the board builds its read model for minutes.
      startupProbe:
        httpGet: { path: /readyz, port: ops }
        periodSeconds: 5
        timeoutSeconds: 3
        failureThreshold: 120
      readinessProbe:
        httpGet: { path: /readyz, port: ops }
        periodSeconds: 10
        timeoutSeconds: 3
      # Never /readyz: it fails while Kafka is away, and a restart would not bring Kafka back.
      livenessProbe:
        httpGet: { path: /healthz, port: ops }
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      {{- if .http }}
      lifecycle: # the Service must send no more requests before the server stops
        preStop: { sleep: { seconds: 5 } }
      {{- end }}
      {{- with .values.resources }}
      resources: {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        {{- include "stream-app.containerSecurity" $root | nindent 8 }}
      volumeMounts:
        {{- include "stream-app.mounts" .state | nindent 8 }}
  volumes:
    {{- $secret := .values.existingSecret | default $root.Values.existingSecret }}
    {{- include "stream-app.volumes" (dict "config" (include "stream-app.fullname" $root) "secret" $secret "state" .state) | nindent 4 }}
{{- end -}}
