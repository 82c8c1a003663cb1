"""The alerting rules that are deployed."""

import yaml

from tests.repository.deployed import ROOT

RULES = ROOT / "deploy/alerts.yml"
RULE = {
    rule["alert"]: rule
    for group in yaml.safe_load(RULES.read_text())["groups"]
    for rule in group["rules"]
}
