"""`stream-app topics`, `skip` and `clay-setup`: what a system needs before its first lead."""

import asyncio
import json
import sys
from typing import Any

import msgspec

from stream_app.cli.base import COMMON, NO, OK, Common, answered_yes, confirm, on_kafka
from stream_app.cli.output import say, show, show_json
from stream_app.client import skip as unreadable
from stream_app.client.doctor import setup as plan
from stream_app.client.doctor.setup import resources
from stream_app.config import Settings
from stream_app.config.kafka_access import connection_of, namespace_problems
from stream_app.domain.model.errors import KafkaRefused
from stream_app.domain.model.text import count
from stream_app.domain.model.topics import shared_partitions
from stream_app.kafka.topics import alter_topics, create_topics


def topics(
    *,
    apply: bool = False,
    yes: bool = False,
    strimzi: str = "",
    common: Common = COMMON,
) -> int:
    """Create missing topics, and show exactly how existing ones differ from the plan.

    A process starts if its topics have enough, such as a longer retention than the configuration
    says.

    example:
      stream-app topics --config stream_app.toml
      stream-app topics --apply
      stream-app topics --strimzi my-cluster | kubectl apply -f -

    Args:
        apply: set retention, sizes and the like where topics have less than the configuration says
        yes: set them where topics have more, too, without asking; a shorter retention deletes
            records
        strimzi: print topics and users as Strimzi resources of this Kafka cluster, and create
            nothing
    """
    settings = common.settings()
    if strimzi:
        show_json(resources(settings, strimzi))
        return OK
    kafka = settings.kafka
    at = connection_of(settings)
    wanted = settings.topic_plan()
    report = asyncio.run(create_topics(at, wanted, kafka.broker_wait_s, say))
    created = report.created
    changed = dict[str, dict[str, str]]()
    if apply and (report.lacking or report.surplus):
        asyncio.run(alter_topics(at, report.lacking, kafka.broker_wait_s, say))
        changed |= report.lacking
        if report.surplus and (yes or _wants_to_shorten(report.more)):
            asyncio.run(alter_topics(at, report.surplus, kafka.broker_wait_s, say))
            changed |= {
                name: changed.get(name, {}) | other for name, other in report.surplus.items()
            }
        report = asyncio.run(create_topics(at, wanted, kafka.broker_wait_s, say))
    problems = list(report.problems)
    if settings.names.state in report.unchanged:
        problems += _of_the_namespace(settings)
    untouched = set(report.unchanged) - set(created) - changed.keys()
    warnings = [*report.more, *shared_partitions(settings.homes, kafka.partitions, settings.pins)]
    if common.json:
        of_topics = msgspec.to_builtins(report)
        show_json(
            {
                **of_topics,
                "created": created,
                "changed": changed,
                "problems": problems,
                "warnings": warnings,
            },
        )
    else:
        for name in created:
            show(f"created {name}")
        for name, values in sorted(changed.items()):
            show(
                f"changed {name}: "
                f"{', '.join(f'{key} = {value}' for key, value in sorted(values.items()))}",
            )
        for line in problems:
            say(line)
        for line in warnings:
            say(f"warning: {line}")
        done = f"{len(created)} created, {len(changed)} changed, {len(untouched)} were there"
        show(f"{done}, {count(len(problems), 'problem')}")
    return NO if problems else OK


def _wants_to_shorten(more: list[str]) -> bool:
    """Ask on a terminal whether to shorten what is longer than planned.

    `more`: a line for each such setting.
    """
    if not sys.stdin.isatty():
        return False
    for line in more:
        say(line)
    return answered_yes("shorten what is longer than planned")


def _of_the_namespace(settings: Settings) -> list[str]:
    """Return why no process can go on with the namespace.

    Who may only create topics learns it from a process.
    """
    try:
        return asyncio.run(namespace_problems(settings))
    except KafkaRefused:
        return []


def skip(record_id: str, /, *, yes: bool = False, common: Common = COMMON) -> int:
    """Skip unreadable records: those that are damaged or in an unknown format.

    Their partition then continues. The processes that read the topic may run, and pass the records
    within seconds. Readable records are never skipped.

    example:
      stream-app skip leads/0/15

    Args:
        record_id: topic/partition/offset from the error message
        yes: do not ask for confirmation
    """
    settings = common.settings()
    batch = on_kafka(settings, "skip", unreadable.find_unreadable(settings, record_id))
    where = f"{batch.topic}/{batch.partition}, offsets {batch.first} to {batch.last}"
    confirm(f"lose the records at {where} ({batch.cause})", yes=yes)
    passed = on_kafka(settings, "skip", unreadable.skip(settings, batch))
    common.show(
        {
            "topic": batch.topic,
            "partition": batch.partition,
            "first": batch.first,
            "last": batch.last,
        },
        f"skipped {where}; the {'process' if passed else 'next start'} continues at "
        f"{batch.last + 1}",
    )
    return OK


