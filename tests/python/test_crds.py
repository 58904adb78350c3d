"""Custom resources validated by the projects' own schemas, with the patterns, limits and enumerations that the handwritten
crds.yaml omits. No registry has Envoy Gateway's schemas, so only crds.yaml covers those."""

import json
import os
import subprocess
import sysconfig
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from test_manifests import COMPONENTS, CRDS, KUBERNETES, kustomize

NODE = Path(sysconfig.get_path("scripts")) / "node"
PACKAGES = ROOT / "tests" / ".cache" / "crds"
OURS_ALONE = "gateway.envoyproxy.io/"


def refused(items):
    command = [str(NODE), str(ROOT / "tests" / "python" / "crds.mjs"), str(PACKAGES)]
    done = subprocess.run(
        command, input=json.dumps(items), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def resources(tmp_path_factory):
    """Custom resources of all components together."""
    place = tmp_path_factory.mktemp("overlay")
    components = [os.path.relpath(KUBERNETES / "components" / name, place.resolve()) for name in COMPONENTS]
    base = os.path.relpath(KUBERNETES / "base", place.resolve())
    file = {"kind": "Kustomization", "resources": [base], "components": components}
    (place / "kustomization.yaml").write_text(yaml.safe_dump(file))
    kinds = {kind for kind in CRDS if not kind.startswith(("$", OURS_ALONE))}
    found = [item for item in kustomize(place) if f"{item['apiVersion']}/{item['kind']}" in kinds]
    assert {f"{item['apiVersion']}/{item['kind']}" for item in found} == kinds
    return found


def test_the_projects_own_schemas_take_every_custom_resource(resources):
    for item, faults in zip(resources, refused(resources), strict=True):
        assert not faults, f"{item['kind']} {item['metadata']['name']}: {faults}"


@pytest.mark.parametrize(
    "kind, path, value",
    [
        ("GRPCRoute", ("spec", "rules", 0, "backendRefs", 0, "port"), 99999),
        ("Certificate", ("spec", "privateKey", "algorithm"), "ecdsa"),
        ("PrometheusRule", ("spec", "groups", 0, "rules", 0, "for"), "5 minutes"),
        ("ServiceMonitor", ("spec", "endpoints", 0, "interval"), "15"),
    ],
)
def test_they_see_a_wrong_value(resources, kind, path, value):
    item = json.loads(json.dumps(next(item for item in resources if item["kind"] == kind)))
    place = item
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    ((fault, *_),) = refused([item])
    assert path[-1] in fault
