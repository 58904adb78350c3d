"""A second apply of every overlay and component changes nothing and warns of nothing. No pod starts, as that takes none."""

import json

import pytest
from installed import KUBERNETES, Installed, kustomization

COMPONENTS = sorted(path.name for path in (KUBERNETES / "components").iterdir())
OTHERS = [name for name in COMPONENTS if name != "fleet"]
# The objects of other projects, which take any content here. tests/python holds it against their definitions.
FOREIGN = [
    ("cert-manager.io", "v1", "Certificate"), ("cert-manager.io", "v1", "Issuer"),
    ("monitoring.coreos.com", "v1", "PrometheusRule"), ("monitoring.coreos.com", "v1", "ServiceMonitor"),
    ("gateway.networking.k8s.io", "v1", "GRPCRoute"), ("gateway.envoyproxy.io", "v1alpha1", "BackendTrafficPolicy"),
]


def definition(group, version, kind):
    plural = f"{kind.lower()[:-1]}ies" if kind.endswith("y") else f"{kind.lower()}s"
    names = {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"}
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    metadata = {"name": f"{plural}.{group}", "annotations": {"api-approved.kubernetes.io": "unapproved, for tests"}}
    spec = {"group": group, "scope": "Namespaced", "names": names}
    spec["versions"] = [{"name": version, "served": True, "storage": True, "schema": schema}]
    return {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": metadata, "spec": spec}


@pytest.fixture(scope="module")
def defined(cluster):
    items = {"apiVersion": "v1", "kind": "List", "items": [definition(*kind) for kind in FOREIGN]}
    cluster.kubectl("apply", "-f", "-", text=json.dumps(items))
    cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
    return cluster


@pytest.mark.parametrize(
    "components",
    [(), ("fleet",), *((name,) for name in OTHERS), *(("fleet", name) for name in OTHERS), tuple(OTHERS), ("fleet", *OTHERS)],
    ids="+".join,
)
def test_a_second_apply_changes_nothing(defined, tmp_path, components):
    applied_twice(defined, kustomization(tmp_path / "overlay", "base", components))


@pytest.mark.parametrize("overlay", ["single", "fleet"])
def test_a_second_apply_of_an_overlay_changes_nothing(cluster, overlay):
    applied_twice(cluster, KUBERNETES / "overlays" / overlay)


def applied_twice(cluster, directory):
    place = Installed(cluster, quota="pods=0")
    first = place.apply(directory)
    assert set(first.values()) == {"created"}, first
    before = generations(place)
    again = place.apply(directory)
    # kubectl always sends the selector of a PodDisruptionBudget, whose patch strategy is to replace it, and calls it configured.
    budgets = {name for name in first if name.startswith("poddisruptionbudget")}
    assert again == dict.fromkeys(first, "unchanged") | dict.fromkeys(budgets, "configured")
    assert generations(place) == before
    # Nothing runs in it, so it may go while other tests run.
    cluster.kubectl("delete", "namespace", place.name, "--wait=false")


def generations(place):
    """Generation of each budget, which counts changes of its specification."""
    return {item["metadata"]["name"]: item["metadata"]["generation"] for item in place.json("get", "pdb")["items"]}
