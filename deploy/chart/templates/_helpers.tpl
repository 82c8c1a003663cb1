{{- define "stream-app.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
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
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "stream-app.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default (printf "v%s" $.Chart.AppVersion) }}
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
{{- /* In a table, with a dotted key, or inline: http = { worker_port = 9000 }. */ -}}
{{- if regexMatch "(?m)^[^#\n]*\\b(worker|replay|gateway|gateway_ops|trace|board|board_ops)_port[\"']? *=" $config -}}
{{- fail "config: remove the ports from [http]: the chart's probes and Service name the default ports 9101 to 9108" -}}
{{- end -}}
{{- $path := regexFind "(?m)^[^#\n]*\\bread_model_path *= *[\"'][^\"']*" $config -}}
{{- if and $path (not (regexMatch "[\"']/var/lib/stream-app/" $path)) -}}
{{- fail "config: remove board.read_model_path: the chart keeps the read model, and what was sent to people, under /var/lib/stream-app" -}}
{{- end -}}
{{- $config -}}
{{- end -}}

{{- /* The value of a setting in seconds. Arguments: config, key, default (of the program). */ -}}
{{- define "stream-app.seconds" -}}
{{- $set := regexFind (printf "(?m)^[^#\n]*\\b%s *= *[0-9][0-9_.]*" .key) .config | regexFind "[0-9][0-9_.]*$" | replace "_" "" -}}
{{- $set | default .default -}}
{{- end -}}

{{- /* How often a startup probe may fail: as long as a process may wait for Kafka, three times over, and a minute. */ -}}
{{- define "stream-app.startupFailures" -}}
{{- $config := include "stream-app.config" . -}}
{{- $waits := include "stream-app.seconds" (dict "config" $config "key" "broker_wait_s" "default" "60") -}}
{{- divf (addf 60 (mulf 3 (float64 $waits))) 5 | ceil | int -}}
{{- end -}}

{{- /* Refuses a grace that ends before a worker may have finished its last request. */ -}}
{{- define "stream-app.workerGrace" -}}
{{- $config := include "stream-app.config" . -}}
{{- $needed := 10.0 -}}
{{- range $key, $default := dict "max_request_start_age_s" "10" "request_timeout_s" "30" "commit_timeout_s" "15" -}}
{{- $needed = addf $needed (float64 (include "stream-app.seconds" (dict "config" $config "key" $key "default" $default))) -}}
{{- end -}}
{{- $grace := .Values.worker.terminationGracePeriodSeconds -}}
{{- if le (float64 $grace) $needed -}}
{{- fail (printf "worker.terminationGracePeriodSeconds: must be more than %g: max_request_start_age_s, request_timeout_s and commit_timeout_s of [delivery] in `config`, and 10 s" $needed) -}}
{{- end -}}
{{- $grace -}}
{{- end -}}

{{- /* The name of a pod's ServiceAccount. Arguments: root, suffix (of the one that a hook makes for itself, or ""). */ -}}
{{- define "stream-app.serviceAccount" -}}
{{- with .root.Values.serviceAccount -}}
{{- if .create -}}
{{ .name | default (include "stream-app.fullname" $.root) }}{{ $.suffix }}
{{- else -}}
{{ .name | default "default" }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "stream-app.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end -}}

{{- define "stream-app.podSecurity" -}}
runAsNonRoot: true
seccompProfile: { type: RuntimeDefault }
{{- with .Values.podSecurityContext }}
{{- with .runAsUser }}
runAsUser: {{ int64 . }}
{{- end }}
{{- with .runAsGroup }}
runAsGroup: {{ int64 . }}
{{- end }}
{{- with .fsGroup }}
fsGroup: {{ int64 . }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* The labels of a pod. Arguments: root, name, values. */ -}}
{{- define "stream-app.podLabels" -}}
{{ include "stream-app.labels" .root }}
app.kubernetes.io/component: {{ .name }}
{{- with .values.podLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* What the spec of every pod begins with. Arguments: root, values, suffix (as for the ServiceAccount). */ -}}
{{- define "stream-app.podSpec" -}}
serviceAccountName: {{ include "stream-app.serviceAccount" . }}
automountServiceAccountToken: false
enableServiceLinks: false
shareProcessNamespace: true # process 1 is the pause container: as process 1, Python would not hear SIGTERM before it has handlers
securityContext:
  {{- include "stream-app.podSecurity" .root | nindent 2 }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.initContainers }}
initContainers: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* The environment of a container. Argument: the values of its process. */ -}}
{{- define "stream-app.env" -}}
- { name: STREAM_APP_CONFIG, value: /etc/stream-app/stream_app.toml }
{{- with .extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* The mounts of a container. Arguments: values, state (as for the volumes). */ -}}
{{- define "stream-app.mounts" -}}
- { name: config, mountPath: /etc/stream-app, readOnly: true }
- { name: secrets, mountPath: /run/secrets/stream-app, readOnly: true }
{{- if .state }}
- { name: state, mountPath: /var/lib/stream-app }
{{- end }}
- { name: tmp, mountPath: /tmp }
{{- with .values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* The volumes of a pod. Arguments: values, secrets (names, or ""), config (the name of the ConfigMap), state ("": none; a claim; or emptyDir). */ -}}
{{- define "stream-app.volumes" -}}
- name: config
  configMap: { name: {{ .config }} }
{{- $secrets := without .secrets "" | uniq }}
{{- if not $secrets }}
{{- fail "existingSecret: name the Secret that has the variables of your stream_app.toml" }}
{{- end }}
- name: secrets
{{- if eq (len $secrets) 1 }}
  secret: { secretName: {{ first $secrets }}, defaultMode: 0440 }
{{- else }}
  projected:
    defaultMode: 0440
    sources:
      {{- range $secrets }}
      - secret: { name: {{ . }} }
      {{- end }}
{{- end }}
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
{{- with .values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* The pod template of a process. Arguments: root, name, values, http (the port of a Service), port (of metrics and probes), state. */ -}}
{{- define "stream-app.pod" -}}
{{- $root := .root -}}
metadata:
  labels:
    {{- include "stream-app.podLabels" . | nindent 4 }}
  annotations:
    checksum/config: {{ include "stream-app.config" $root | sha256sum }}
    {{- with .values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- include "stream-app.podSpec" . | nindent 2 }}
  terminationGracePeriodSeconds: {{ if eq .name "worker" }}{{ include "stream-app.workerGrace" $root }}{{ else }}{{ .values.terminationGracePeriodSeconds }}{{ end }}
  {{- with .values.topologySpreadConstraints }}
  {{- $labels := merge (include "stream-app.selector" $root | fromYaml) (dict "app.kubernetes.io/component" $.name) }}
  topologySpreadConstraints:
    {{- range . }}
    - {{- toYaml . | nindent 6 }}
      {{- if not (hasKey . "labelSelector") }}
      labelSelector:
        matchLabels: {{- toYaml $labels | nindent 10 }}
      {{- end }}
    {{- end }}
  {{- end }}
  containers:
    - name: {{ .name }}
      image: {{ include "stream-app.image" $root }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args: [{{ .name }}]
      env:
        {{- include "stream-app.env" .values | nindent 8 }}
      ports:
        {{- with .http }}
        - { name: http, containerPort: {{ . }} }
        {{- end }}
        - { name: ops, containerPort: {{ .port }} }
      # A process answers once it has found Kafka and its topics, and ends by itself if it does not find them. /readyz would
      # restart a pod whose Kafka goes away while it starts, and a board that builds its read model.
      startupProbe:
        httpGet: { path: /healthz, port: ops }
        periodSeconds: 5
        timeoutSeconds: 3
        failureThreshold: {{ include "stream-app.startupFailures" $root }}
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
        {{- include "stream-app.mounts" (dict "values" .values "state" .state) | nindent 8 }}
    {{- with .values.sidecars }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    {{- $secret := .values.existingSecret | default $root.Values.existingSecret }}
    {{- include "stream-app.volumes" (dict "values" .values "config" (include "stream-app.fullname" $root) "secrets" (list $secret) "state" .state) | nindent 4 }}
{{- end -}}
