"""The console, event streams and the guard of the HTTP listener, in a real headless Chromium."""

import hashlib
import json
import urllib.request

import pytest
from browser import SECONDS, button, chromium, complaints, eventually, site  # noqa: F401 (a fixture)
from conftest import ROOT, Server
from selenium.webdriver.common.by import By

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("data"))
    yield server
    server.kill9()


def post(server, path, body, kind="application/json"):
    headers = {"content-type": kind}
    request = urllib.request.Request(f"http://{server.http}{path}", body.encode(), headers, method="POST")
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        return json.load(answer)


def publish(server, topic, *values):
    body = json.dumps({"records": [{"value": value} for value in values]})
    return post(server, f"/v1/topics/{topic}/records", body)


def shown(driver):
    return driver.execute_script("return document.querySelector('.records .rows')?.innerText || ''")


def test_a_topic_is_created_published_to_and_followed(server, chromium):
    chromium.get(f"http://{server.http}/")
    button(chromium, "Create topic").click()
    chromium.find_element(By.CSS_SELECTOR, "dialog input").send_keys("orders")
    button(chromium, "Create").click()
    eventually(lambda: chromium.current_url.endswith("#/topics/orders"))

    button(chromium, "Live tail").click()
    eventually(lambda: "Live" in chromium.find_element(By.CSS_SELECTOR, ".view").text)
    button(chromium, "Publish").click()
    chromium.find_element(By.CSS_SELECTOR, "dialog textarea").send_keys('{"total": 7}')
    chromium.find_element(By.CSS_SELECTOR, "dialog form .main").click()
    eventually(lambda: '{"total": 7}' in shown(chromium))
    publish(server, "orders", "from elsewhere")
    eventually(lambda: "from elsewhere" in shown(chromium))

    chromium.get(f"http://{server.http}/#/server")
    eventually(lambda: "embedded" in chromium.find_element(By.CSS_SELECTOR, ".facts").text)
    assert not chromium.find_element(By.ID, "sign").is_displayed(), "there is nobody to be"

    listed = lambda: [row.text for row in chromium.find_elements(By.CSS_SELECTOR, ".topics .rows a")]  # noqa: E731
    chromium.find_element(By.LINK_TEXT, "Topics").click()
    eventually(lambda: "orders" in listed())
    chromium.find_element(By.LINK_TEXT, "orders").click()
    eventually(lambda: "from elsewhere" in shown(chromium))
    chromium.back()
    eventually(lambda: "orders" in listed())
    chromium.forward()
    eventually(lambda: "from elsewhere" in shown(chromium))
    assert complaints(chromium) == []


def test_the_live_tail_continues_after_a_restart(server, chromium):
    publish(server, "lasting", "one")
    chromium.get(f"http://{server.http}/#/topics/lasting")
    button(chromium, "Live tail").click()
    eventually(lambda: "one" in shown(chromium))
    server.kill9()
    server.start()
    publish(server, "lasting", "two")
    eventually(lambda: "two" in shown(chromium))
    assert shown(chromium).count("one") == 1
    chromium.get_log("browser")


def test_what_a_record_holds_stays_text(server, chromium):
    publish(server, "hostile", HOSTILE)
    chromium.get(f"http://{server.http}/#/topics/hostile")
    row = eventually(lambda: chromium.find_elements(By.CSS_SELECTOR, ".records .rows .row"))[0]
    row.click()
    eventually(lambda: HOSTILE in chromium.find_element(By.CSS_SELECTOR, ".detail pre").text)
    assert chromium.find_elements(By.CSS_SELECTOR, "img") == []
    assert "owned" not in chromium.title and complaints(chromium) == []
    # Opened by itself, NDJSON is downloaded and shown by nobody; a document that is shown is of no origin.
    chromium.get(f"http://{server.http}/v1/topics/hostile/records")
    assert chromium.current_url.endswith("#/topics/hostile")
    chromium.get(f"http://{server.http}/v1/topics/hostile")
    assert chromium.execute_script("return self.origin") == "null"
    assert "owned" not in chromium.title


def test_an_event_source_continues_after_restarts_without_loss_or_repeat(server, chromium):
    publish(server, "events", "0")
    chromium.get(f"http://{server.http}/")
    chromium.execute_script("""
        self.got = []; const source = new EventSource('/v1/topics/events/records?from=earliest');
        source.onmessage = event => got.push(JSON.parse(event.data).value);""")
    got = lambda: chromium.execute_script("return self.got")  # noqa: E731
    eventually(lambda: len(got()) == 1)
    for round in range(1, 4):
        server.kill9()
        server.start()
        publish(server, "events", str(round))
        eventually(lambda: len(got()) > round)  # noqa: B023 (asked at once)
    assert got() == ["0", "1", "2", "3"]
    chromium.get_log("browser")


