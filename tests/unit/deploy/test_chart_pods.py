"""What the chart gives its pods: identity, image, Secrets, room to spread, time to stop, a disk for
what is kept.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_python import Chart

from stream_app import __version__
from stream_app.services import board, gateway
from tests.unit.deploy.chart_values import CONFIG, EVERYWHERE, SETS, SMALLEST
from tests.unit.deploy.pods import PROCESSES, leaves
from tests.unit.deploy.rendered import CHART, ROOT, find, objects, pods, processes, settings

RELEASE: dict[str, Any] = yaml.safe_load(
    (ROOT / ".github" / "workflows" / "release.yml").read_text(),
)
SCHEMA: dict[str, Any] = yaml.safe_load((CHART / "values.schema.json").read_text())["properties"]
PRE_STOP_S = 5


def by_command(rendered: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {pod["containers"][0]["args"][0]: pod for pod in pods(rendered)}


def secrets_of(pod: dict[str, Any]) -> list[str]:
    (volume,) = [mounted for mounted in pod["volumes"] if mounted["name"] == "secrets"]
    if "secret" in volume:
        return [volume["secret"]["secretName"]]
    return [source["secret"]["name"] for source in volume["projected"]["sources"]]


# ------------------------------------------------------------------------------- identity and image


def test_pods_have_the_role_that_the_account_is_annotated_with(chart: Chart) -> None:
    rendered = objects(chart, SETS["cloud"])
    ours = find(rendered, "ServiceAccount", "")
    of_the_job = find(rendered, "ServiceAccount", "-topics")
    role = SETS["cloud"]["serviceAccount"]["annotations"]
    assert ours["metadata"]["annotations"] == role
    assert role.items() <= of_the_job["metadata"]["annotations"].items()
    config = find(rendered, "ConfigMap", "-topics")["metadata"]["annotations"]
    assert config.items() <= of_the_job["metadata"]["annotations"].items(), "as its ConfigMap"
    for command, pod in by_command(rendered).items():
        account = of_the_job if command == "topics" else ours
        assert pod["serviceAccountName"] == account["metadata"]["name"]
        assert (
            pod["automountServiceAccountToken"] is account["automountServiceAccountToken"] is False
        )


@pytest.mark.parametrize(("values", "name"), [({"name": "leads"}, "leads"), ({}, "default")])
def test_the_account_may_be_one_that_exists(
    chart: Chart,
    values: dict[str, Any],
    name: str,
) -> None:
    rendered = objects(chart, SMALLEST | {"serviceAccount": {"create": False} | values})
    assert not [item for item in rendered if item["kind"] == "ServiceAccount"]
    assert {pod["serviceAccountName"] for pod in pods(rendered)} == {name}


def test_the_image_is_the_one_that_the_release_pushes(chart: Chart) -> None:
    steps = RELEASE["jobs"]["image"]["steps"]
    (pushed,) = [step["with"]["tags"] for step in steps if "tags" in step.get("with", {})]
    (checked,) = [
        step["run"] for step in RELEASE["jobs"]["build"]["steps"] if "GITHUB_REF_NAME" in str(step)
    ]
    assert re.fullmatch(r'test "v\$\(python -c .*__version__.*\)" = "\$GITHUB_REF_NAME"', checked)
    source = yaml.safe_load((CHART / "Chart.yaml").read_text())["sources"][0].removeprefix(
        "https://github.com/",
    )
    names = {"${{ github.repository }}": source, "${{ github.ref_name }}": f"v{__version__}"}
    for name, value in names.items():
        pushed = pushed.replace(name, value)
    assert {pod["containers"][0]["image"] for pod in pods(objects(chart, SMALLEST))} == {pushed}
    own = objects(
        chart,
        SMALLEST | {"image": {"repository": "registry.example.com/leads", "tag": "today"}},
    )
    assert {pod["containers"][0]["image"] for pod in pods(own)} == {
        "registry.example.com/leads:today",
    }


def test_python_is_not_process_1(chart: Chart) -> None:
    """Process 1 gets no SIGTERM without a handler, and Python needs a moment until it has one."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert all(service["init"] is True for service in services.values() if "build" in service)
    for values in SETS.values():
        assert all(pod["shareProcessNamespace"] is True for pod in pods(objects(chart, values)))


# ------------------------------------------------------------------------------------ what is added


def test_each_process_takes_what_a_platform_asks(chart: Chart) -> None:
    rendered = objects(chart, SETS["cloud"] | {"trace": SETS["cloud"]["trace"] | {"enabled": True}})
    templates = processes(rendered)
    assert tuple(sorted(templates)) == tuple(sorted(PROCESSES))
    for template in templates.values():
        (container,) = template["spec"]["containers"]
        assert EVERYWHERE["podLabels"].items() <= template["metadata"]["labels"].items()
        assert EVERYWHERE["podAnnotations"].items() <= template["metadata"]["annotations"].items()
        assert container["env"][1:] == EVERYWHERE["extraEnv"]
        assert container["volumeMounts"][-1:] == EVERYWHERE["extraVolumeMounts"]
        assert template["spec"]["volumes"][-1:] == EVERYWHERE["extraVolumes"]
    job = objects(
        chart,
        SMALLEST | {"topics": {"job": EVERYWHERE | {"nodeSelector": {"disk": "ssd"}}}},
    )
    template = find(job, "Job", "-topics")["spec"]["template"]
    assert EVERYWHERE["podLabels"].items() <= template["metadata"]["labels"].items()
    assert template["metadata"]["annotations"] == EVERYWHERE["podAnnotations"]
    assert template["spec"]["containers"][0]["env"][1:] == EVERYWHERE["extraEnv"]
    assert template["spec"]["volumes"][-1:] == EVERYWHERE["extraVolumes"]
    assert template["spec"]["nodeSelector"] == {"disk": "ssd"}


