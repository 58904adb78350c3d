"""The console and event streams in a real Firefox, which Debian has, over its own WebDriver BiDi."""

import itertools
import json
import re
import subprocess
import urllib.request

import grpc
import pytest
import websocket
from browser import SECONDS, eventually, site
from conftest import Server
from real import free_port
from shown import Log
from test_tls import TlsServer, authority, issue, openssl


class Firefox:
    """A page of a headless Firefox with a profile of its own."""

    def __init__(self, place, *settings):
        settings = ['"datareporting.policy.dataSubmissionEnabled", false', *settings]
        (place / "user.js").write_text("".join(f"user_pref({setting});\n" for setting in settings))
        command = ["firefox-esr", "--headless", "--no-remote", "--profile", place, "--remote-debugging-port", str(free_port())]
        self.output = (place / "output").open("w")
        self.process = subprocess.Popen(command, stdout=self.output, stderr=subprocess.STDOUT)
        self.shown = Log("firefox", place / "output")
        found = eventually(lambda: re.search(r"ws://\S+", (place / "output").read_text()))
        # Firefox refuses a client that names an origin.
        self.socket = websocket.create_connection(f"{found[0]}/session", timeout=SECONDS, suppress_origin=True)
        self.numbers = itertools.count(1)
        self.ask("session.new", capabilities={})
        self.page = self.ask("browsingContext.getTree")["contexts"][0]["context"]

    def ask(self, method, **params):
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == number:
                assert answer["type"] == "success", answer
                return answer["result"]

    def get(self, url):
        self.ask("browsingContext.navigate", context=self.page, url=url, wait="complete")

    def run(self, expression):
        """Returns the value of an expression, which must be JSON."""
        text = f"JSON.stringify({expression})"
        done = self.ask("script.evaluate", expression=text, target={"context": self.page}, awaitPromise=False)
        assert done["type"] == "success", done
        return json.loads(done["result"].get("value", "null"))

    def quit(self):
        self.socket.close()
        self.process.terminate()
        self.process.wait(timeout=SECONDS)
        self.output.close()
        self.shown.ended()


@pytest.fixture(scope="module")
def firefox(tmp_path_factory):
    firefox = Firefox(tmp_path_factory.mktemp("firefox"))
    yield firefox
    firefox.quit()


def publish(server, value):
    body = json.dumps({"records": [{"value": value}]}).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"http://{server.http}/v1/topics/orders/records", body, headers)
    urllib.request.urlopen(request, timeout=SECONDS).close()


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path / "data")
    yield server
    server.kill9()


def test_the_console_shows_topics_and_records(server, firefox):
    publish(server, "seen in Firefox")
    firefox.get(f"http://{server.http}/")
    shown = lambda: firefox.run("document.querySelector('main').innerText")  # noqa: E731
    eventually(lambda: "orders" in shown())
    firefox.run("(document.querySelector('.topics .rows a').click(), 0)")
    eventually(lambda: "seen in Firefox" in shown())
    firefox.run("([...document.querySelectorAll('button')].find(b => b.innerText === 'Live tail').click(), 0)")
    publish(server, "and live")
    eventually(lambda: "and live" in shown())
    for page, text in (("groups", "No groups yet"), ("server", "Who is connected")):
        firefox.run(f"(location.hash = '#/{page}', 0)")
        eventually(lambda: text in shown())  # noqa: B023 (asked at once)


def test_an_event_source_continues_after_a_drain_and_a_kill(server, firefox):
    publish(server, "0")
    firefox.get(f"http://{server.http}/")
    firefox.run("""(leave.abort(), self.got = [], self.source = new EventSource('/v1/topics/orders/records?from=earliest'),
        source.onmessage = event => got.push(JSON.parse(event.data).value), 0)""")
    got = lambda: firefox.run("self.got")  # noqa: E731
    eventually(lambda: got() == ["0"])
    for number, end in enumerate([server.stop, server.kill9], 1):
        end()
        server.start()
        publish(server, str(number))
        eventually(lambda: len(got()) > number)  # noqa: B023 (asked at once)
    assert got() == ["0", "1", "2"]


