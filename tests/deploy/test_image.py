"""The image, as users build and run it."""

import json
import os
import pathlib
import re
import urllib.request

import pytest
from engine import BYTES_MAX, COMMIT, IMAGE, ROOT, accepted, running, wait
from load import Flood, Publisher, Subscriber, carries_on, check, records, settle

DRAIN_SECONDS = 10  # what `docker stop` gives
# The image's health check with a shorter interval.
OFTEN = ["--health-interval", "1s"]
HARDENED = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "-u", "65532"]


@pytest.fixture
def volume(engine):
    name = engine.docker("volume", "create").stdout.strip()
    yield name
    engine.docker("volume", "rm", "-f", name, check=False)


def on(volume):
    return ["-v", f"{volume}:/data"]


def grpc_address(container):
    return f"{container.address()}:50051"


def test_image_says_what_it_is_and_is_small(engine):
    image = json.loads(engine.docker("image", "inspect", IMAGE).stdout)[0]
    config = image["Config"]
    assert image["Size"] < BYTES_MAX, image["Size"]
    print(f"image: {image['Size'] / 1e6:.1f} MB")
    assert config["User"] == "65532:65532"
    assert config["StopSignal"] == "SIGTERM"
    assert set(config["Volumes"]) == {"/data"}
    assert set(config["ExposedPorts"]) == {"50051/tcp", "8080/tcp", "8081/tcp"}
    assert "STREAMWAY_DATA_DIR=/data" in config["Env"]
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    assert labels["revision"] == COMMIT
    cargo = (ROOT / "Cargo.toml").read_text()
    assert labels["version"] == re.search(r'^version = "(.*)"', cargo, re.MULTILINE)[1]
    toolchain = re.search(r'channel = "(.*)"', (ROOT / "rust-toolchain.toml").read_text())[1]
    assert f"BUILD_IMAGE=rust:{toolchain}-" in (ROOT / "Dockerfile").read_text()


def test_just_runs(engine):
    with running(engine, "-p", "127.0.0.1::50051", "-p", "127.0.0.1::8081") as container:
        container.healthy()
        ports = container.inspect(".NetworkSettings.Ports")
        grpc, admin = (f"127.0.0.1:{ports[port][0]['HostPort']}" for port in ("50051/tcp", "8081/tcp"))
        publisher = Publisher(grpc, "greetings")
        wait("a record", lambda: publisher.acknowledged or publisher.failure)
        publisher.finish()
        check([publisher], [records(grpc, "greetings", len(publisher.acknowledged))])
        with urllib.request.urlopen(f"http://{admin}/version", timeout=10) as answer:
            assert json.load(answer)["commit"] == COMMIT


def test_runs_hardened_with_a_fresh_volume(engine, volume):
    with running(engine, *HARDENED, *on(volume)) as container:
        container.healthy()
        container.run("publish", "greetings", text="hello\nworld\n")
        printed = container.run("subscribe", "greetings", "--from", "earliest").stdout
        assert printed.split() == ["hello", "world"]
        status = pathlib.Path(f"/proc/{container.inspect('.State.Pid')}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert fields["Uid"].split() == ["65532"] * 4
        assert {int(fields[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")} == {0}
        assert fields["NoNewPrivs"] == "1"
        assert container.inspect(".HostConfig.ReadonlyRootfs")
        assert container.stop()[0] == 0


def test_only_data_is_writable(engine):
    """The server cannot create a directory elsewhere, even with a writable root."""
    with running(engine, command=["serve", "--data-dir", "/elsewhere"]) as container:
        wait("its end", lambda: not container.inspect(".State.Running"))
        assert container.inspect(".State.ExitCode") != 0
        assert "/elsewhere" in container.logs()


def test_health_follows_the_process(engine):
    probe = [*OFTEN, "--health-retries", "1", "--health-timeout", "1s", "--health-start-period", "0s"]
    with running(engine, *probe) as container:
        assert container.inspect(".State.Health.Status") in ("starting", "healthy")
        container.healthy()
        engine.docker("kill", "-s", "STOP", container.id)
        wait("unhealthy", lambda: container.inspect(".State.Health.Status") == "unhealthy")
        engine.docker("kill", "-s", "CONT", container.id)
        container.healthy()


def test_sigterm_under_load_ends_in_time_and_loses_nothing(engine, volume):
    with running(engine, *OFTEN, *HARDENED, *on(volume)) as container:
        container.healthy()
        address = grpc_address(container)
        publishers = [Publisher(address, "load", f"p{n}", pause=0) for n in range(4)]
        subscribers = [Subscriber(address, "load") for _ in range(4)]
        wait("load", lambda: all(len(s.records) > 100 or s.failure for s in subscribers))
        code, seconds = container.stop(DRAIN_SECONDS)
        print(f"SIGTERM under load: exit {code} after {seconds:.1f} s")
        assert code == 0 and seconds < DRAIN_SECONDS
        engine.docker("start", container.id)
        carry_on(container, address, publishers, subscribers)


@pytest.mark.parametrize("how", ["kill -9", "out of memory"])
def test_a_killed_container_comes_back_with_everything(engine, volume, how):
    with running(engine, "--restart", "on-failure", "--memory", "256m", *OFTEN, *HARDENED, *on(volume)) as container:
        container.healthy()
        address = grpc_address(container)
        publishers = [Publisher(address, "load", f"p{n}", pause=0) for n in range(4)]
        subscribers = [Subscriber(address, "load") for _ in range(2)]
        wait("load", lambda: all(len(s.records) > 100 or s.failure for s in subscribers))
        pid = container.inspect(".State.Pid")
        if how == "kill -9":
            # `docker kill` would keep the engine from restarting it.
            os.kill(pid, 9)
        else:
            engine.docker("update", "--memory", "16m", "--memory-swap", "16m", container.id)
            flood = Flood(address, "large")
            used = lambda: f"\n{engine.docker('stats', '--no-stream', container.id).stdout}{flood.failure or ''}"  # noqa: E731
            wait("the kernel's kill", lambda: not os.path.exists(f"/proc/{pid}"), told=used)
            flood.finish()
            # The engine refuses this between two starts.
            more = ["update", "--memory", "256m", "--memory-swap", "512m", container.id]
            accepted("its memory", lambda: engine.docker(*more, check=False))
        wait("a restart", lambda: container.inspect(".RestartCount") > 0)
        carry_on(container, address, publishers, subscribers)


def carry_on(container, address, publishers, subscribers):
    """Checks that the same clients continue and receive everything."""
    container.healthy()
    assert grpc_address(container) == address
    carries_on(publishers)
    total = settle(address, "load", publishers, subscribers)
    print(f"{total} records; longest silence {max(s.gap for s in subscribers):.1f} s")
