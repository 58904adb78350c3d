"""The console and event streams in a real Firefox, which Debian has, over its own WebDriver BiDi."""

import itertools
import json
import re
import subprocess
import urllib.request

import pytest
import websocket
from browser import SECONDS, eventually
from conftest import Server
from real import free_port
from shown import Log


class Firefox:
    """A page of a headless Firefox with a profile of its own."""

    def __init__(self, place):
        (place / "user.js").write_text('user_pref("datareporting.policy.dataSubmissionEnabled", false);\n')
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