def test_tabs_that_are_not_looked_at_hold_no_connection(server, chromium):
    """Browsers open six connections to an origin over HTTP/1.1: the seventh tab must still load."""
    publish(server, "busy", "seen")
    first = chromium.current_window_handle
    tabs = []
    for _ in range(7):
        chromium.switch_to.new_window("tab")
        tabs.append(chromium.current_window_handle)
        chromium.get(f"http://{server.http}/#/topics/busy")
        button(chromium, "Live tail").click()
        eventually(lambda: "seen" in shown(chromium))
    for tab in tabs:
        chromium.switch_to.window(tab)
        chromium.close()
    chromium.switch_to.window(first)


def test_pages_of_another_origin_can_neither_publish_nor_read(server, chromium):
    with site(b"") as origin:
        chromium.get(origin)
        chromium.execute_async_script(
            "const [url, done] = arguments;"
            "fetch(url, {method: 'POST', mode: 'no-cors', body: 'x'}).catch(() => 0).then(done)",
            f"http://{server.http}/v1/topics/stolen/records",
        )
        read = chromium.execute_async_script(
            "const [url, done] = arguments; fetch(url).then(() => 'read', () => 'refused').then(done)",
            f"http://{server.http}/v1/topics",
        )
    assert read == "refused"
    with urllib.request.urlopen(f"http://{server.http}/v1/topics", timeout=SECONDS) as answer:
        assert "stolen" not in [topic["name"] for topic in json.load(answer)["topics"]]
    chromium.get_log("browser")


def send(server, path, body):
    return post(server, path, json.dumps(body))


def facts(driver):
    """What a page says at its top, by term."""
    script = "return [...document.querySelectorAll('.facts div')].map(d => [d.firstChild.innerText, d.lastChild.innerText])"
    return dict(driver.execute_script(script))


def test_a_group_is_watched_redriven_moved_and_deleted(server, chromium):
    publish(server, "work", "a", "b", "c")
    send(server, "/v1/topics/work/groups", {"name": "mail", "settings": {"deadLetterTopic": "dead"}})
    path = "/v1/topics/work/groups/mail"
    [lease] = send(server, f"{path}/lease", {"maxRecords": 3})["leases"]
    ranges = [{"start": n, "end": n + 1} for n in range(3)]
    settlement = {"token": lease["token"], "acks": ranges[:1], "deadLetters": [{"range": ranges[1]}]}
    send(server, f"{path}/settle", {"settlements": [settlement]})

    chromium.get(f"http://{server.http}/#/groups")
    row = eventually(lambda: chromium.find_element(By.CSS_SELECTOR, ".groups .rows .row").text.split("\n"))
    assert row[:3] == ["mail", "work", "none"], row
    # Rows are made anew as the numbers change; what has the focus keeps it.
    topic = "document.querySelector('.groups .rows a[title=work]')"
    chromium.execute_script(f"self.old = {topic}; old.focus()")
    eventually(lambda: chromium.execute_script(f"return {topic} !== old"))
    assert chromium.execute_script(f"return document.activeElement === {topic}")
    eventually(lambda: chromium.find_element(By.LINK_TEXT, "mail")).click()
    eventually(lambda: facts(chromium).get("Dead letters") == "1")
    assert (facts(chromium)["Lag"], facts(chromium)["Blocked keys"]) == ("1 record", "0")

    said = lambda: chromium.find_element(By.ID, "toast").text  # noqa: E731
    answer = lambda: chromium.find_element(By.CSS_SELECTOR, "dialog form .main").click()  # noqa: E731
    button(chromium, "Redrive").click()
    answer()
    eventually(lambda: said().startswith("1 record delivered again"))
    eventually(lambda: facts(chromium)["Lag"] == "2 records")
    button(chromium, "Seek").click()
    chromium.find_element(By.CSS_SELECTOR, "dialog select").send_keys("Latest")
    answer()
    eventually(lambda: facts(chromium)["Lag"] == "0 records")
    button(chromium, "Delete").click()
    assert not chromium.find_element(By.CSS_SELECTOR, "dialog form .main").is_enabled()
    chromium.find_element(By.CSS_SELECTOR, "dialog input").send_keys("mail")
    answer()
    eventually(lambda: chromium.current_url.endswith("#/groups"))
    eventually(lambda: "No groups yet" in chromium.find_element(By.CSS_SELECTOR, ".groups").text)
    assert complaints(chromium) == []


