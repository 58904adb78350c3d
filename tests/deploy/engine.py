"""A container engine of the tests' own, started by hand, and the image built by the very Dockerfile.

Never: pulls an image, or speaks to an engine that was there before.
"""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = ROOT / "tests" / ".cache" / "deploy"
IMAGE = "streamway:test"
BUILD_BASE = "streamway-test/build:latest"
PEERS = "streamway-test/peers:latest"
BYTES_MAX = 20_000_000
# Ten times what it takes on two idle cores.
BUILD_SECONDS = 2400
COMMIT = "0123456789abcdef"
RUST = ["ENV PATH=/usr/local/cargo/bin:/usr/sbin:/usr/bin:/sbin:/bin", "ENV CARGO_HOME=/usr/local/cargo"]
RUST += ["ENV RUSTUP_HOME=/usr/local/rustup", "ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"]


def wait(what, condition, seconds=60, every=0.1):
    """What `condition` answers, once it is true."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(every)


class Engine:
    """dockerd, its images kept between runs in tests/.cache."""

    def __init__(self):
        # A socket's path must be short.
        self.place = pathlib.Path(tempfile.mkdtemp(prefix="sw-docker-"))
        self.socket = self.place / "docker.sock"
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("STREAMWAY_")}
        self.environment |= {"DOCKER_HOST": f"unix://{self.socket}", "DOCKER_BUILDKIT": "1"}
        self.environment |= {"DOCKER_CONFIG": str(CACHE / "config")}
        self.log = (CACHE / "dockerd.log").open("w")
        command = ["dockerd", "--data-root", CACHE / "root", "--exec-root", self.place / "exec"]
        command += ["--pidfile", self.place / "pid", "-H", f"unix://{self.socket}"]
        self.process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, start_new_session=True
        )
        try:
            wait("dockerd", lambda: self.docker("version", check=False).returncode == 0)
        except BaseException:
            self.close()
            raise

    def docker(self, *arguments, check=True, timeout=120, text=None, quiet=True, env=None):
        done = subprocess.run(
            ["docker", *map(str, arguments)],
            env=self.environment | (env or {}),
            input=text,
            stdin=None if text is not None else subprocess.DEVNULL,
            capture_output=quiet,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert not check or done.returncode == 0, f"docker {arguments}:\n{done.stdout}{done.stderr}"
        return done

    def take_in(self, tar, name, changes=()):
        """A base image made from a file tree; again only where the file is newer."""
        wanted = f"from={int(tar.stat().st_mtime)}"
        found = self.docker("image", "inspect", "-f", "{{index .Config.Labels \"from\"}}", name, check=False)
        if found.returncode == 0 and f"from={found.stdout.strip()}" == wanted:
            return
        flags = [f"--change={change}" for change in [*changes, f"LABEL {wanted}"]]
        self.docker("import", *flags, tar, name, timeout=300)

    def build(self, *flags, image=IMAGE):
        """The very Dockerfile, its base the one at hand."""
        self.take_in(CACHE / "build.tar", BUILD_BASE, RUST)
        arguments = ["--build-arg", f"BUILD_IMAGE={BUILD_BASE}", "--build-arg", f"COMMIT={COMMIT}"]
        begun = time.monotonic()
        self.docker("build", "--progress=plain", *arguments, *flags, "-t", image, ROOT, timeout=BUILD_SECONDS)
        print(f"{image} was built in {time.monotonic() - begun:.0f} s")

    def close(self):
        """Ends the containers, then the engine."""
        left = self.docker("ps", "-aq", check=False).stdout.split()
        if left:
            self.docker("rm", "-fv", *left, check=False)
        self.docker("network", "prune", "-f", check=False)
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


class Container:
    """One container; it is removed with its anonymous volumes."""

    def __init__(self, engine, *flags, command=(), image=IMAGE):
        self.engine = engine
        self.id = engine.docker("run", "-d", *flags, image, *command).stdout.strip()

    def inspect(self, path):
        return json.loads(self.engine.docker("inspect", "-f", "{{json " + path + "}}", self.id).stdout)

    def address(self):
        networks = self.inspect(".NetworkSettings.Networks")
        return next(iter(networks.values()))["IPAddress"]

    def healthy(self, seconds=60):
        wait("healthy", lambda: self.inspect(".State.Health.Status") == "healthy", seconds)
        return self

    def run(self, *command, check=True, text=None):
        return self.engine.docker("exec", "-i", self.id, "streamway", *command, check=check, text=text or "")

    def logs(self):
        done = self.engine.docker("logs", self.id)
        return done.stdout + done.stderr

    def stop(self, seconds=10):
        """`docker stop`; answers the exit code and how long it took."""
        begun = time.monotonic()
        self.engine.docker("stop", "-t", seconds, self.id)
        return self.inspect(".State.ExitCode"), time.monotonic() - begun

    def remove(self):
        self.engine.docker("rm", "-fv", self.id, check=False)


@contextlib.contextmanager
def running(engine, *flags, **more):
    container = Container(engine, *flags, **more)
    try:
        yield container
    finally:
        container.remove()
