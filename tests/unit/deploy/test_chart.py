"""The Helm chart: seven sets of values render, are valid for Kubernetes 1.30 to 1.37, and agree
with the rest.

Helm as a library has a wheel for Linux only. CI runs on Linux.
"""

import functools
import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from helm_python import Chart
from helm_python.errors import HelmRenderError, HelmValuesError

from stream_app.config.board_files import messages_path, model_path
from stream_app.config.model import Gateway
from tests.support.narrow import present
from tests.unit.deploy.chart_values import CONFIG, SETS, SMALLEST
from tests.unit.deploy.rendered import ROOT, find, objects, pods, processes, settings

KUBERNETES = [f"1.{minor}" for minor in range(30, 38)]


@pytest.mark.parametrize("version", KUBERNETES)
def test_each_object_is_valid(chart: Chart, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # 2 MB for each object otherwise
    read_once = functools.cache(kubernetes_validate.utils.schema_contents)
    monkeypatch.setattr(kubernetes_validate.utils, "schema_contents", read_once)
    rendered = [item for values in SETS.values() for item in objects(chart, values)]
    rendered = [
        item for item in rendered if not item["apiVersion"].startswith("monitoring.coreos.com/")
    ]
    different = {json.dumps(item, sort_keys=True): item for item in rendered}
    for document in different.values():
        kubernetes_validate.validate(document, version, strict=True)
    kinds = {
        "ConfigMap",
        "Deployment",
        "Ingress",
        "Job",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "PersistentVolumeClaim",
        "Pod",
        "Service",
        "ServiceAccount",
    }
    assert {item["kind"] for item in rendered} == kinds


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"worker": {"terminationGracePeriodSeconds": 30}}, "minimum: got 30, want 66"),
        ({"board": {"replicas": 2}}, "additional properties 'replicas' not allowed"),
        (
            {"config": f"{CONFIG}[delivery]\nrequest_timeout_s = 45.5\nuncertain_grace_s = 90\n"},
            (
                "worker.terminationGracePeriodSeconds: must be more than 80.5: "
                "max_request_start_age_s, request_timeout_s"
            ),
        ),
        (
            {"worker": {"podLabels": {"app.kubernetes.io/name": "x"}}},
            "invalid propertyName 'app.kubernetes.io/name'",
        ),
        (
            {"worker": {"extraEnv": [{"name": "STREAM_APP_CONFIG", "value": "x"}]}},
            "/worker/extraEnv/0/name",
        ),
        (
            {
                "config": CONFIG.replace(
                    "[board]",
                    '[board]\nread_model_path = "/data/board.sqlite"',
                ),
            },
            "config: remove board.read_model_path: the chart keeps",
        ),
        ({"existingSecret": ""}, "existingSecret: name the Secret"),
        ({"config": ""}, "config: pass the text of stream_app.toml"),
        (
            {"config": CONFIG.replace("secrets_dir", "# secrets_dir")},
            "config: add the line secrets_dir",
        ),
        ({"config": CONFIG.replace("0.0.0.0", "127.0.0.1")}, 'config: set host = "0.0.0.0"'),
        (
            {"config": CONFIG.replace("[gateway]", "worker_port = 9000\n[gateway]")},
            "config: remove the ports",
        ),
        ({"callbacksIngress": {"enabled": True}}, "callbacksIngress.host: name the host"),
        (
            {"gateway": {"enabled": False}, "callbacksIngress": {"enabled": True, "host": "x"}},
            "callbacksIngress.enabled needs gateway.enabled",
        ),
        (
            {"config": CONFIG + '\n[notify]\nurl_env = "NOTIFY_URL"\n'},
            "board.persistence.enabled: messages ([notify] in `config`) need it",
        ),
        (
            {"board": {"enabled": False}, "boardIngress": {"enabled": True, "host": "x"}},
            "boardIngress.enabled needs board.enabled",
        ),
        (
            {"config": CONFIG.replace('[gateway]\nhost = "0.0.0.0"', "[gateway]")},
            'config: set host = "0.0.0.0" and behind_proxy = true under [gateway]',
        ),
        (
            {"config": CONFIG.replace('[board]\nhost = "0.0.0.0"', "[board]")},
            'config: set host = "0.0.0.0", behind_proxy = true, url and token_env under [board]',
        ),
    ],
)
def test_wrong_values_are_refused_with_what_to_change(
    chart: Chart,
    values: dict[str, Any],
    text: str,
) -> None:
    with pytest.raises((HelmValuesError, HelmRenderError), match=re.escape(text)):
        chart.render(SMALLEST | values)


