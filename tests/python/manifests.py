"""The manifests of deploy/kubernetes as `kubectl kustomize` renders them, and what the server reads from them."""

import functools
import itertools
import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml
from conftest import BINARY, ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("single", "fleet")
COMPONENTS = tuple(sorted(path.name for path in (KUBERNETES / "components").iterdir()))


def kustomize(path):
    done = subprocess.run(["kubectl", "kustomize", str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{path}: {done.stderr}"
    assert "deprecated" not in done.stderr, done.stderr
    return [item for item in yaml.safe_load_all(done.stdout) if item]


def combinations():
    """Each component alone, each pair in both orders, and all components with the fleet first and last."""
    for count in (0, 1, 2):
        yield from itertools.permutations(COMPONENTS, count)
    others = tuple(name for name in COMPONENTS if name != "fleet")
    yield from (("fleet", *others), (*others, "fleet"))


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """Objects of every overlay and every combination of components, by name."""
    places = {f"overlays/{name}": KUBERNETES / "overlays" / name for name in OVERLAYS}
    for names in combinations():
        place = tmp_path_factory.mktemp("overlay")
        components = [os.path.relpath(KUBERNETES / "components" / name, place.resolve()) for name in names]
        base = os.path.relpath(KUBERNETES / "base", place.resolve())
        file = {"kind": "Kustomization", "resources": [base], "components": components}
        (place / "kustomization.yaml").write_text(yaml.safe_dump(file))
        places["+".join(("base", *names))] = place
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(places, pool.map(kustomize, places.values()), strict=True))


def each(rendered, *kinds):
    for name, objects in rendered.items():
        for item in objects:
            if not kinds or item["kind"] in kinds:
                yield name, item


WORKLOADS = ("StatefulSet", "Deployment", "Job", "CronJob")


def template(item):
    """The pod template of a workload."""
    spec = item["spec"]
    return spec["jobTemplate"]["spec"]["template"] if item["kind"] == "CronJob" else spec["template"]


def pods(rendered):
    for name, item in each(rendered, *WORKLOADS):
        yield f"{name}: {item['kind']} {item['metadata']['name']}", template(item)


def streamway(rendered):
    """Streamway's pod in each rendering, and its variables from the ConfigMap."""
    for name, objects in rendered.items():
        maps = {item["metadata"]["name"]: item["data"] for item in objects if item["kind"] == "ConfigMap"}
        found = [item for item in objects if item["kind"] in ("StatefulSet", "Deployment")]
        (item,) = [item for item in found if item["metadata"]["name"] == "streamway"]
        (container,) = item["spec"]["template"]["spec"]["containers"]
        (source,) = container["envFrom"]
        yield name, item, container, maps[source["configMapRef"]["name"]]


@functools.cache
def settings(variables):
    """The configuration that the server reads from these variables. It refuses a wrong one."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("STREAMWAY_", "OTEL_"))}
    # The files are only in the pod. An empty variable counts as unset, and the server still refuses an unknown name.
    given = {name: "" if value.startswith("/etc/") else value for name, value in variables}
    done = subprocess.run(
        [str(BINARY), "serve", "--check-config"],
        env={**kept, **given},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = (re.split(r"  +", line.strip()) for line in done.stdout.splitlines()[1:])
    return {row[0]: row[1] for row in rows if len(row) == 3}


def of(variables):
    return settings(tuple(sorted(variables.items())))


def seconds(text):
    return float(re.fullmatch(r"([0-9.]+)s", text)[1])


def bytes_of(text):
    number, unit = re.fullmatch(r"([0-9]+)(Ki|Mi|Gi)B?", text).groups()
    return int(number) << {"Ki": 10, "Mi": 20, "Gi": 30}[unit]
