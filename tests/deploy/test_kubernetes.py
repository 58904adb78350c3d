"""The overlays on a real Kubernetes of two nodes, installed as README and docs/deploy.md say, in namespaces that enforce the pod
security standard `restricted`. Only a soak runs this: the first build of Kubernetes takes a quarter of an hour of processor time.

TESTS_IMAGES names a `docker save` of streamway and nats to use in place of building them.
"""

import base64
import json
import os
import pathlib
import re
import secrets
import subprocess
import tomllib

import pytest
import yaml
from engine import CACHE, IMAGE, ROOT, wait
from test_rolling import BINARY

CLUSTER = pathlib.Path(__file__).with_name("cluster")
KUBERNETES = ROOT / "deploy" / "kubernetes"
INSTALLS = 20 if os.environ.get("TESTS_SOAK") else 2
READY_SECONDS = 180
# The cluster has no definitions of other projects' objects. The tests make their Secrets.
FOREIGN = ("cert-manager.io", "monitoring.coreos.com", "gateway")


class Cluster:
    def run(self, *arguments, text=None, check=True, timeout=300):
        done = subprocess.run(
            [str(CLUSTER), *map(str, arguments)], input=text, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert not check or done.returncode == 0, f"{arguments}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def succeeds(self, *arguments):
        done = subprocess.run([str(CLUSTER), *map(str, arguments)], capture_output=True, timeout=60, check=False)
        return done.returncode == 0

    def kubectl(self, *arguments, **more):
        return self.run("kubectl", *arguments, **more)

    def json(self, *arguments):
        return json.loads(self.kubectl(*arguments, "-o", "json"))


@pytest.fixture(scope="module")
def images(request, tmp_path_factory):
    if "TESTS_IMAGES" in os.environ:
        return pathlib.Path(os.environ["TESTS_IMAGES"])
    engine = request.getfixturevalue("engine")
    version = re.findall(r"image: (nats:.*)", (KUBERNETES / "fleet.yaml").read_text())[0]
    engine.take_in(CACHE / "peers.tar", version, ['ENTRYPOINT ["/usr/local/bin/nats-server"]'])
    engine.docker("tag", IMAGE, "streamway:0.1.0")
    place = tmp_path_factory.mktemp("images") / "images.tar"
    engine.docker("save", "-o", place, "streamway:0.1.0", version, timeout=600)
    return place


@pytest.fixture(scope="module")
def cluster(images):
    cluster = Cluster()
    cluster.run("build", timeout=3600)
    try:
        cluster.run("up", 2)
        cluster.run("load", images, timeout=900)
        yield cluster
    finally:
        cluster.run("down", check=False)


class Installed:
    """A new namespace that enforces `restricted`."""

    def __init__(self, cluster):
        self.cluster, self.name = cluster, f"t{secrets.token_hex(4)}"
        cluster.kubectl("create", "namespace", self.name)
        cluster.kubectl("label", "namespace", self.name, "pod-security.kubernetes.io/enforce=restricted")

    def kubectl(self, *arguments, **more):
        return self.cluster.kubectl("-n", self.name, *arguments, **more)

    def ready(self, kind):
        try:
            self.kubectl("rollout", "status", kind, f"--timeout={READY_SECONDS}s", timeout=READY_SECONDS + 30)
        except AssertionError:
            print(self.kubectl("get", "pods,jobs,events", check=False))
            print(self.kubectl("logs", "--tail=20", "--prefix", "-l", "app.kubernetes.io/part-of=streamway", check=False))
            raise

    def address(self):
        return f"{self.cluster.json('-n', self.name, 'get', 'service', 'streamway')['spec']['clusterIP']}:50051"

    def streamway(self, *command, text="", environment=()):
        """Runs the command line in a node's network, from where Services can be reached."""
        words = ["node", 1, "env", *environment, BINARY, *command]
        return self.cluster.run(*words, text=text)

    def serves(self, scheme="http", more=(), environment=()):
        server = ["--server", f"{scheme}://{self.address()}", *more]
        # The nodes learn of ready pods with a delay.
        answers = ["node", 1, "env", *environment, BINARY, "topics", "list", *server]
        wait("the Service", lambda: self.cluster.succeeds(*answers), every=0.5)
        self.streamway("publish", "greetings", *server, text="hello\nworld\n", environment=environment)
        got = self.streamway("subscribe", "greetings", "--from", "earliest", *server, environment=environment)
        assert got == "hello\nworld\n"

    def remove(self):
        """Removes the namespace, and empties its volumes for the next one."""
        self.cluster.kubectl("delete", "namespace", self.name, "--timeout=120s")
        for volume in self.cluster.json("get", "pv")["items"]:
            if volume["spec"].get("claimRef", {}).get("namespace") == self.name:
                place = pathlib.Path(volume["spec"]["hostPath"]["path"])
                subprocess.run(["find", str(place), "-mindepth", "1", "-delete"], check=True)
                patch = '[{"op": "remove", "path": "/spec/claimRef"}]'
                self.cluster.kubectl("patch", "pv", volume["metadata"]["name"], "--type=json", "-p", patch)


@pytest.fixture
def place(cluster):
    installed = Installed(cluster)
    yield installed
    installed.remove()


def test_one_server_by_the_command_of_the_readme(place):
    place.kubectl("apply", "-k", KUBERNETES / "overlays" / "single")
    place.ready("statefulset/streamway")
    place.serves()


def test_a_fleet_by_the_command_of_the_readme_and_nobody_else_in_its_nats(place):
    place.kubectl("apply", "-k", KUBERNETES / "overlays" / "fleet")
    place.ready("statefulset/streamway-nats")
    place.ready("deployment/streamway")
    place.serves()
    for server in range(3):
        said = stranger(place, f"streamway-nats-{server}.streamway-nats")
        assert said.count("Authorization Violation") == 2, said
    # Applying again, even after the Job is deleted, keeps the credentials.
    before = place.kubectl("get", "secret", "streamway-nats", "-o", "jsonpath={.data}")
    place.kubectl("delete", "job", "streamway-credentials")
    place.kubectl("apply", "-k", KUBERNETES / "overlays" / "fleet")
    place.kubectl("wait", "--for=condition=complete", "job/streamway-credentials", "--timeout=60s")
    assert "already in" in place.kubectl("logs", "job/streamway-credentials")
    assert place.kubectl("get", "secret", "streamway-nats", "-o", "jsonpath={.data}") == before


def stranger(place, host):
    """Answers of NATS to a pod without credentials, on the port for clients and on the port for routes."""
    script = (
        "for port in 4222 6222; do exec 3<>/dev/tcp/" + host + "/$port; read -r -u 3 hello; "
        "printf 'CONNECT {}\\r\\nPING\\r\\n' >&3; timeout 10 cat <&3; exec 3>&-; done"
    )
    name = f"stranger-{secrets.token_hex(3)}"
    image = re.findall(r"image: (nats:.*)", (KUBERNETES / "fleet.yaml").read_text())[0]
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "stranger", "image": image, "command": ["bash", "-c", script],
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    }
    place.kubectl("apply", "-f", "-", text=json.dumps(pod))
    wait("its end", lambda: place.kubectl("get", "pod", name, "-o", "jsonpath={.status.phase}") in ("Succeeded", "Failed"))
    return place.kubectl("logs", name)


