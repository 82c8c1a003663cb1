"""What a platform wants otherwise: user ids, names, labels, the spread of pods, more containers,
claims, stops.
"""

import re
import textwrap
import tomllib
from typing import Any

import pytest
import yaml
from helm_python import Chart
from helm_python.errors import HelmRenderError, HelmValuesError

from stream_app import __version__
from stream_app.config.model import Kafka
from tests.unit.deploy.chart_values import CONFIG, SETS, SMALLEST
from tests.unit.deploy.pods import PROCESSES
from tests.unit.deploy.rendered import CHART, ROOT, find, objects, pods, processes

ALL: dict[str, Any] = SMALLEST | {"trace": {"enabled": True}}
SIDECAR = {"name": "proxy", "image": "registry.example.com/proxy:1"}
WAIT = {"name": "wait", "image": "registry.example.com/wait:1", "command": ["true"]}


def test_a_cluster_may_choose_the_user_id(chart: Chart) -> None:
    """OpenShift gives each namespace a range of its own, and refuses a pod that asks for another
    user.
    """
    rendered = objects(chart, ALL | {"podSecurityContext": None})
    assert len(pods(rendered)) == len(PROCESSES) + 2
    for pod in pods(rendered):
        assert pod["securityContext"] == {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
    other = objects(
        chart,
        ALL | {"podSecurityContext": {"runAsUser": 1_000_660_000, "fsGroup": 2000}},
    )
    for pod in pods(other):
        mine = pod["securityContext"]
        assert mine["runAsUser"] == 1_000_660_000
        assert mine["runAsGroup"] == 10001
        assert mine["fsGroup"] == 2000
    with pytest.raises(HelmValuesError, match="runAsNonRoot"):
        chart.render(ALL | {"podSecurityContext": {"runAsNonRoot": False}})


def test_every_name_follows_the_one_that_is_given(chart: Chart) -> None:
    values = ALL | SETS["public"] | SETS["watched"] | {"topics": {"job": {"enabled": True}}}
    rendered = objects(chart, values | {"fullnameOverride": "clay-leads"})
    assert {item["kind"] for item in rendered} > {
        "Deployment",
        "Service",
        "Ingress",
        "Job",
        "PrometheusRule",
    }
    for item in rendered:
        assert re.match(r"clay-leads(-|$)", item["metadata"]["name"]), item["kind"]
    assert "leads-stream-app" not in str(rendered), "nothing refers to a name that does not exist"


def test_common_labels_are_on_all_objects_and_pods_and_select_nothing(chart: Chart) -> None:
    values = (
        ALL
        | SETS["public"]
        | SETS["watched"]
        | SETS["volumes"]
        | {"topics": {"job": {"enabled": True}}}
    )
    mine = {"cost-centre": "sales"}
    rendered = objects(chart, values | {"commonLabels": mine})
    assert len({item["kind"] for item in rendered}) >= 12
    for item in rendered:
        assert mine.items() <= item["metadata"]["labels"].items(), item["kind"]
        assert "cost-centre" not in str(item.get("spec", {}).get("selector")), (
            "a selector cannot change in an upgrade"
        )
    templates = [
        item["spec"]["template"] for item in rendered if "template" in item.get("spec", {})
    ]
    assert len(templates) == len(PROCESSES) + 1
    for template in templates:
        assert mine.items() <= template["metadata"]["labels"].items()
    with pytest.raises(HelmValuesError, match="invalid propertyName"):
        chart.render(ALL | {"commonLabels": {"app.kubernetes.io/name": "x"}})


def test_the_spread_of_pods_is_a_value(chart: Chart) -> None:
    hard = {"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}
    own = hard | {"labelSelector": {"matchLabels": {"tier": "x"}}}
    values = ALL | {
        "worker": {"topologySpreadConstraints": [hard]},
        "replay": {"topologySpreadConstraints": []},
        "gateway": {"topologySpreadConstraints": [own]},
    }
    templates = processes(objects(chart, values))
    (of_worker,) = templates["worker"]["spec"]["topologySpreadConstraints"]
    selector = of_worker.pop("labelSelector")["matchLabels"]
    assert of_worker == hard
    assert selector.items() <= templates["worker"]["metadata"]["labels"].items()
    assert selector["app.kubernetes.io/component"] == "worker"
    assert "topologySpreadConstraints" not in templates["replay"]["spec"]
    assert templates["gateway"]["spec"]["topologySpreadConstraints"] == [own]


def test_containers_may_run_before_and_beside_a_process(chart: Chart) -> None:
    beside = {"initContainers": [WAIT], "sidecars": [SIDECAR]}
    values: dict[str, Any] = SMALLEST | {name: beside for name in PROCESSES if name != "trace"}
    values |= {"trace": beside | {"enabled": True}, "topics": {"job": {"initContainers": [WAIT]}}}
    rendered = objects(chart, values)
    templates = processes(rendered)
    assert set(templates) == set(PROCESSES)
    for name, template in templates.items():
        assert template["spec"]["initContainers"] == [WAIT]
        assert [container["name"] for container in template["spec"]["containers"]] == [
            name,
            "proxy",
        ]
        assert template["spec"]["containers"][1] == SIDECAR
    job = find(rendered, "Job", "-topics")["spec"]["template"]["spec"]
    assert job["initContainers"] == [WAIT]
    with pytest.raises(HelmValuesError, match="/worker/sidecars/0/name"):
        chart.render(ALL | {"worker": {"sidecars": [SIDECAR | {"name": "worker"}]}})


def test_the_board_may_use_a_claim_that_exists(chart: Chart) -> None:
    rendered = objects(
        chart,
        ALL | {"board": {"persistence": {"enabled": True, "existingClaim": "disk"}}},
    )
    assert not [item for item in rendered if item["kind"] == "PersistentVolumeClaim"]
    volumes = processes(rendered)["board"]["spec"]["volumes"]
    (state,) = [volume for volume in volumes if volume["name"] == "state"]
    assert state["persistentVolumeClaim"] == {"claimName": "disk"}


def test_services_have_the_annotations_that_are_given(chart: Chart) -> None:
    mine = {"service.beta.kubernetes.io/aws-load-balancer-internal": "true"}
    values = ALL | {"gateway": {"service": {"annotations": mine}}}
    rendered = objects(chart, values)
    assert find(rendered, "Service", "-gateway")["metadata"]["annotations"] == mine
    assert "annotations" not in find(rendered, "Service", "-board")["metadata"]
    rendered = objects(chart, ALL | {"board": {"service": {"annotations": mine}}})
    assert find(rendered, "Service", "-board")["metadata"]["annotations"] == mine


def test_the_resources_of_every_pod_are_values(chart: Chart) -> None:
    mine = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "2Gi"}}
    values: dict[str, Any] = SMALLEST | {
        name: {"resources": mine} for name in PROCESSES if name != "trace"
    }
    values |= {"trace": {"enabled": True, "resources": mine}}
    values |= {"topics": {"job": {"resources": mine}}, "doctor": {"resources": mine}}
    rendered = pods(objects(chart, values))
    assert len(rendered) == len(PROCESSES) + 2
    for pod in rendered:
        assert pod["containers"][0]["resources"] == mine


