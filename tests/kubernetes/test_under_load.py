"""Restarts, drains and upgrades under load, done as docs/deploy.md says: nothing is lost or repeated, and no call fails but with
UNAVAILABLE.
"""

import pytest
from images import RELEASED
from installed import Traffic, kustomization

OLD = {"images": [{"name": "streamway", "newTag": RELEASED.split(":")[1]}]}


@pytest.fixture
def load(place):
    """Starts traffic through the Service and to single pods, and ends it where the test fails."""
    started = []

    def start(topic):
        started.append(Traffic(place, topic))
        started[0].goes_on()
        return started[0]

    yield start
    for traffic in started:
        traffic.stop()


def images(place, selector):
    pods = place.json("get", "pods", "-l", selector)["items"]
    return {pod["spec"]["containers"][0]["image"] for pod in pods if "deletionTimestamp" not in pod["metadata"]}


def applied(place, directory):
    """Applies once the Job of the last time is deleted, as it cannot be changed."""
    place.kubectl("wait", "--for=delete", "job/streamway-credentials", "--timeout=60s")
    place.apply(directory)


def test_a_fleet_is_upgraded_restarted_drained_and_rolled_back(place, load, tmp_path):
    labelled = {"labels": [{"pairs": {"namespace": place.name}, "includeTemplates": True}]}
    released = kustomization(tmp_path / "released", "overlays/fleet", **OLD, **labelled)
    current = kustomization(tmp_path / "current", "overlays/fleet", **labelled)
    replicas = "app.kubernetes.io/component=replica"
    place.apply(released)
    place.ready("statefulset/streamway-nats", "deployment/streamway")
    assert images(place, replicas) == {RELEASED}
    traffic = load("orders")

    applied(place, current)
    place.ready("deployment/streamway")
    assert images(place, replicas) == {"streamway:0.1.0"}
    traffic.goes_on()

    place.kubectl("rollout", "restart", "deployment/streamway")
    place.ready("deployment/streamway")
    traffic.goes_on()

    drained = place.json("get", "pods", "-l", replicas)["items"][0]["spec"]["nodeName"]
    # Other tests have pods on the node.
    own = [f"--pod-selector=namespace={place.name}", "--delete-emptydir-data", "--timeout=240s"]
    try:
        place.cluster.kubectl("drain", drained, *own)
        place.ready("deployment/streamway")
        traffic.goes_on()
    finally:
        place.cluster.kubectl("uncordon", drained)
    place.ready("statefulset/streamway-nats")

    applied(place, released)
    place.ready("deployment/streamway")
    assert images(place, replicas) == {RELEASED}
    traffic.goes_on()
    assert traffic.settle()["records"] > 100


def test_one_server_is_upgraded_and_restarted(place, load, tmp_path):
    place.apply(kustomization(tmp_path / "released", "overlays/single", **OLD))
    place.ready("statefulset/streamway")
    traffic = load("orders")
    place.apply(kustomization(tmp_path / "current", "overlays/single"))
    place.ready("statefulset/streamway")
    assert images(place, "app.kubernetes.io/component=server") == {"streamway:0.1.0"}
    traffic.goes_on()
    place.kubectl("rollout", "restart", "statefulset/streamway")
    place.ready("statefulset/streamway")
    traffic.goes_on()
    assert traffic.settle()["records"] > 100