def secret(place, name, files):
    data = {key: base64.b64encode(value).decode() for key, value in files.items()}
    item = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}
    place.kubectl("apply", "-f", "-", text=json.dumps(item))


def certificates(place, tmp_path):
    """Makes the Secrets of cert-manager by openssl; returns the CA's file."""
    def openssl(*arguments):
        subprocess.run(["openssl", *map(str, arguments)], cwd=tmp_path, capture_output=True, check=True)

    new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl(*new, "-x509", "-days", 2, "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.crt")
    nats = [f"streamway-nats-{n}.streamway-nats" for n in range(3)]
    for name, hosts in (("streamway-tls", ["streamway"]), ("streamway-nats-tls", nats)):
        names = ",".join(f"DNS:{host}" for host in hosts)
        (tmp_path / "extensions").write_text(f"subjectAltName={names}\nextendedKeyUsage=serverAuth,clientAuth\n")
        openssl(*new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        sign = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", 2, "-extfile", "extensions"]
        openssl("x509", "-req", "-in", f"{name}.csr", *sign, "-out", f"{name}.crt")
        files = {"tls.crt": f"{name}.crt", "tls.key": f"{name}.key", "ca.crt": "ca.crt"}
        secret(place, name, {key: (tmp_path / file).read_bytes() for key, file in files.items()})
    return tmp_path / "ca.crt"


def overlay(place, tmp_path, components):
    """Applies the base with these components, without objects that need other projects' definitions."""
    at = tmp_path / "overlay"
    at.mkdir(exist_ok=True)
    relative = os.path.relpath(KUBERNETES, at.resolve())
    file = {"resources": [f"{relative}/base"], "components": [f"{relative}/components/{name}" for name in components]}
    (at / "kustomization.yaml").write_text(yaml.safe_dump(file))
    done = subprocess.run(["kubectl", "kustomize", str(at)], capture_output=True, text=True, check=True)
    items = [item for item in yaml.safe_load_all(done.stdout) if item and not item["apiVersion"].startswith(FOREIGN)]
    place.kubectl("apply", "-f", "-", text=yaml.safe_dump_all(items))


@pytest.mark.parametrize("fleet", [False, True], ids=["single", "fleet"])
def test_with_every_component(place, tmp_path, fleet):
    """TLS on the port, to NATS and between its servers, tokens, a policy, telemetry, and all other components at once."""
    ca = certificates(place, tmp_path)
    made = subprocess.run([BINARY, "token", "billing"], capture_output=True, text=True, check=True).stdout
    token, line = made.splitlines()
    assert tomllib.loads(line)
    secret(place, "streamway-auth", {"tokens.toml": line.encode()})
    components = ["ha", "tls", "auth", "otel", "networkpolicy", "monitoring", "gateway"]
    overlay(place, tmp_path, ["fleet", *components] if fleet else components)
    if fleet:
        place.ready("statefulset/streamway-nats")
    place.ready("deployment/streamway" if fleet else "statefulset/streamway")
    tls = ["--tls-ca", ca, "--tls-server-name", "streamway"]
    place.serves("https", tls, [f"STREAMWAY_TOKEN={token}"])
    denied = place.cluster.run(
        "node", 1, "env", f"STREAMWAY_TOKEN={token}", BINARY, "topics", "delete", "greetings",
        "--server", f"https://{place.address()}", *tls, check=False,
    )
    assert "greetings" not in denied, "a caller that is not admin deletes nothing"
    if fleet:
        log = place.kubectl("logs", "streamway-nats-0", "-c", "nats")
        assert "TLS required for client connections" in log, log


def test_new_fleets_become_ready(cluster):
    """A soak installs 20. With nats-server 2.10.27, 6 of 14 never became ready."""
    for number in range(INSTALLS):
        place = Installed(cluster)
        place.kubectl("apply", "-f", KUBERNETES / "fleet.yaml")
        place.ready("deployment/streamway")
        place.remove()
        print(f"fleet {number + 1} of {INSTALLS} became ready", flush=True)