def clay_setup(destination: str, /, *, common: Common = COMMON) -> int:
    """Print the set-up of a Clay table: columns, auto-dedupe, and the HTTP column for callbacks.

    A section says what a workflow in place of the table needs. For a routine, the command prints
    how to open it to the API, its inputs and outputs, its key, and its completion webhook.

    example:
      stream-app clay-setup people

    Args:
        destination: alias of the table or routine in the configuration
    """
    setup = plan.clay_setup(common.settings(), destination)
    lines = _setup_lines if setup["routine"] is None else _routine_lines
    common.show(setup, *lines(setup))
    return OK


def _setup_lines(setup: dict[str, Any]) -> list[str]:
    webhook = setup["webhook"]
    http = setup["http_column"]
    width = max(len(column["name"]) for column in webhook["columns"])
    token = (
        (
            f"   Authentication: header {webhook['token_header']}, its value in "
            f"{webhook['token_variable']}."
        )
        if webhook["token_header"]
        else "   Authentication: none is configured (token_env); better set one."
    )
    lines = [
        f"Table {setup['destination']} in workspace {setup['workspace']}",
        "",
        "1. Source: webhook",
        (
            "   Put its URL into the environment variable "
            f"{' and one more into '.join(webhook['url_variables'])}."
        ),
        token,
        "   Columns:",
        *(f"     {column['name']:{width}}  {column['holds']}" for column in webhook["columns"]),
        "",
        "2. Auto-dedupe",
        f"   On the column {setup['dedupe_column']}: {setup['dedupe_advice']}.",
        "",
    ]
    if http is None:
        lines += ["3. No HTTP column: this destination has callbacks = false."]
    else:
        lines += [
            "3. HTTP API column, the last one ({{name}}: insert that column with /)",
            *_call_lines(http),
            *(f"   - {line}" for line in http["advice"]),
        ]
    return [*lines, "", *_workflow_lines(setup)]


def _routine_lines(setup: dict[str, Any]) -> list[str]:
    routine = setup["routine"]
    announced = routine["completion_webhook"]
    width = max(len(one["name"]) for one in routine["inputs"])
    lines = [
        f"Routine {setup['destination']} in workspace {setup['workspace']}",
        "",
        "1. Open it to the API",
        f"   {routine['open']}",
        f"   Its id has to be {routine['id']}, which is what `routine` says.",
        "",
        "2. Inputs, with exactly these names",
        *(f"     {one['name']:{width}}  {one['holds']}" for one in routine["inputs"]),
        "   Clay refuses a run in which an input is missing that the routine requires.",
        "",
        f"3. Outputs: map the results in {routine['output_step']}",
        *(f"   - {line}" for line in routine["advice"]),
        "",
        "4. Key",
        "   Make one under Settings, Account, API keys. It is for this workspace alone.",
        f"   Put it into the environment variable {routine['key_variable']}.",
        "",
        "5. Completion webhook, if Clay can reach you (optional)",
    ]
    if announced["command"] is None:
        return [
            *lines,
            "   It needs gateway.public_url, which is not set. Results are found without it, but",
            "   a lead whose answer was lost then waits for a person.",
        ]
    lines += [
        f"   {announced['command']}",
        "   It prints an id, which `run_webhook` has to name, and once a secret, which belongs",
    ]
    if announced["id"] is None:
        return [*lines, "   into a variable that `run_webhook_secret_env` names."]
    return [
        *lines,
        f"   into {announced['secret_variable']}. The configuration names {announced['id']}.",
        "   Try it with: clay webhooks test " + announced["id"],
    ]


def _workflow_lines(setup: dict[str, Any]) -> list[str]:
    """Return what a workflow needs that takes the leads in place of the table."""
    webhook = setup["webhook"]
    workflow = setup["workflow"]
    step = workflow["http_step"]
    token = " Nothing authenticates, so remove token_env." if webhook["token_header"] else ""
    lines = [
        f"In place of the table: a workflow in workspace {setup['workspace']}",
        "",
        f"1. Trigger: {workflow['trigger']}",
        (
            "   Put its URL into the environment variable "
            f"{' and one more into '.join(webhook['url_variables'])}."
        ),
        f"   It ends in {workflow['path']}, and is the secret.{token}",
        "   Its sample payload, which defines the inputs:",
        *(f"     {line}" for line in json.dumps(workflow["sample"], indent=2).splitlines()),
        "",
    ]
    if step is None:
        lines += ["2. No HTTP step: this destination has callbacks = false."]
    else:
        lines += [
            "2. HTTP step, the last one ({{name}}: insert that value)",
            *_call_lines(step),
            "   - title and company_size are examples: use your own names.",
            "   - Each way has to end with it: a lead without a callback counts as lost.",
        ]
    return [
        *lines,
        "",
        "3. Publish it: until then, and while it is paused, its leads wait (webhook_out).",
    ]


def _call_lines(call: dict[str, Any]) -> list[str]:
    return [
        f"   Method   {call['method']}",
        f"   URL      {call['url']}",
        *(f"   Header   {name}: {value}" for name, value in call["headers"].items()),
        "   Body",
        *(f"     {line}" for line in json.dumps(call["body"], indent=2).splitlines()),
    ]