# ---------------------------------------------------------------------- agreement with the settings


def test_a_pod_loads_its_configuration(chart: Chart, tmp_path: Path) -> None:
    rendered = objects(chart, SMALLEST)
    loaded = settings(rendered, tmp_path)
    assert loaded.http.host == "0.0.0.0"
    assert loaded.secrets_dir == str(tmp_path)
    assert find(rendered, "ConfigMap", "")["data"] == find(rendered, "ConfigMap", "-topics")["data"]
    for pod in pods(rendered):
        (container,) = pod["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        env = {variable["name"]: variable["value"] for variable in container["env"]}
        assert env == {"STREAM_APP_CONFIG": f"{mounts['config']}/stream_app.toml"}
        assert f'secrets_dir = "{mounts["secrets"]}"' in CONFIG


def test_ports_are_those_of_the_settings(chart: Chart, tmp_path: Path) -> None:
    rendered = objects(chart, SETS["watched"] | SETS["public"] | {"trace": {"enabled": True}})
    http = settings(rendered, tmp_path).http
    served = {"worker": {"ops": http.worker_port}, "replay": {"ops": http.replay_port}}
    served |= {
        "gateway": {"http": http.gateway_port, "ops": http.gateway_ops_port},
        "trace": {"ops": http.trace_port},
    }
    served |= {"board": {"http": http.board_port, "ops": http.board_ops_port}}
    assert processes(rendered).keys() == served.keys()
    for name, template in processes(rendered).items():
        (container,) = template["spec"]["containers"]
        assert {port["name"]: port["containerPort"] for port in container["ports"]} == served[name]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            # Kafka being away restarts no pod
            path = "/readyz" if probe == "readinessProbe" else "/healthz"
            assert container[probe]["httpGet"] == {"path": path, "port": "ops"}
    for name, number in (("gateway", http.gateway_port), ("board", http.board_port)):
        (port,) = find(rendered, "Service", f"-{name}")["spec"]["ports"]
        assert port["port"] == number
        assert port["targetPort"] == "http"
    metrics, gateway, board = find(rendered, "NetworkPolicy", "")["spec"]["ingress"]
    assert {port["port"] for port in metrics["ports"]} == {
        ports["ops"] for ports in served.values()
    }
    assert {port["port"] for port in gateway["ports"]} == {http.gateway_port}
    assert {port["port"] for port in board["ports"]} == {http.board_port}


# -------------------------------------------------------------------------------------------- rules


@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_pods_may_do_little(chart: Chart, values: dict[str, Any]) -> None:
    for pod in pods(objects(chart, values)):
        (container,) = pod["containers"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        assert not container["image"].endswith(":latest")
        uid = present(
            re.search(r"^USER (\d+):\d+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE),
        )
        assert pod["securityContext"]["runAsUser"] == int(uid[1])


def test_an_update_adds_no_worker_and_no_board_and_waits_for_each_new_pod(chart: Chart) -> None:
    rendered = objects(chart, SMALLEST)
    specs = {name: find(rendered, "Deployment", f"-{name}")["spec"] for name in processes(rendered)}
    one_by_one = {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    assert {
        name: (spec["strategy"], spec.get("minReadySeconds", 0)) for name, spec in specs.items()
    } == {
        "worker": (one_by_one, 10),
        "replay": (one_by_one, 10),
        # Clay always finds one
        "gateway": ({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}, 10),
        "board": ({"type": "Recreate"}, 0),
    }
    assert specs["board"]["replicas"] == 1, "never two"


@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_selectors_select_one_process(chart: Chart, values: dict[str, Any]) -> None:
    rendered = objects(chart, values)
    for name, template in processes(rendered).items():
        labels = template["metadata"]["labels"].items()
        (owner,) = [
            item
            for item in rendered
            if item["kind"] == "Deployment" and item["spec"]["template"] is template
        ]
        assert owner["spec"]["selector"]["matchLabels"].items() <= labels
        assert (
            find(rendered, "NetworkPolicy", "")["spec"]["podSelector"]["matchLabels"].items()
            <= labels
        )
        if name in ("gateway", "board"):
            assert find(rendered, "Service", f"-{name}")["spec"]["selector"].items() <= labels
        if name in ("trace", "board"):  # one pod, which may be restarted at any time
            continue
        budget = find(rendered, "PodDisruptionBudget", f"-{name}")["spec"]
        assert budget["maxUnavailable"] == 1
        assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
        assert budget["selector"]["matchLabels"].items() <= labels
        assert budget["selector"]["matchLabels"]["app.kubernetes.io/component"] == name


def test_clay_reaches_callbacks_and_health_and_nothing_else(chart: Chart) -> None:
    rendered = objects(chart, SETS["public"])
    callbacks = find(rendered, "Ingress", "-callbacks")["spec"]
    board = find(rendered, "Ingress", "-board")["spec"]
    for ingress, paths in ((callbacks, ["/callbacks/", "/healthz"]), (board, ["/"])):
        (rule,) = ingress["rules"]
        assert [path["path"] for path in rule["http"]["paths"]] == paths
        assert ingress["tls"] == [{"hosts": [rule["host"]], "secretName": "tls"}]
    assert callbacks["rules"][0]["host"] != board["rules"][0]["host"]
    assert not [item for item in objects(chart, SMALLEST) if item["kind"] == "Ingress"], (
        "nothing is public by default"
    )


def test_the_ingress_waits_longer_than_the_gateway_holds_and_says_429_where_it_may(
    chart: Chart,
) -> None:
    public = SETS["public"]["callbacksIngress"]
    plain = {name: value for name, value in public.items() if name != "annotations"}
    rendered = objects(chart, SETS["public"] | {"callbacksIngress": plain})
    annotations = find(rendered, "Ingress", "-callbacks")["metadata"]["annotations"]
    prefix = "nginx.ingress.kubernetes.io/"
    assert float(annotations[f"{prefix}proxy-read-timeout"]) > Gateway().hold_s
    assert annotations[f"{prefix}proxy-next-upstream"] == "error timeout"
    assert not [name for name in annotations if "snippet" in name], "a controller may refuse them"

    rendered = objects(chart, SETS["public"] | {"callbacksIngress": plain | {"snippets": True}})
    more = find(rendered, "Ingress", "-callbacks")["metadata"]["annotations"]
    assert more.items() > annotations.items()
    configuration = (ROOT / "deploy" / "nginx.conf").read_text()
    for line in more[f"{prefix}configuration-snippet"].splitlines():
        assert f" {line}\n" in configuration, "as nginx does, which the tests of the proxy ask"
    assert "location @away" in more[f"{prefix}server-snippet"]
    board = find(rendered, "Ingress", "-board")["metadata"]["annotations"]
    assert not [name for name in board if "snippet" in name]


def test_a_change_of_the_configuration_restarts_the_pods(chart: Chart) -> None:
    now = processes(objects(chart, SMALLEST))
    other = processes(objects(chart, SMALLEST | {"config": CONFIG + "\n[workspaces.globex]\n"}))
    for name in now:
        sums = [
            template[name]["metadata"]["annotations"]["checksum/config"]
            for template in (now, other)
        ]
        assert sums[0] != sums[1]


def test_topics_are_created_before_the_pods_start(chart: Chart) -> None:
    rendered = objects(chart, SMALLEST)
    job = find(rendered, "Job", "-topics")
    config = find(rendered, "ConfigMap", "-topics")
    for item in (job, config):
        assert item["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    weights = [
        int(item["metadata"]["annotations"]["helm.sh/hook-weight"]) for item in (config, job)
    ]
    assert weights == sorted(set(weights)), "the Job mounts the ConfigMap"
    assert (
        job["spec"]["template"]["spec"]["volumes"][0]["configMap"]["name"]
        == config["metadata"]["name"]
    )
    assert not [item for item in objects(chart, SETS["watched"]) if item["kind"] == "Job"]


def test_a_board_with_a_volume_keeps_its_files_and_a_gateway_has_no_disk(
    chart: Chart,
    tmp_path: Path,
) -> None:
    rendered = objects(chart, SETS["volumes"])
    claim = find(rendered, "PersistentVolumeClaim", "-board")
    assert "helm.sh/hook" not in claim["metadata"].get("annotations", {}), (
        "an upgrade would create it again"
    )
    assert claim["spec"]["resources"] == {"requests": {"storage": "10Gi"}}
    volumes = {name: template["spec"]["volumes"] for name, template in processes(rendered).items()}
    (state,) = [volume for volume in volumes["board"] if volume["name"] == "state"]
    assert state["persistentVolumeClaim"] == {"claimName": claim["metadata"]["name"]}
    (board,) = processes(rendered)["board"]["spec"]["containers"]
    (path,) = [mount["mountPath"] for mount in board["volumeMounts"] if mount["name"] == "state"]
    home = present(re.search(r"XDG_STATE_HOME=(\S+)", (ROOT / "Dockerfile").read_text()))[1]
    assert path == f"{home}/stream-app"
    assert "STATE_DIRECTORY" not in {variable["name"] for variable in board["env"]}
    model = model_path(settings(rendered, tmp_path), {"XDG_STATE_HOME": str(tmp_path)})
    assert model.parent == messages_path(model).parent == tmp_path / "stream-app", (
        "it would not be on the volume"
    )
    assert {volume["name"] for volume in volumes["gateway"]} == {"config", "secrets", "tmp"}
    for template in processes(rendered).values():
        (container,) = template["spec"]["containers"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in template["spec"]["volumes"]}


def test_only_the_ingress_controller_reaches_gateway_and_board_by_default(chart: Chart) -> None:
    _, *served = find(objects(chart, SMALLEST), "NetworkPolicy", "")["spec"]["ingress"]
    names = {"kubernetes.io/metadata.name": "ingress-nginx"}
    assert [rule["from"] for rule in served] == [
        [{"namespaceSelector": {"matchLabels": names}}],
    ] * 2


def test_alerts_and_their_jobs_are_those_of_prometheus(chart: Chart) -> None:
    rendered = objects(chart, SETS["watched"] | {"trace": {"enabled": True}})
    rule = find(rendered, "PrometheusRule", "")
    monitor = find(rendered, "PodMonitor", "")
    text = (ROOT / "deploy" / "alerts.yml").read_text()
    of_this = text.replace('release="stream-app"', 'release="sales/leads"').replace(
        "release: stream-app",
        "release: sales/leads",
    )
    assert rule["spec"] == yaml.safe_load(of_this)
    assert (
        rule["metadata"]["labels"]["release"]
        == monitor["metadata"]["labels"]["release"]
        == "prometheus"
    )
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == "ops"
    assert endpoint["path"] == "/metrics"
    job, release = endpoint["relabelings"]
    assert job["targetLabel"] == "job"
    assert release["targetLabel"] == "release"
    assert release["separator"] == "/"
    labels = processes(rendered)["worker"]["metadata"]["labels"]
    by_source = {
        f"__meta_kubernetes_pod_label_{re.sub(r'[^a-z0-9]', '_', label)}": label for label in labels
    }
    namespace, name = release["sourceLabels"]
    assert namespace == "__meta_kubernetes_namespace"
    assert labels[by_source[name]] == "leads"
    jobs = set(re.findall(r'job="(\w+)"', text))
    label = by_source[job["sourceLabels"][0]]
    assert jobs == {
        template["metadata"]["labels"][label] for template in processes(rendered).values()
    }


def test_no_alert_waits_for_a_gateway_that_is_not_wanted(chart: Chart) -> None:
    def names(values: dict[str, Any]) -> set[str]:
        (group,) = find(objects(chart, values), "PrometheusRule", "")["spec"]["groups"]
        return {rule["alert"] for rule in group["rules"]}

    for process, alert in (("gateway", "NoGateway"), ("board", "NoBoard")):
        assert names(SETS["watched"]) - names(SETS["watched"] | {process: {"enabled": False}}) == {
            alert,
        }
