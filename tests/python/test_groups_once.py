"""The recipes of docs/groups.md for effects once: a real PostgreSQL refuses the lower fence of a paused holder, and a result that
is published again is stored once."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

import pytest
from conftest import BINARY, ROOT
from real import running

SECONDS = 60
BIN = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"))[-1]
# initdb and the server refuse to run as root.
AS_NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.getuid() == 0 else []


def awaited(what, found):
    deadline = time.monotonic() + SECONDS
    while not (result := found()):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
    return result


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """PostgreSQL with a Unix socket alone, and a function that runs SQL there. Returns psql's environment with it."""
    # Not below pytest's directory, which only its owner may enter; and short, as a socket's path has at most 107 bytes.
    home = pathlib.Path(f"/tmp/streamway-postgres-{os.getpid()}")
    home.mkdir(mode=0o700)
    if AS_NOBODY:
        os.chown(home, 65534, 65534)
    options = {"cwd": home, "check": True, "capture_output": True}
    try:
        init = [BIN / "initdb", "-D", home / "data", "-U", "test", "-A", "trust", "--no-sync"]
        subprocess.run([*AS_NOBODY, *init], **options)
        server = [BIN / "postgres", "-D", home / "data", "-k", home, "-c", "listen_addresses="]
        environment = {**os.environ, "PGHOST": str(home), "PGUSER": "test", "PGDATABASE": "postgres"}
        with running([*AS_NOBODY, *server], tmp_path_factory.mktemp("log") / "postgres.log", cwd=home) as process:
            ready = [BIN / "pg_isready", "-q"]
            awaited("PostgreSQL", lambda: subprocess.run(ready, env=environment, check=False).returncode == 0)

            def sql(statement):
                command = [BIN / "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statement]
                return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

            yield sql, environment
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=SECONDS) == 0
    finally:
        shutil.rmtree(home)


def documented(language):
    """The indented blocks of docs/groups.md in a language."""
    text = (ROOT / "docs" / "groups.md").read_text()
    return re.findall(rf"^  ```{language}\n(.*?)^  ```", text, re.MULTILINE | re.DOTALL)


def cli(server, *args, **options):
    command = [BINARY, *args, "--server", f"http://{server.listen}"]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS, **options).stdout


def worker(server, command, environment, *more):
    args = ["consume", "accounts", "--group", "totals", "--server", f"http://{server.listen}", *more]
    return subprocess.Popen([BINARY, *args, "--exec", command], env=environment)


def test_a_database_refuses_the_lower_fence_of_a_paused_holder(server, database, tmp_path):
    sql, environment = database
    table, statement = documented("sql")
    sql(table)
    # What a program with a driver does: the statement with its parameters. psql prints how many rows it changed.
    script = tmp_path / "once.sql"
    script.write_text(f"PREPARE once (text, text, bigint) AS {statement};\nEXECUTE once (:'key', :'value', :'fence');\n")
    psql = f"{BIN}/psql -X -v ON_ERROR_STOP=1 -v key=$STREAMWAY_KEY -v fence=$STREAMWAY_FENCE -f {script}"
    settings = ["--order", "key", "--ack-deadline", "1s"]
    cli(server, "publish", "accounts", "--key", "alice", input="10\n")
    cli(server, "groups", "create", "accounts", "totals", *settings)
    paused, late = tmp_path / "paused", tmp_path / "late"
    # It stops itself between its lease and its write, as a virtual machine that is moved does.
    slow = f"echo $$ > {paused}.new; mv {paused}.new {paused}; kill -STOP $$; {psql} -v value=paused > {late}.new; mv {late}.new {late}"
    holder = worker(server, slow, environment)
    other = None
    try:
        awaited("the holder's command", paused.exists)
        # The member extends the lease as long as its command runs, unless it is stopped too.
        holder.send_signal(signal.SIGSTOP)
        other = worker(server, f"{psql} -v value=other", environment)
        assert awaited("the other's result", lambda: sql("SELECT value FROM results")) == "other\n"
        fence = int(sql("SELECT fence FROM results"))
        os.kill(int(paused.read_text()), signal.SIGCONT)
        awaited("the late write", late.exists)
        assert "INSERT 0 0" in late.read_text(), late.read_text()
        assert sql("SELECT key, value, fence FROM results") == f"alice|other|{fence}\n"
        holder.send_signal(signal.SIGCONT)
        # A later record of the key has a higher fence, whoever handles it.
        other.terminate()
        assert other.wait(timeout=SECONDS) == 0
        holder.terminate()
        assert holder.wait(timeout=SECONDS) == 0
        cli(server, "publish", "accounts", "--key", "alice", input="20\n")
        other = worker(server, f"{psql} -v value=later", environment, "--stop-at-tail")
        assert other.wait(timeout=SECONDS) == 0
        assert sql("SELECT value FROM results") == "later\n" and int(sql("SELECT fence FROM results")) > fence
    finally:
        for process in (holder, other):
            if process:
                process.kill()
                process.wait()


def test_a_result_that_is_published_again_is_stored_once(server, tmp_path):
    """The commands fail after their result is stored, before the record is acknowledged, as a crash there does."""
    (command,) = documented("sh")
    handler = re.search(r"--exec \\\n *'(.*)'", command)[1]
    url = f"http://{server.listen}"
    environment = {**os.environ, "PATH": f"{BINARY.parent}:{os.environ['PATH']}", "STREAMWAY_SERVER": url}
    cli(server, "publish", "work", input="".join(f"job {i}\n" for i in range(20)))
    failing = f'{handler}; echo >> {tmp_path}/tries; [ "$STREAMWAY_DELIVERY" = 2 ]'
    args = ["consume", "work", "--group", "upper", "--server", url, "--stop-at-tail", "--exec", failing]
    subprocess.run([BINARY, *args], env=environment, check=True, timeout=SECONDS)
    assert (tmp_path / "tries").read_text().count("\n") == 40
    results = cli(server, "subscribe", "results", "--from", "earliest").splitlines()
    assert sorted(results) == sorted(f"JOB {i}" for i in range(20))