# ------------------------------------------------------------------------------------------ Secrets


def test_the_job_of_the_topics_works_where_each_process_has_its_own_secret(chart: Chart) -> None:
    cloud = SETS["cloud"]
    assert "existingSecret" not in cloud
    pods_of = by_command(objects(chart, cloud))
    assert secrets_of(pods_of["topics"]) == ["leads-worker"]
    named = cloud | {"topics": {"job": {"existingSecret": "leads-topics"}}}
    assert secrets_of(by_command(objects(chart, named))["topics"]) == ["leads-topics"]
    private = by_command(objects(chart, SETS["private"]))
    for name in ("worker", "replay", "gateway", "board"):
        assert secrets_of(pods_of[name]) == [f"leads-{name}"]
        assert secrets_of(private[name]) == ["webhooks" if name == "worker" else "leads"]
    assert secrets_of(private["topics"]) == ["leads"]


def test_helm_test_runs_doctor_with_what_each_process_needs(chart: Chart) -> None:
    rendered = objects(chart, SETS["cloud"])
    pod = find(rendered, "Pod", "-doctor")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert pod["spec"]["containers"][0]["args"] == ["doctor"]
    assert secrets_of(pod["spec"]) == ["leads-worker", "leads-gateway", "leads-board"]
    assert secrets_of(find(objects(chart, SMALLEST), "Pod", "-doctor")["spec"]) == ["leads"]
    labels = pod["metadata"]["labels"].items()
    assert (
        find(rendered, "NetworkPolicy", "")["spec"]["podSelector"]["matchLabels"].items() <= labels
    ), "it reaches Kafka"
    for item in rendered:
        if item["kind"] in ("Service", "Deployment", "PodDisruptionBudget"):
            selector = item["spec"]["selector"]
            assert not selector.get("matchLabels", selector).items() <= labels, item["metadata"][
                "name"
            ]


# -------------------------------------------------------------------------------- nodes and updates


@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_pods_spread_over_zones_and_nodes_if_they_can(chart: Chart, values: dict[str, Any]) -> None:
    for template in processes(objects(chart, values)).values():
        spread = template["spec"]["topologySpreadConstraints"]
        keys = ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
        assert [constraint["topologyKey"] for constraint in spread] == keys
        for constraint in spread:
            assert constraint["whenUnsatisfiable"] == "ScheduleAnyway"
            assert constraint["maxSkew"] == 1
            assert (
                constraint["labelSelector"]["matchLabels"].items()
                <= template["metadata"]["labels"].items()
            )


@pytest.mark.parametrize(
    "text",
    [
        "",
        (
            "[delivery]\nmax_request_start_age_s=5.5\ncommit_timeout_s = 1_0 # request_timeout_s "
            "= 600\n"
        ),
        "delivery = { request_timeout_s = 45, commit_timeout_s = 5 }\n",
    ],
)
def test_a_worker_has_the_time_to_stop_that_its_configuration_needs(
    chart: Chart,
    tmp_path: Path,
    text: str,
) -> None:
    config = CONFIG + text if text.startswith("[") else text + CONFIG
    patient = {"worker": {"terminationGracePeriodSeconds": 2000}}
    delivery = settings(objects(chart, SMALLEST | patient | {"config": config}), tmp_path).delivery
    longest_s = delivery.longest_s + delivery.commit_timeout_s + 10
    values = SMALLEST | {"config": config}
    enough = int(longest_s) + 1
    if enough >= SCHEMA["worker"]["properties"]["terminationGracePeriodSeconds"]["minimum"]:
        with pytest.raises(Exception, match=f"must be more than {longest_s:g}|minimum"):
            chart.render(values | {"worker": {"terminationGracePeriodSeconds": enough - 1}})
    rendered = objects(
        chart,
        values | {"worker": {"terminationGracePeriodSeconds": max(enough, 66)}},
    )
    assert processes(rendered)["worker"]["spec"]["terminationGracePeriodSeconds"] == max(enough, 66)


def test_the_others_have_the_time_to_stop_that_their_code_takes(chart: Chart) -> None:
    for name, module in (("gateway", gateway), ("board", board)):
        least = SCHEMA[name]["properties"]["terminationGracePeriodSeconds"]["minimum"]
        assert least > PRE_STOP_S + module._GRACE_S
        container = processes(objects(chart, SMALLEST))[name]["spec"]["containers"][0]
        assert container["lifecycle"] == {"preStop": {"sleep": {"seconds": PRE_STOP_S}}}


# ------------------------------------------------------------------------------------------- README


def test_the_readme_has_each_value_and_its_default(chart: Chart) -> None:
    text = (CHART / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w<>.]+)` \| `(.*?)` \| (.+) \|$", text, re.MULTILINE)
    shown: dict[str, Any] = {}
    for path, default, _ in rows:
        for name in PROCESSES if path.startswith("<process>.") else ("",):
            shown[path.replace("<process>", name)] = json.loads(default)
    assert shown == leaves(chart.values)
