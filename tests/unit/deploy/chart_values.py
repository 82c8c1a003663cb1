"""Seven sets of values for the chart, as users would write them."""

from typing import Any

CONFIG = """\
secrets_dir = "/run/secrets/stream-app"

[kafka]
bootstrap = "kafka:9092"

[http]
host = "0.0.0.0"

[gateway]
host = "0.0.0.0"
behind_proxy = true
public_url = "https://leads.example.com"
token_keys_env = ["CALLBACK_KEY"]

[board]
host = "0.0.0.0"
behind_proxy = true
url = "https://board.example.com"
token_env = "BOARD_TOKEN"

[workspaces.acme]
budget.credits_per_day = 6000

[destinations.people]
workspace = "acme"
webhooks_env = ["WEBHOOK"]
"""
SMALLEST = {"config": CONFIG, "existingSecret": "leads"}
EVERYWHERE: dict[str, Any] = {
    "podLabels": {"azure.workload.identity/use": "true"},
    "podAnnotations": {"team": "sales"},
    "extraEnv": [
        {"name": "AWS_REGION", "value": "eu-central-1"},
        {"name": "HOST_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
    ],
    "extraVolumes": [{"name": "authority", "configMap": {"name": "authority"}}],
    "extraVolumeMounts": [{"name": "authority", "mountPath": "/etc/authority", "readOnly": True}],
}
"""What a platform may ask of each process."""
INGRESS = {
    "enabled": True,
    "className": "nginx",
    "annotations": {"a/b": "c"},
    "tlsSecretName": "tls",
}
SETS: dict[str, dict[str, Any]] = {
    "smallest": SMALLEST,
    "public": SMALLEST
    | {
        "callbacksIngress": INGRESS | {"host": "leads.example.com"},
        "boardIngress": INGRESS | {"host": "board.example.com"},
    },
    "no-callbacks": SMALLEST | {"gateway": {"enabled": False}, "worker": {"replicas": 5}},
    "volumes": SMALLEST
    | {
        "board": {"persistence": {"enabled": True, "size": "10Gi", "storageClassName": "fast"}},
        "replay": {"replicas": 2},
        "trace": {"enabled": True},
    },
    "private": SMALLEST
    | {
        "image": {"repository": "registry.example.com/leads", "digest": f"sha256:{'a' * 64}"},
        "imagePullSecrets": [{"name": "registry"}],
        "worker": {
            "existingSecret": "webhooks",
            "podAnnotations": {"team": "sales"},
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [{"key": "leads", "operator": "Exists", "effect": "NoSchedule"}],
            "affinity": {"nodeAffinity": {}},
            "priorityClassName": "high",
        },
    },
    # Each process has a Secret of its own, and there is none for all of them.
    "cloud": {
        "config": CONFIG,
        "serviceAccount": {
            "annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/leads"},
        },
        "topics": {"job": {"podLabels": EVERYWHERE["podLabels"]}},
        **{
            name: EVERYWHERE | {"existingSecret": f"leads-{name}"}
            for name in ("worker", "replay", "gateway", "board", "trace")
        },
    },
    "watched": SMALLEST
    | {
        "topics": {"job": {"enabled": False}},
        "monitoring": {
            "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
            "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
            "dashboards": {"enabled": True},
        },
        "networkPolicy": {
            "gatewayFrom": [{"namespaceSelector": {"matchLabels": {"name": "ingress"}}}],
            "boardFrom": [],
            "metricsFrom": [{"podSelector": {"matchLabels": {"app": "prometheus"}}}],
            "egressPorts": [443, 9096],
        },
    },
}