def test_who_is_connected_is_shown_and_can_be_sent_away(server, chromium):
    publish(server, "followed", "x")
    chromium.get(f"http://{server.http}/#/server")
    url = f"http://{server.http}/v1/topics/followed/records?follow=true"
    with urllib.request.urlopen(url, timeout=SECONDS) as following:
        following.readline()
        eventually(lambda: "followed" in chromium.find_element(By.CSS_SELECTOR, ".calls .rows").text)
        eventually(lambda: chromium.find_elements(By.CSS_SELECTOR, ".calls .rows .row"))
        end = (By.XPATH, "//*[contains(@class, 'row')][*[text()='followed']]//button")
        eventually(lambda: chromium.find_element(*end).click() or True)
        chromium.find_element(By.CSS_SELECTOR, "dialog form .main").click()
        last = following.read().splitlines()[-1]
    assert json.loads(last)["problem"]["reason"] == "DISCONNECTED_BY_OPERATOR"
    button(chromium, "Connections").click()
    eventually(lambda: "Mozilla" in chromium.find_element(By.CSS_SELECTOR, ".connections .rows").text)


RULE = '[[rule]]\nprincipals = ["worker"]\ntopics = ["work"]\n'


def identities(place):
    """Returns the flags of a server at which the token `worker-secret` may do everything with the topic `work`."""
    digest = hashlib.sha256(b"worker-secret").hexdigest()
    (place / "tokens").write_text(f'"worker" = "sha256:{digest}"\n')
    (place / "policy").write_text(f'{RULE}actions = ["publish", "subscribe", "admin"]\n')
    return ["--auth-tokens", str(place / "tokens"), "--auth-policy", str(place / "policy")]


def test_what_the_policy_refuses_is_greyed_out(tmp_path, chromium):
    server = Server(tmp_path / "data", *identities(tmp_path), "--reload-interval", "100ms")
    try:
        chromium.get(f"http://{server.http}/")
        eventually(lambda: chromium.find_element(By.ID, "token")).send_keys("worker-secret")
        chromium.find_element(By.CSS_SELECTOR, "dialog form .main").click()
        assert button(chromium, "Sign out")
        button(chromium, "Create topic").click()
        chromium.find_element(By.CSS_SELECTOR, "dialog input").send_keys("work")
        chromium.find_element(By.CSS_SELECTOR, "dialog form .main").click()
        eventually(lambda: chromium.current_url.endswith("#/topics/work"))
        chromium.find_element(By.LINK_TEXT, "Groups").click()
        button(chromium, "Create group").click()
        for name, field in zip(("work", "mail"), chromium.find_elements(By.CSS_SELECTOR, "dialog input"), strict=False):
            field.send_keys(name)
        chromium.find_element(By.CSS_SELECTOR, "dialog form .main").click()
        eventually(lambda: chromium.current_url.endswith("#/groups/work/mail"))
        (tmp_path / "new").write_text(f'{RULE}groups = ["mail"]\nactions = ["consume"]\n')
        (tmp_path / "new").rename(tmp_path / "policy")

        def refused():
            button(chromium, "Seek").click()
            chromium.find_element(By.CSS_SELECTOR, "dialog form .main").click()
            return not chromium.find_element(By.XPATH, "//button[text()='Seek' and @data-action]").is_enabled()

        eventually(refused)
        seek = chromium.find_element(By.XPATH, "//button[text()='Seek' and @data-action]")
        assert seek.get_attribute("title"), "the reason"
        assert facts(chromium)["Lag"] == "0 records", "the rest of the page still works"
    finally:
        server.kill9()
    chromium.get_log("browser")


@pytest.mark.parametrize("token", ["", "worker-secret"])
def test_the_example_page_follows_from_its_own_origin(token, tmp_path, chromium):
    """Without a token by EventSource, with one by fetch; both go on after a kill."""
    headers = {"content-type": "application/json", **({"authorization": f"Bearer {token}"} if token else {})}

    def stored(value):
        body = json.dumps({"records": [{"value": value}]}).encode()
        request = urllib.request.Request(f"http://{server.http}/v1/topics/work/records", body, headers)
        urllib.request.urlopen(request, timeout=SECONDS).close()

    with site((ROOT / "examples" / "browser" / "follow.html").read_bytes()) as origin:
        server = Server(tmp_path / "data", "--http-origins", origin, *(identities(tmp_path) if token else []))
        try:
            stored("one")
            chromium.get(origin)
            follow = "const [server, topic, token] = arguments; Object.assign(form.server, {value: server});"
            follow += "form.topic.value = topic; form.token.value = token; form.requestSubmit();"
            chromium.execute_script(follow, f"http://{server.http}", "work", token)
            records = lambda: [item.text for item in chromium.find_elements(By.TAG_NAME, "li")]  # noqa: E731
            eventually(lambda: records() == ["one"])
            server.kill9()
            server.start()
            stored("two")
            eventually(lambda: len(records()) > 1)
            assert records() == ["one", "two"]
            if token:
                chromium.execute_script(follow, f"http://{server.http}", "work", "")
                eventually(lambda: chromium.find_element(By.ID, "state").text == "refused")
        finally:
            server.kill9()
    chromium.get_log("browser")
