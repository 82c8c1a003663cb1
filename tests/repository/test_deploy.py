"""The deployment without Docker: files, commands, environment, ports and metrics agree."""

import json
import re
from importlib.resources import files
from types import SimpleNamespace

import jsonschema
import pytest
import yaml

from stream_app.cli.main import parse
from stream_app.dev.kafka import broker_properties
from stream_app.dev.kafka_tools import KAFKA_VERSION
from tests.repository.deployed import (
    _VARIABLE,
    COMPOSE,
    DEMANDED,
    OURS,
    PLACES,
    PROMETHEUS,
    ROOT,
    SERVICES,
    environment,
    in_bytes,
    kafka_properties,
    published,
    settings,
)

WITH_CONFIG = ("topics", "worker", "replay", "gateway", "board")
SAFETY = {
    "auto.create.topics.enable",
    "message.max.bytes",
    "process.roles",
    "controller.listener.names",
}


def seconds(duration: str) -> int:
    """Return a duration of the compose file, such as 90s or 6m."""
    return int(duration[:-1]) * {"s": 1, "m": 60}[duration[-1]]


def dockerfile() -> list[tuple[str, str]]:
    """Return (instruction, the rest) of each line, continuations joined."""
    text = re.sub(
        r"^\s*#.*\n",
        "",
        (ROOT / "Dockerfile").read_text(),
        flags=re.MULTILINE,
    ).replace(
        "\\\n",
        " ",
    )
    return [
        (line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()
    ]


def end_image() -> list[tuple[str, str]]:
    """Return the instructions of the last stage."""
    lines = dockerfile()
    return lines[max(number for number, (word, _) in enumerate(lines) if word == "FROM") :]


# ------------------------------------------------------------------------------- docker-compose.yml


def test_the_compose_file_is_right_by_its_schema() -> None:
    schema = json.loads(
        (files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text(),
    )
    jsonschema.validate(COMPOSE, schema, cls=jsonschema.Draft7Validator)
    broken = COMPOSE | {
        "services": SERVICES | {"worker": OURS["worker"] | {"restarts": "always"}},
    }
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema, cls=jsonschema.Draft7Validator)


def test_the_compose_file_has_the_expected_services() -> None:
    assert set(OURS) == {
        "topics",
        "worker",
        "replay",
        "gateway",
        "board",
        "sim",
    }
    others = SERVICES.keys() - OURS.keys() - {"configuration"}
    assert others == {"kafka", "redis", "nginx", "prometheus", "grafana"}
    assert SERVICES["configuration"]["image"] == OURS["worker"]["image"], (
        "it needs no image of its own"
    )
    assert SERVICES["kafka"]["image"].startswith(
        f"apache/kafka:{KAFKA_VERSION}@",
    ), "the one that the tests run"
    for name in others:
        assert re.fullmatch(
            r"[\w/]+:[\w.-]+@sha256:[0-9a-f]{64}",
            SERVICES[name]["image"],
        ), f"{name}: by its digest"


def test_each_container_has_a_limit_of_memory_and_a_process_of_ours_no_less_than_in_the_chart() -> (
    None
):
    """One that grows then ends by itself, where the machine would end any of them."""
    assert {
        name: service.get("mem_limit")
        for name, service in SERVICES.items()
        if "mem_limit" not in service
    } == {}
    chart = yaml.safe_load(
        (ROOT / "deploy" / "chart" / "values.yaml").read_text(),
    )
    for name in ("worker", "replay", "gateway", "board"):
        in_chart = in_bytes(chart[name]["resources"]["limits"]["memory"])
        assert in_bytes(OURS[name]["mem_limit"]) >= in_chart, name
    cache = re.search(
        r"--maxmemory (\w+)",
        " ".join(SERVICES["redis"]["command"]),
    )
    assert cache is not None
    assert in_bytes(
        SERVICES["redis"]["mem_limit"],
    ) > in_bytes(cache[1])
    (kept,) = SERVICES["nginx"]["tmpfs"]
    assert in_bytes(
        SERVICES["nginx"]["mem_limit"],
    ) > in_bytes(kept.rpartition("size=")[2]), "it is memory, too"


def simulator() -> SimpleNamespace:
    """Return the options of the simulator's command."""
    _, arguments = parse(OURS["sim"]["command"])
    arguments.apply_defaults()
    return SimpleNamespace(**arguments.arguments)


def test_no_secret_is_written_down_and_each_variable_is_explained() -> None:
    used = {name for service in SERVICES for name in SERVICES[service].get("environment") or {}}
    clay = {name for name in used if name.startswith("CLAY_")}
    secret = clay | DEMANDED.keys()
    text = (ROOT / "docker-compose.yml").read_text()
    places = {
        match[0]
        for match in _VARIABLE.findall(text)
        if match[0] == "STREAM_APP_IMAGE" or "_PORT" in match[0]
    }
    asked = {match[0] for match in _VARIABLE.findall(text)} - places
    assert {match[0] for match in _VARIABLE.findall(text) if match[1] == "?"} == DEMANDED.keys(), (
        "no known default"
    )
    assert f"for name in {' '.join(DEMANDED)}; do" in text, "its first lines make them"
    explained = (ROOT / ".env.example").read_text()
    example = dict(re.findall(r"^(\w+)=(.*)$", explained, re.MULTILINE))
    assert secret == asked == set(example)
    assert not any(example.values())
    defaults = {name: default for name, _, default in _VARIABLE.findall(text) if name in places}
    assert dict(re.findall(r"^# (\w+)=(.*)$", explained, re.MULTILINE)) == defaults
    for name in WITH_CONFIG:
        assert "KAFKA_PASSWORD" in environment(name), name
    assert secret & set(environment("topics")) == {
        "BOARD_TOKEN",
        "KAFKA_PASSWORD",
    }, "it looks leads up"
    assert secret & set(environment("redis")) == {"REDIS_PASSWORD"}
    for name in ("kafka", "sim", "prometheus"):
        assert not secret & set(environment(name)), f"{name} needs no secret of Clay's or ours"
    assert secret & set(environment("gateway")) == {
        "CALLBACK_KEY",
        "KAFKA_PASSWORD",
    }, "it needs no webhook"
    assert secret & set(environment("board")) == {
        "BOARD_TOKEN",
        "KAFKA_PASSWORD",
    }, "it verifies no callback"


def test_every_port_is_published_and_listened_to_where_it_should_be() -> None:
    """tests/e2e/test_deploy_run.py shows that each process reaches the others where the settings
    say that they are.
    """
    loaded = settings("worker")
    host, _, port = loaded.kafka.bootstrap.partition(":")
    listeners = dict(
        re.findall(r"(\w+)://([^,]*)", kafka_properties()["listeners"]),
    )
    advertised = dict(
        re.findall(
            r"(\w+)://([^,]*)",
            kafka_properties()["advertised.listeners"],
        ),
    )
    assert host == "kafka"
    assert listeners["APP"] == f":{port}"
    assert advertised["APP"] == f"kafka:{port}"
    assert published("kafka") == [
        f"{advertised['HOST']}:{listeners['HOST'].strip(':')}",
    ]
    assert kafka_properties()["controller.quorum.voters"] == f"1@{listeners['CONTROLLER']}"
    assert simulator().host == loaded.http.host == "0.0.0.0", "others reach it"
    for name, served in (("gateway", loaded.http.gateway_port), ("board", loaded.http.board_port)):
        assert f"127.0.0.1:{served}:{served}" in published("nginx")
        assert "ports" not in SERVICES[name], "the proxy is the only way in"
    for name in SERVICES:
        for port in SERVICES[name].get("ports", []):
            assert re.match(r"127\.0\.0\.1:\$\{\w+_PORT:-\d+\}:", port), (
                f"{name}: two systems may run here"
            )


def test_every_listener_of_kafka_needs_a_password() -> None:
    ours = kafka_properties()
    protocols = dict(re.findall(r"(\w+):(\w+)", ours["listener.security.protocol.map"]))
    for name, host in re.findall(r"(\w+)://([\w.]*):", ours["listeners"]):
        if host == "localhost":
            continue
        assert protocols[name] == "SASL_PLAINTEXT", name
        users = dict(
            re.findall(
                r'user_(\w+)="([^"]*)"',
                ours[f"listener.name.{name.lower()}.plain.sasl.jaas.config"],
            ),
        )
        assert users == {
            "broker": DEMANDED["KAFKA_BROKER_PASSWORD"],
            "app": DEMANDED["KAFKA_PASSWORD"],
        }
    security = settings("worker").kafka.security
    assert security.username == "app"
    assert security.mechanism == ours["sasl.enabled.mechanisms"]
    assert not any(name.startswith("SASL_") for name in protocols), (
        "the image would want a JAAS file"
    )


def test_services_are_restarted_and_have_time_to_stop() -> None:
    for name, service in SERVICES.items():
        assert service["restart"] == (
            "no" if name in ("configuration", "topics") else "unless-stopped"
        ), name
    delivery = settings("worker").delivery
    longest_s = (
        delivery.max_request_start_age_s + delivery.request_timeout_s + delivery.commit_timeout_s
    )
    assert int(OURS["worker"]["stop_grace_period"].removesuffix("s")) > longest_s + 10


def test_there_are_two_gateways_and_nginx_waits_longer_than_they_hold() -> None:
    assert SERVICES["gateway"]["scale"] == 2
    nginx = (ROOT / "deploy" / "nginx.conf").read_text()
    for_callbacks = nginx.partition("location /callbacks/ {")[2].partition("}")[0]
    (waits_s,) = re.findall(r"proxy_read_timeout (\d+)s;", for_callbacks)
    assert int(waits_s) > settings("gateway").gateway.hold_s
    (connections,) = re.findall(r"worker_connections (\d+);", nginx)
    (files,) = re.findall(r"worker_rlimit_nofile (\d+);", nginx)
    assert 2 * int(connections) < int(files), "each connection may have a file for its body"
    (of_one_address,) = re.findall(r"limit_conn peers (\d+);", for_callbacks)
    assert int(of_one_address) >= 6_000, "100 callbacks a second that wait for 50 s are 5,000"


def test_a_slow_kafka_makes_no_service_unhealthy() -> None:
    """`up --wait` ends at the first service that is. Kafka has as long as its own check allows."""
    check = SERVICES["kafka"]["healthcheck"]
    kafka_s = check["retries"] * (seconds(check["interval"]) + seconds(check["timeout"]))
    gateway_s = seconds(
        SERVICES["gateway"]["healthcheck"]["start_period"],
    )
    assert seconds(SERVICES["nginx"]["healthcheck"]["start_period"]) >= kafka_s + gateway_s, (
        "its check asks the gateway"
    )
    for name in SERVICES.keys() - {"kafka", "configuration", "topics"}:
        start_s = seconds(SERVICES[name]["healthcheck"]["start_period"])
        assert start_s >= 180, (
            f"{name}: on a busy machine a process that Kafka did not answer in time starts twice"
        )


def test_no_container_reads_a_file_of_the_clone_but_the_one_that_copies_them() -> None:
    """A clone that was made with umask 077 is readable for one user of this machine, who is none in
    a container.
    """
    copies = SERVICES["configuration"]
    assert copies["volumes"] == ["./deploy:/deploy:ro", "configuration:/etc/stream-app"]
    assert copies["user"] == "0:0", "it reads what others own, and no more"
    assert copies["cap_add"] == ["DAC_READ_SEARCH"], "it reads what others own, and no more"
    assert {"--no-preserve=mode", "--preserve=timestamps"} < set(copies["entrypoint"])
    for name, service in SERVICES.items():
        mounted = [volume for volume in service.get("volumes", []) if volume.startswith((".", "/"))]
        assert name == "configuration" or not mounted, name
        if "configuration:/etc/stream-app:ro" in service.get("volumes", []):
            before = (
                service["depends_on"].get("configuration")
                or SERVICES["topics"]["depends_on"]["configuration"]
            )
            assert before == {"condition": "service_completed_successfully"}, name
            assert "configuration" in service["depends_on"] or "topics" in service["depends_on"], (
                name
            )


def test_services_have_few_rights_and_ports_for_this_machine_only() -> None:
    for name, service in SERVICES.items():
        assert "cap_add" not in service or name == "configuration", name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service.get("read_only") or name == "kafka", (
            "Kafka's image writes its configuration beside its program"
        )
    for service in OURS.values():
        last = dict(end_image())
        uid, gid = last["USER"].split(":")
        own = [f"{last['WORKDIR']}:uid={uid},gid={gid},mode=0700", f"sim-ledger:{last['WORKDIR']}"]
        writable = {*service["tmpfs"], *service["volumes"]}
        assert writable & set(own), "Faust makes a directory there, the simulator its ledger"


def test_kafka_has_the_settings_of_the_tests() -> None:
    tested = broker_properties(listen="kafka", port=9092, controller_port=9093)
    ours = kafka_properties()
    both = (tested.keys() & ours.keys()) - PLACES
    assert {name: ours[name] for name in both} == {name: tested[name] for name in both}
    assert both >= SAFETY | {name for name in tested if "replication" in name or "min.isr" in name}
    assert ours["log.dirs"] == SERVICES["kafka"]["volumes"][0].split(":")[1], (
        "or the data goes with the container"
    )


# --------------------------------------------------------------------------------------- Dockerfile


def test_the_image_is_small_and_does_not_run_as_root() -> None:
    words = [word for word, _ in dockerfile()]
    assert words.count("FROM") == 2
    assert "ADD" not in words
    last = end_image()
    assert "apt-get" not in str(last)
    assert not re.search(r"\bpip\b", str(last))
    user = [rest for word, rest in last if word == "USER"][-1]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), user
    assert [word for word, _ in last].index("USER") > max(
        n for n, (word, _) in enumerate(last) if word == "RUN"
    )
    assert json.loads(dict(last)["ENTRYPOINT"]) == ["stream-app"]


def test_the_build_context_has_no_secret() -> None:
    lines = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert lines[0] == "*"
    assert not any(line.startswith("!.env") for line in lines)


# --------------------------------------------------------------------------------------- Prometheus


def test_exactly_the_services_with_metrics_are_scraped() -> None:
    http = settings("worker").http
    assert http.host == settings("replay").http.host
    seen = {
        job["job_name"]: (target["names"], target["type"], target["port"])
        for job in PROMETHEUS["scrape_configs"]
        for target in job["dns_sd_configs"]
    }
    assert seen == {
        "worker": (["worker"], "A", http.worker_port),
        "replay": (["replay"], "A", http.replay_port),
        "gateway": (["gateway"], "A", http.gateway_ops_port),
        "board": (["board"], "A", http.board_ops_port),
    }
