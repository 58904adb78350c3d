"""The Helm chart and the kustomizations are one truth: their objects are equal, but for Helm's labels and kustomize's hashes."""

import json
import os
import re

import pytest
import yaml
from test_helm import AUTH, BACKUP, FLEET, GATEWAY, HTTP, MONITORING, OTEL, SETS, TLS, template
from test_manifests import COMPONENTS, KUBERNETES, kustomize

NO_POLICY = ("networkPolicy.enabled=false",)
# The values for each kustomization. The fleets have the components of the overlay in the order of docs/deploy.md.
SAME = {
    "overlays/single": (),
    "overlays/fleet": FLEET,
    "base": NO_POLICY,
    "base+networkpolicy": (),
    "base+tls": (*NO_POLICY, *TLS),
    "base+auth": (*NO_POLICY, *AUTH),
    "base+otel": (*NO_POLICY, *OTEL),
    "base+backup": (*NO_POLICY, *BACKUP),
    "base+monitoring": (*NO_POLICY, *MONITORING),
    "base+gateway": (*NO_POLICY, *GATEWAY),
    "base+http": (*NO_POLICY, *HTTP),
    "base+fleet+ha+networkpolicy+http": (*FLEET, *HTTP),
    "base+fleet+ha+networkpolicy+tls": (*FLEET, *TLS),
    "base+fleet+ha+networkpolicy+auth": (*FLEET, *AUTH),
    "base+fleet+ha+networkpolicy+otel": (*FLEET, *OTEL),
    "base+fleet+ha+networkpolicy+backup": (*FLEET, *BACKUP),
    "base+fleet+ha+networkpolicy+monitoring": (*FLEET, *MONITORING),
    "base+fleet+ha+networkpolicy+gateway": (*FLEET, *GATEWAY),
    # The job of the component `backup` knows nothing of TLS.
    "base+fleet+ha+networkpolicy+tls+auth+otel+monitoring+gateway": (*SETS["fleet with everything"], "backup.enabled=false"),
}


def test_every_component_is_compared():
    assert set(COMPONENTS) == {component for name in SAME for component in name.split("+")[1:]}


def kustomized(name, place):
    if name.startswith("overlays/"):
        return kustomize(KUBERNETES / name)
    base, *components = name.split("+")
    paths = [os.path.relpath(KUBERNETES / "components" / component, place.resolve()) for component in components]
    file = {"kind": "Kustomization", "resources": [os.path.relpath(KUBERNETES / base, place.resolve())], "components": paths}
    (place / "kustomization.yaml").write_text(yaml.safe_dump(file))
    return kustomize(place)


def without_hashes(objects):
    """Objects with the names of their ConfigMaps as they were before kustomize appended a hash."""
    text = json.dumps(objects)
    for name in {item["metadata"]["name"] for item in objects if item["kind"] == "ConfigMap"}:
        text = text.replace(f'"{name}"', json.dumps(re.sub(r"-[bcdfghkmt2456789]{10}$", "", name)))
    return json.loads(text)


def without_nats(objects):
    """What the components of one server say about NATS, because a component cannot know whether `fleet` is beside it."""
    kept = [item for item in objects if (item["kind"], item["metadata"]["name"]) != ("Certificate", "streamway-nats")]
    for item in kept:
        if item["kind"] == "StatefulSet":
            pod = item["spec"]["template"]["spec"]
            for place in (pod, pod["containers"][0]):
                key = "volumes" if place is pod else "volumeMounts"
                if key in place:
                    place[key] = [one for one in place[key] if one["name"] != "nats-tls"]
        if item["kind"] == "NetworkPolicy":
            item["spec"]["egress"] = [rule for rule in item["spec"]["egress"] if rule["ports"][0]["port"] != 4222]
        if item["kind"] == "ConfigMap":
            item["data"].pop("STREAMWAY_NATS_TLS_CA", None)
    return kept


def plain(item):
    """An object without what only Helm adds, without comments in files, and with named things in the order of their names."""
    if isinstance(item, list):
        items = [plain(one) for one in item]
        named = items and all(isinstance(one, dict) for one in items)
        return sorted(items, key=lambda one: json.dumps(one, sort_keys=True)) if named else items
    if isinstance(item, str):
        return re.sub(r"^ *#.*\n|\n$", "", item, flags=re.MULTILINE) if "\n" in item else item
    if not isinstance(item, dict):
        return item
    ours = ("helm.sh/", "checksum/", "app.kubernetes.io/managed-by")
    kept = {key: plain(value) for key, value in item.items() if not key.startswith(ours)}
    return {key: value for key, value in kept.items() if key != "annotations" or value}


def is_test(item):
    return item["metadata"].get("annotations", {}).get("helm.sh/hook") == "test"


def by_id(objects):
    """Objects by kind and name. kustomize gives no labels to the ConfigMaps that it generates."""
    found = {(item["kind"], item["metadata"]["name"]): plain(item) for item in objects}
    for (kind, _), item in found.items():
        if kind == "ConfigMap":
            item["metadata"]["labels"] = {"grafana_dashboard": item["metadata"].get("labels", {}).get("grafana_dashboard")}
    return found


@pytest.mark.parametrize("name", SAME)
def test_the_chart_and_the_kustomization_are_the_same(name, tmp_path):
    # The chart has no claim for backups, as `helm --wait` would wait for its volume.
    theirs = [item for item in without_hashes(kustomized(name, tmp_path)) if item["kind"] != "PersistentVolumeClaim"]
    if "fleet" not in name:
        theirs = without_nats(theirs)
    theirs, ours = by_id(theirs), by_id(item for item in template(*SAME[name]) if not is_test(item))
    assert ours.keys() == theirs.keys()
    for key in theirs:
        assert ours[key] == theirs[key], f"{name}: {key}"
