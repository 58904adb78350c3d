"""The Helm chart by the commands of docs/deploy.md, in their order: installed, tested, upgraded under load, rolled back, given a
larger volume, and uninstalled without the loss of a topic.
"""

import os
import re

import pytest
from engine import ROOT, wait
from images import CURRENT
from installed import BINARY, Traffic

HELM = ROOT / "tests" / ".cache" / "helm" / os.environ.get("TESTS_HELM", "v4")
DOCUMENT = (ROOT / "docs" / "deploy.md").read_text()
BLOCK = re.compile(r"^```(sh|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks():
    """The commands of the section, and the file of values that they name."""
    section = DOCUMENT.split("\n## Helm\n")[1].split("\n## ")[0]
    found = BLOCK.findall(section)
    (values,) = [text for language, text in found if language == "yaml"]
    return [text for language, text in found if language == "sh"], values


class Shell:
    """A shell in a node's network, in a directory where the commands of the document find the chart."""

    def __init__(self, place, directory):
        self.place, self.directory = place, directory
        (directory / "deploy").symlink_to(ROOT / "deploy")

    def here(self, text):
        """A text of the document for this namespace and the image of this cluster."""
        text = text.replace("-n streamway ", f"-n {self.place.name} ").replace("-n streamway\n", f"-n {self.place.name}\n")
        return text.replace("registry.example/streamway", CURRENT.split(":")[0])

    def script(self, commands):
        lines = ["set -euo pipefail", f"cd '{self.directory}'", f"export PATH='{HELM}':\"$PATH\"", self.here(commands)]
        return ["node", 1, "bash", "-c", "\n".join(lines)]

    def run(self, commands):
        return self.place.cluster.run(*self.script(commands), timeout=600)

    def refused(self, commands):
        done = self.place.cluster.call(*self.script(commands), timeout=600)
        assert done.returncode != 0, done.stdout
        return done.stderr


@pytest.fixture
def shell(place, tmp_path):
    commands, values = blocks()
    shell = Shell(place, tmp_path)
    (tmp_path / "fleet.yaml").write_text(shell.here(values))
    # The volumes of this cluster have a fixed size, so a claim only has to be allowed to say another one.
    place.cluster.kubectl("patch", "storageclass", "local", "-p", '{"allowVolumeExpansion": true}')
    shell.install, shell.fleet, shell.upgrade, shell.enlarge, shell.uninstall = commands
    return shell


def uid(place, pod):
    return place.json("get", "pod", pod)["metadata"]["uid"]


def replicas(place):
    """Ids of the replicas that do not end already."""
    found = place.json("get", "pods", "-l", "app.kubernetes.io/component=replica")["items"]
    return {item["metadata"]["uid"] for item in found if "deletionTimestamp" not in item["metadata"]}


def streamway(place, release, *command, text=""):
    """Runs the command line against a release. The nodes learn of ready pods with a delay."""
    server = ["--server", f"http://{place.address(release)}"]
    listing = ["node", 1, BINARY, "topics", "list", *server]
    wait("the Service", lambda: place.cluster.call(*listing).returncode == 0, every=0.5)
    return place.streamway(*command, *server, text=text)


def test_one_server_is_installed_enlarged_and_found_again(place, shell):
    said = shell.run(shell.install)
    assert "rollout status statefulset/streamway" in said and re.search(r"Phase: +Succeeded", said), said
    streamway(place, "streamway", "publish", "letters", text="a\nb\n")
    before = uid(place, "streamway-0")
    *_, upgrade = shell.enlarge.splitlines()
    refusal = shell.refused(upgrade)
    for line in ("patch pvc", "delete statefulset streamway --cascade=orphan"):
        assert line in refusal, refusal
    shell.run(shell.enlarge)
    assert uid(place, "streamway-0") == before, "the pod goes on"
    claim = place.json("get", "statefulset", "streamway")["spec"]["volumeClaimTemplates"][0]
    assert claim["spec"]["resources"]["requests"]["storage"] == "20Gi"
    shell.run(upgrade)
    assert streamway(place, "streamway", "subscribe", "letters", "--from", "earliest") == "a\nb\n"
    shell.run(shell.uninstall.replace(" fleet streamway ", " streamway "))
    wait("the end of the pod", lambda: not place.json("get", "pods")["items"])
    shell.run(f"{shell.install.splitlines()[0]},persistence.size=20Gi\n")
    assert streamway(place, "streamway", "subscribe", "letters", "--from", "earliest") == "a\nb\n"


def test_a_fleet_is_upgraded_and_rolled_back_under_load(place, shell):
    said = shell.run(shell.fleet)
    assert re.search(r"Phase: +Succeeded", said), said
    # The right to create Secrets has gone with the hook.
    assert not place.json("get", "roles,rolebindings,jobs")["items"]
    secret = place.json("get", "secret", "fleet-streamway-nats")
    streamway(place, "fleet-streamway", "topics", "create", "traffic")
    traffic = Traffic(place, "traffic", "fleet-streamway")
    try:
        traffic.goes_on()
        before = replicas(place)
        for command, reflection in zip(shell.upgrade.splitlines(), ("false", None), strict=True):
            shell.run(command)
            settings = place.json("get", "configmap", "fleet-streamway")["data"]
            assert settings.get("STREAMWAY_REFLECTION") == reflection
            traffic.goes_on()
            now = replicas(place)
            assert len(now) == 3 and not now & before, "a changed setting restarts every replica"
            before = now
        traffic.settle()
    finally:
        traffic.stop()
    assert place.json("get", "secret", "fleet-streamway-nats")["data"] == secret["data"]
    shell.run(shell.uninstall.replace(" fleet streamway ", " fleet "))
    wait("the end of the pods", lambda: not place.json("get", "pods")["items"])
    install, _ = shell.fleet.splitlines()
    shell.run(install)
    assert place.json("get", "secret", "fleet-streamway-nats")["data"] == secret["data"]
    assert "traffic" in streamway(place, "fleet-streamway", "topics", "list")


def test_the_commands_are_those_that_are_run_here():
    commands, _ = blocks()
    assert [command.split()[:2] for command in commands] == [
        ["helm", "install"], ["helm", "install"], ["helm", "upgrade"], ["kubectl", "-n"], ["helm", "uninstall"],
    ]  # fmt: skip
