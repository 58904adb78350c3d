"""Both overlays, installed by the commands of the README, as strangers and neighbours meet them."""

import json
import os
import secrets

from engine import wait
from images import NATS
from installed import KUBERNETES, Installed

INSTALLS = 20 if os.environ.get("TESTS_SOAK") else 1
SINGLE, FLEET = KUBERNETES / "overlays" / "single", KUBERNETES / "overlays" / "fleet"


def test_one_server_and_then_a_fleet_in_one_namespace(place):
    place.apply(SINGLE)
    place.ready("statefulset/streamway")
    place.serves()
    place.apply(FLEET)
    place.ready("statefulset/streamway-nats", "deployment/streamway")
    for service in ("streamway", "streamway-headless"):
        wait("the endpoints of the fleet", lambda service=service: components(place, service) == ["replica"] * 3)
    # The fleet has topics of its own, all of which every publisher reaches.
    server = ["--server", f"http://{place.address()}"]
    for number in range(8):
        place.streamway("publish", "numbers", *server, text=f"{number}\n")
    assert place.streamway("subscribe", "numbers", "--from", "earliest", *server).split() == list("01234567")
    assert place.streamway("topics", "list", *server).split()[0] != "greetings"
    # The one server has kept its pod and its volume, and leads to nobody.
    assert place.json("get", "pod", "streamway-0")["status"]["phase"] == "Running"
    strangers(place)
    credentials_stay(place)


def components(place, service):
    """Components of the pods to which a Service leads."""
    slices = place.json("get", "endpointslices", "-l", f"kubernetes.io/service-name={service}")["items"]
    names = [end["targetRef"]["name"] for one in slices for end in one["endpoints"] or () if end["conditions"]["ready"]]
    pods = {pod["metadata"]["name"]: pod for pod in place.json("get", "pods")["items"]}
    return [pods[name]["metadata"]["labels"]["app.kubernetes.io/component"] for name in names if name in pods]


def strangers(place):
    """NATS refuses a pod without credentials on the port for clients and on the port for routes."""
    for server in range(3):
        said = stranger(place, f"streamway-nats-{server}.streamway-nats")
        assert said.count("Authorization Violation") == 2, said


def stranger(place, host):
    script = (
        "for port in 4222 6222; do exec 3<>/dev/tcp/" + host + "/$port; read -r -u 3 hello; "
        "printf 'CONNECT {}\\r\\nPING\\r\\n' >&3; timeout 10 cat <&3; exec 3>&-; done"
    )
    name = f"stranger-{secrets.token_hex(3)}"
    container = {"name": "stranger", "image": NATS, "command": ["bash", "-c", script]}
    container["securityContext"] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    spec = {"restartPolicy": "Never", "containers": [container]}
    spec["securityContext"] = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
    place.kubectl("apply", "-f", "-", text=json.dumps(pod))
    wait("its end", lambda: place.json("get", "pod", name)["status"]["phase"] in ("Succeeded", "Failed"))
    return place.kubectl("logs", name)


def credentials_stay(place):
    """Applying again, even after the Job is deleted, keeps the credentials."""
    before = place.json("get", "secret", "streamway-nats")["data"]
    place.kubectl("delete", "job", "streamway-credentials", "--ignore-not-found")
    place.apply(FLEET)
    # Its log is there for some seconds after its end.
    logs = ["-n", place.name, "logs", "job/streamway-credentials"]
    wait("the Job", lambda: "already in" in place.cluster.call("kubectl", *logs).stdout, seconds=120, every=0.5)
    assert place.json("get", "secret", "streamway-nats")["data"] == before


def test_new_fleets_become_ready(cluster):
    """A soak installs 20. With nats-server 2.10.27, 6 of 14 never became ready."""
    for number in range(INSTALLS):
        place = Installed(cluster)
        place.kubectl("apply", "-f", KUBERNETES / "fleet.yaml")
        place.ready("deployment/streamway")
        place.remove()
        print(f"fleet {number + 1} of {INSTALLS} became ready", flush=True)