@pytest.mark.parametrize("name", ["worker", "replay", "gateway"])
def test_all_pods_of_a_process_can_be_stopped(chart: Chart, name: str) -> None:
    rendered = objects(chart, ALL | {name: {"replicas": 0}})
    assert find(rendered, "Deployment", f"-{name}")["spec"]["replicas"] == 0
    others = {"worker", "replay", "gateway"} - {name}
    assert all(
        find(rendered, "Deployment", f"-{other}")["spec"]["replicas"] > 0 for other in others
    )
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    assert "--set worker.replicas=0" in page


@pytest.mark.parametrize(
    "http",
    [
        'http = { host = "0.0.0.0", worker_port = 9000 }',
        'http = { board_port = 80, host = "0.0.0.0" }',
        'http.host = "0.0.0.0"\nhttp.gateway_ops_port = 9000',
        'http = { host = "0.0.0.0", "trace_port" = 9000 }',
    ],
)
def test_ports_are_refused_however_they_are_written(chart: Chart, http: str) -> None:
    config = http + "\n" + CONFIG.replace('[http]\nhost = "0.0.0.0"\n', "")
    with pytest.raises(HelmRenderError, match="config: remove the ports"):
        chart.render(SMALLEST | {"config": config})
    comment = re.sub(r"\w*port\w*\W* = \d+", "", config).replace(", }", " }").replace("{ ,", "{")
    chart.render(SMALLEST | {"config": f"# worker_port = 9000\n{comment}"})