def client_with_certificate(place):
    """A profile that trusts the authority `ca` of `place`, and presents the certificate `client` unasked."""
    profile = place / "profile"
    profile.mkdir()
    openssl(place, "pkcs12", "-export", "-in", "client.pem", "-inkey", "client.key", "-out", "client.p12", "-passout", "pass:")
    database = f"sql:{profile}"
    for command in (
        ["certutil", "-N", "-d", database, "--empty-password"],
        ["certutil", "-A", "-d", database, "-n", "ca", "-t", "C,,", "-i", place / "ca.pem"],
        ["pk12util", "-i", place / "client.p12", "-d", database, "-W", ""],
    ):
        subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)
    return Firefox(profile, '"security.default_personal_cert", "Select Automatically"')


def statuses(server):
    """Returns how many requests the HTTP listener answered, by status."""
    with urllib.request.urlopen(f"http://{server.admin}/metrics", timeout=SECONDS) as answer:
        text = answer.read().decode()
    counts = re.findall(r'^http_server_request_duration_seconds_count{.*status_code="(\d+)".*} (\d+)', text, re.MULTILINE)
    return {status: sum(int(count) for of, count in counts if of == status) for status, _ in counts}


def test_a_page_of_another_site_can_post_nothing_with_the_visitors_certificate(tmp_path):
    authority(tmp_path, "ca")
    for name in ("server", "client"):
        issue(tmp_path, "ca", name)
    read = lambda name: (tmp_path / name).read_bytes()  # noqa: E731
    TlsServer.credentials = grpc.ssl_channel_credentials(read("ca.pem"), read("client.key"), read("client.pem"))
    rule = '[[rule]]\nprincipals = ["client"]\ntopics = ["*"]\nactions = ["publish", "subscribe", "admin"]\n'
    (tmp_path / "policy.toml").write_text(rule)
    server = TlsServer(
        tmp_path / "data",
        f"--tls-cert={tmp_path / 'server.pem'}",
        f"--tls-key={tmp_path / 'server.key'}",
        f"--tls-client-ca={tmp_path / 'ca.pem'}",
        f"--auth-policy={tmp_path / 'policy.toml'}",
    )
    firefox = client_with_certificate(tmp_path)
    try:
        own = f"https://{server.http}"
        firefox.get(f"{own}/")
        firefox.run(f"""(fetch('{own}/v1/topics/own/records', {{method: 'POST', body: '{{"records": [{{"value": "x"}}]}}',
            headers: {{'content-type': 'application/json'}}}}).then(answer => self.own = answer.status), 0)""")
        eventually(lambda: firefox.run("self.own") == 200)
        before = statuses(server).get("403", 0)
        with site(b"<title>another</title>") as origin:
            firefox.get(origin)
            firefox.run(f"""(['t', 'own'].map(topic => fetch('{own}/v1/topics/' + topic + '/records',
                {{method: 'POST', mode: 'no-cors', credentials: 'include', body: '{{"records": [{{"value": "x"}}]}}'}})
                .catch(() => 0)), 0)""")
            # The certificate was presented: without one, TLS fails before any request.
            eventually(lambda: statuses(server).get("403", 0) == before + 2)
            firefox.run(f"""(document.body.innerHTML = '<form method=post enctype=text/plain action="{own}/v1/topics/t/records">'
                + '<input name=x></form>', document.forms[0].submit(), 0)""")
            eventually(lambda: statuses(server).get("403", 0) == before + 3)
        firefox.get(f"{own}/")
        firefox.run(f"""(Promise.all(['', '/own/records'].map(path => fetch('{own}/v1/topics' + path).then(answer => answer.text())))
            .then(found => self.found = found), 0)""")
        topics, records = eventually(lambda: firefox.run("self.found"))
        assert [topic["name"] for topic in json.loads(topics)["topics"]] == ["own"]
        assert len(records.splitlines()) == 2, "its own record, and the end"
    finally:
        firefox.quit()
        server.kill9()
