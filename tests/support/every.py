"""The command line of each process and command that uses Kafka, by its name in `kafka.rights`."""

from pathlib import Path
from typing import Final

PROCESSES: Final = ("worker", "replay", "gateway", "board", "trace")

COMMANDS: Final[dict[str, str]] = {
    "publish": "publish {leads} --yes",
    "publish --bulk": "publish {leads} --bulk --yes",
    "publish --wait": "publish {leads} --yes --wait 60",
    "publish --bulk --wait": "publish {leads} --bulk --yes --wait 60",
    "results": "results -o {folder}/results.csv",
    "results --join": "results --join {leads} -o {folder}/joined.csv",
    "books": "books",
    "lanes": "lanes",
    "lanes log": "lanes log",
    "lanes ORDER": "lanes pause w0 --why test",
    "explain": "explain",
    "suppress list": "suppress list",
    "suppress add": "suppress add ada@example.com --why test",
    "suppress remove": "suppress remove ada@example.com --why test",
    "erase": "erase grace@example.com --yes --why test",
    "dlq": "dlq",
    "dlq show": "dlq show {namespace}leads.dlq/0/0",
    "dlq export": "dlq export {folder}/dead-letters.jsonl",
    "replay plan": "replay plan",
    "replay select": "replay select --yes",
    "replay redrive": "replay redrive --yes",
    "dlq give-up": "dlq give-up --reason not_json --why test --yes",
    "replay pause": "replay pause --why test",
    "replay resume": "replay resume",
    "replay stop": "replay stop r-0",
    "replay list": "replay list",
    "skip": "skip {namespace}leads/0/0 --yes",
}


def typed(program: str, folder: Path, namespace: str = "") -> list[str]:
    """Return its arguments. The file that it reads is written to `folder`."""
    leads = folder / "leads.csv"
    leads.write_text("lead_id,email,first_name,workspace\ncrm-1,ada@example.com,Ada,w0\n")
    return COMMANDS[program].format(leads=leads, folder=folder, namespace=namespace).split()


def on_its_own(argv: list[str], config: Path) -> list[str]:
    """Return the same arguments with its configuration after the command's first word."""
    return [argv[0], "--config", str(config), *argv[1:]]