def test_the_board_takes_files_as_large_as_its_proxy_does(chart: Chart) -> None:
    nginx = (ROOT / "deploy" / "nginx.conf").read_text()
    (board,) = re.findall(r"client_max_body_size (51m);", nginx)
    annotations = find(objects(chart, SETS["public"]), "Ingress", "-board")["metadata"][
        "annotations"
    ]
    assert annotations["nginx.ingress.kubernetes.io/proxy-body-size"] == board


@pytest.mark.parametrize("wait_s", [None, 5, 3_600])
def test_no_probe_restarts_a_pod_because_kafka_is_away(chart: Chart, wait_s: int | None) -> None:
    """A process waits for Kafka before it answers, and ends by itself after that.

    Then only /readyz asks for Kafka.
    """
    config = (
        CONFIG
        if wait_s is None
        else CONFIG.replace("[kafka]", f"[kafka]\nbroker_wait_s = {wait_s}")
    )
    longest_s = Kafka().broker_wait_s if wait_s is None else wait_s
    for template in processes(objects(chart, ALL | {"config": config})).values():
        container = template["spec"]["containers"][0]
        for probe in ("startupProbe", "livenessProbe"):
            assert container[probe]["httpGet"]["path"] == "/healthz"
        startup = container["startupProbe"]
        assert startup["failureThreshold"] * startup["periodSeconds"] >= 3 * longest_s + 60
        assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_the_release_pushes_the_chart_to_where_the_documents_take_it_from() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    job = workflow["jobs"]["chart"]
    assert job["needs"] == "image"
    runs = "\n".join(step.get("run", "") for step in job["steps"])
    (at,) = re.findall(r"helm push \"(\S+)\" \"(\S+)\"", runs)
    assert "helm package deploy/chart\n" in runs
    metadata = yaml.safe_load((CHART / "Chart.yaml").read_text())
    file = f"{metadata['name']}-{metadata['version']}.tgz"
    assert at[0].replace("${GITHUB_REF_NAME#v}", metadata["version"]) == file
    owner = metadata["sources"][0].removeprefix("https://github.com/").partition("/")[0]
    address = f"{at[1].replace('${GITHUB_REPOSITORY_OWNER}', owner)}/{metadata['name']}"
    for page in ("docs/kubernetes.md", "deploy/chart/README.md"):
        assert f"`{address}`" in (ROOT / page).read_text()
    assert metadata["version"] == metadata["appVersion"] == __version__


def test_all_that_explains_the_configuration_of_pods_shows_a_cap(chart: Chart) -> None:
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    (block,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    comment = [
        line.removeprefix("#   ")
        for line in (CHART / "values.yaml").read_text().splitlines()
        if line.startswith("#   ")
    ]
    shown = tomllib.loads(textwrap.dedent(block))
    assert shown["workspaces"] == {"acme": {"budget": {"credits_per_day": 6000}}}
    assert tomllib.loads("\n".join(comment)) == shown
    (notes,) = [
        text
        for path, text in chart.render(SMALLEST, name="leads", namespace="sales").items()
        if path.endswith("NOTES.txt")
    ]
    for text in (page, (CHART / "README.md").read_text(), notes):
        assert "`unlimited = true`" in text
        assert "[workspaces.NAME.budget]" in text
