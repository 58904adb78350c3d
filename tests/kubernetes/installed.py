"""The cluster, and what a test installs in a namespace of it."""

import json
import os
import pathlib
import secrets
import subprocess
import sys

import yaml
from engine import ROOT, wait

CLUSTER = pathlib.Path(__file__).with_name("cluster")
KUBERNETES = ROOT / "deploy" / "kubernetes"
BINARY = pathlib.Path(os.environ.get("TESTS_BINARY", ROOT / "target" / "release" / "streamway"))
READY_SECONDS = 300


class Cluster:
    # With two, a node's drain would wait for the two NATS servers that one of them has.
    NODES = 3

    def run(self, *arguments, text=None, check=True, timeout=300):
        """Standard output of tests/kubernetes/cluster with these arguments."""
        done = self.call(*arguments, text=text, timeout=timeout)
        assert not check or done.returncode == 0, f"{arguments}:\n{done.stdout}{done.stderr}"
        return done.stdout

    @staticmethod
    def call(*arguments, text=None, timeout=300):
        return subprocess.run(
            [str(CLUSTER), *map(str, arguments)], input=text, capture_output=True, text=True, timeout=timeout, check=False
        )

    def kubectl(self, *arguments, **more):
        return self.run("kubectl", *arguments, **more)

    def json(self, *arguments):
        return json.loads(self.kubectl(*arguments, "-o", "json"))


class Installed:
    """A namespace that enforces `restricted`, and warns of what violates it."""

    def __init__(self, cluster, quota=None):
        self.cluster, self.name = cluster, f"t{secrets.token_hex(4)}"
        cluster.kubectl("create", "namespace", self.name)
        standard = [f"pod-security.kubernetes.io/{mode}=restricted" for mode in ("enforce", "warn")]
        cluster.kubectl("label", "namespace", self.name, *standard)
        if quota:
            self.kubectl("create", "quota", "quota", f"--hard={quota}")

    def kubectl(self, *arguments, **more):
        return self.cluster.kubectl("-n", self.name, *arguments, **more)

    def json(self, *arguments):
        return self.cluster.json("-n", self.name, *arguments)

    def apply(self, directory):
        """Applies a kustomization without a warning; returns what was said of each object: name → `created` and the like."""
        done = self.cluster.call("kubectl", "-n", self.name, "apply", "-k", directory)
        assert done.returncode == 0 and not done.stderr, f"{directory}:\n{done.stdout}{done.stderr}"
        return dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())

    def ready(self, *workloads):
        for workload in workloads:
            status = ["rollout", "status", workload, f"--timeout={READY_SECONDS}s"]
            try:
                self.kubectl(*status, timeout=READY_SECONDS + 30)
            except AssertionError:
                print(self.kubectl("get", "pods,jobs,events", "-o", "wide", check=False))
                logs = ["logs", "--tail=20", "--prefix", "--all-containers", "-l", "app.kubernetes.io/part-of=streamway"]
                print(self.kubectl(*logs, check=False))
                raise

    def address(self, service="streamway"):
        return f"{self.json('get', 'service', service)['spec']['clusterIP']}:50051"

    def streamway(self, *command, check=True, text="", environment=()):
        """Runs the command line in a node's network, from where Services can be reached."""
        return self.cluster.run("node", 1, "env", *environment, BINARY, *command, text=text, check=check)

    def serves(self, scheme="http", more=(), environment=()):
        """Publishes through the Service, and reads it back."""
        server = ["--server", f"{scheme}://{self.address()}", *more]
        listing = ["node", 1, "env", *environment, BINARY, "topics", "list", *server]
        # The nodes learn of ready pods with a delay.
        wait("the Service", lambda: self.cluster.call(*listing).returncode == 0, every=0.5)
        self.streamway("publish", "greetings", *server, text="hello\nworld\n", environment=environment)
        got = self.streamway("subscribe", "greetings", "--from", "earliest", *server, environment=environment)
        assert got == "hello\nworld\n"

    def backup(self, name):
        """Makes a backup at once, as docs/backup.md says; returns what the check of its file has said."""
        self.kubectl("create", "job", "--from=cronjob/streamway-backup", name)
        try:
            self.kubectl("wait", "--for=condition=Complete", f"job/{name}", "--timeout=120s")
        except AssertionError:
            print(self.kubectl("logs", f"job/{name}", "--all-containers", "--prefix", check=False))
            raise
        said = self.kubectl("logs", f"job/{name}", "-c", "check")
        assert "whole: every checksum matches" in said, said
        return said

    def remove(self):
        """Removes the namespace, and empties its volumes for the next one."""
        self.cluster.kubectl("delete", "namespace", self.name, "--timeout=240s")
        for volume in self.cluster.json("get", "pv")["items"]:
            if volume["spec"].get("claimRef", {}).get("namespace") == self.name:
                place = pathlib.Path(volume["spec"]["hostPath"]["path"])
                subprocess.run(["find", str(place), "-mindepth", "1", "-delete"], check=True)
                patch = '[{"op": "remove", "path": "/spec/claimRef"}]'
                self.cluster.kubectl("patch", "pv", volume["metadata"]["name"], "--type=json", "-p", patch)


def kustomization(place, resources, components=(), **more):
    """Writes a kustomization of parts of deploy/kubernetes to `place`, and returns it."""
    place.mkdir(exist_ok=True)
    relative = os.path.relpath(KUBERNETES, place.resolve())
    file = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    file["resources"] = [f"{relative}/{resources}"]
    file["components"] = [f"{relative}/components/{name}" for name in components]
    (place / "kustomization.yaml").write_text(yaml.safe_dump(file | more))
    return place


class Traffic:
    """Publishers and subscribers in a process of its own in a node's network; see traffic.py."""

    def __init__(self, installed, topic, service="streamway"):
        headless = f"dns://10.77.0.1:53/{service}-headless.{installed.name}.svc.cluster.local:50051"
        command = [CLUSTER, "node", 1, sys.executable, pathlib.Path(__file__).with_name("traffic.py")]
        command += [topic, f"ipv4:{installed.address(service)}", headless]
        self.process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def goes_on(self):
        """Waits until every publisher has published more, and every subscriber has received more."""
        self.process.stdin.write("go on\n")
        assert self.process.stdout.readline() == "went on\n"

    def settle(self):
        """Ends it. Fails if anything acknowledged was lost or repeated; returns the counts of records and retries."""
        out, _ = self.process.communicate(timeout=180)
        assert self.process.returncode == 0, out
        counts = json.loads(out)
        print(counts)
        other = [said for said in counts["retries"] if not said.startswith("UNAVAILABLE")]
        assert not other, f"calls failed: {other}"
        return counts

    def stop(self):
        self.process.kill()
        self.process.wait()
