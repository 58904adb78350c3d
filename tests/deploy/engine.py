"""A container engine of the tests' own, and the image, which the repository's Dockerfile builds in it. No image is pulled.

    engine.py DIRECTORY

starts the engine, builds the image, writes its binary to DIRECTORY/streamway and then DIRECTORY/built, and keeps the engine
running until SIGTERM. The tests that find DIRECTORY in TESTS_ENGINE use that engine; without it they start one.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "python"))
from shown import Log  # noqa: E402

CACHE = ROOT / "tests" / ".cache" / "deploy"
IMAGE = "streamway:test"
BUILD_BASE = "streamway-test/build:latest"
PEERS = "streamway-test/peers:latest"
# A soak builds the image as it is released. Other runs use a profile that compiles faster.
PROFILE = "dist" if os.environ.get("TESTS_SOAK") else "ci"
# Largest size of the image. The profile ci makes a larger binary.
BYTES_MAX = 20_000_000 if PROFILE == "dist" else 60_000_000
# Ten times the duration on two idle cores.
BUILD_SECONDS = 2400
COMMIT = "0123456789abcdef"
RUST = ["ENV PATH=/usr/local/cargo/bin:/usr/sbin:/usr/bin:/sbin:/bin", "ENV CARGO_HOME=/usr/local/cargo"]
RUST += ["ENV RUSTUP_HOME=/usr/local/rustup", "ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"]


def wait(what, condition, seconds=60, every=0.1, told=lambda: ""):
    """Waits until `condition` is true and returns its value. Otherwise the failure ends with what is `told`."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, f"{what}: not within {seconds} s{told()}"
        time.sleep(every)


def accepted(what, call):
    """Repeats a command until it exits with 0. If it never does, the failure shows its last answer."""
    answers = []

    def is_accepted():
        answers[:] = [call()]
        return answers[0].returncode == 0

    wait(what, is_accepted, told=lambda: f"; the last answer:\n{answers[0].stdout}{answers[0].stderr}")


class Engine:
    """A client of dockerd, whose images stay in tests/.cache between runs."""

    def __init__(self, place):
        self.socket = place / "docker.sock"
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("STREAMWAY_")}
        self.environment |= {"DOCKER_HOST": f"unix://{self.socket}", "DOCKER_BUILDKIT": "1"}
        self.environment |= {"DOCKER_CONFIG": str(CACHE / "config")}

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
        """Imports a base image from a file tree, unless that was done since the file was written."""
        with (CACHE / "import.lock").open("w") as lock:
            # Several processes of pytest may want the same image.
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._take_in(tar, name, changes)

    def _take_in(self, tar, name, changes):
        wanted = f"from={int(tar.stat().st_mtime)}"
        found = self.docker("image", "inspect", "-f", "{{index .Config.Labels \"from\"}}", name, check=False)
        if found.returncode == 0 and f"from={found.stdout.strip()}" == wanted:
            return
        flags = [f"--change={change}" for change in [*changes, f"LABEL {wanted}"]]
        self.docker("import", *flags, tar, name, timeout=300)

    def build(self, *flags, image=IMAGE, source=ROOT):
        """Builds the Dockerfile of a source tree on the base image that was made here."""
        self.take_in(CACHE / "build.tar", BUILD_BASE, RUST)
        arguments = ["--build-arg", f"BUILD_IMAGE={BUILD_BASE}", "--build-arg", f"COMMIT={COMMIT}"]
        arguments += ["--build-arg", f"PROFILE={PROFILE}"]
        started = time.monotonic()
        self.docker("build", "--progress=plain", *arguments, *flags, "-t", image, source, timeout=BUILD_SECONDS)
        print(f"{image} was built in {time.monotonic() - started:.0f} s")

    def copy_out(self, path, to, *flags, image=IMAGE):
        """Copies a file of an image to the host."""
        container = self.docker("create", *flags, image).stdout.strip()
        try:
            self.docker("cp", f"{container}:{path}", to)
        finally:
            self.docker("rm", container)


@contextlib.contextmanager
def own_engine():
    """Starts dockerd, and ends it and its containers. Its log is shown where the body fails."""
    # The path of a socket must be short.
    place = pathlib.Path(tempfile.mkdtemp(prefix="sw-docker-"))
    log = CACHE / "dockerd.log"
    command = ["dockerd", "--data-root", CACHE / "root", "--exec-root", place / "exec"]
    command += ["--pidfile", place / "pid", "-H", f"unix://{place}/docker.sock"]
    with log.open("w") as out:
        process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    engine = Engine(place)
    try:
        accepted("dockerd", lambda: engine.docker("version", check=False))
        yield engine, place
    except Exception:
        print("--- dockerd's log, last lines ---", *log.read_text().splitlines()[-30:], sep="\n", file=sys.stderr)
        raise
    finally:
        left = engine.docker("ps", "-aq", check=False).stdout.split()
        if left:
            engine.docker("rm", "-fv", *left, check=False)
        engine.docker("network", "prune", "-f", check=False)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(place, ignore_errors=True)


def serve(directory):
    """Runs the engine for several processes of tests, as the file's head says."""
    with own_engine() as (engine, place):
        (directory / "socket").write_text(str(place))
        engine.build()
        engine.copy_out("/usr/local/bin/streamway", directory / "streamway")
        (directory / "built").touch()
        while True:
            signal.pause()


class Container:
    """One container. It is removed with its anonymous volumes, and its log is shown where the test fails."""

    def __init__(self, engine, *flags, command=(), image=IMAGE):
        self.engine = engine
        self.id = engine.docker("run", "-d", *flags, image, *command).stdout.strip()
        self.shown = Log(f"container {self.id[:12]} of {image}", self.logs)

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
        """Runs `docker stop`; returns the exit code and how many seconds it took."""
        started = time.monotonic()
        self.engine.docker("stop", "-t", seconds, self.id)
        return self.inspect(".State.ExitCode"), time.monotonic() - started

    def remove(self):
        self.engine.docker("rm", "-fv", self.id, check=False)
        self.shown.ended()


@contextlib.contextmanager
def running(engine, *flags, **more):
    container = Container(engine, *flags, **more)
    try:
        yield container
    except BaseException:
        container.shown.keep()
        raise
    finally:
        container.remove()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    serve(pathlib.Path(sys.argv[1]))
