"""The console as axe-core sees it, the checker of WCAG, in a real Chromium: every page and every dialog, light and dark, wide and
narrow. It finds nothing. What it cannot see (keys, focus) the other tests of the console press."""

import json

import pytest
from browser import button, chromium, eventually  # noqa: F401 (a fixture)
from conftest import ROOT, Server
from selenium.webdriver.common.by import By
from test_browser import post, publish

AXE = ROOT / "tests" / ".cache" / "axe" / "node_modules" / "axe-core" / "axe.min.js"
RUN = """
const done = arguments[arguments.length - 1];
axe.run().then(found => done(found.violations.map(rule => [rule.id, rule.help, rule.nodes.map(node => node.html.slice(0, 200))])),
               error => done([String(error)]));
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("data"))
    publish(server, "orders", *(json.dumps({"total": number}) for number in range(40)))
    post(server, "/v1/topics/orders/groups", json.dumps({"name": "mailer"}))
    yield server
    server.kill9()


@pytest.fixture(params=["light", "dark"])
def browser(chromium, request):  # noqa: F811
    features = [{"name": "prefers-color-scheme", "value": request.param}]
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    yield chromium
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    chromium.set_window_size(1280, 800)


def checked(driver, what):
    if not driver.execute_script("return !!self.axe"):
        driver.execute_script(AXE.read_text() + "; self.axe = axe;")
    found = driver.execute_async_script(RUN)
    assert found == [], f"{what}: {json.dumps(found, indent=1)}"


def dialog(driver, name):
    button(driver, name).click()
    checked_dialog(driver, name)


def checked_dialog(driver, name):
    eventually(lambda: driver.find_element(By.CSS_SELECTOR, "dialog[open] form"))
    checked(driver, f"the dialog {name}")
    button(driver, "Cancel").click()


def test_every_page_and_dialog(server, browser):
    pages = {
        "#/topics": (".topics .rows .row", ["Create topic"]),
        "#/topics/orders": (".records .rows .row", ["Publish", "Retention", "Trim", "Delete"]),
        "#/topics/none": (".note.bad:not([hidden])", []),
        "#/groups": (".groups .rows .row", ["Create group"]),
        "#/groups/orders/mailer": (".facts dd", ["Redrive", "Seek", "Delete"]),
        "#/server": (".facts dd", []),
    }
    for width in (1280, 420):
        browser.set_window_size(width, 800)
        for page, (loaded, dialogs) in pages.items():
            browser.get(f"http://{server.http}/{page}")
            eventually(lambda: browser.find_element(By.CSS_SELECTOR, loaded))  # noqa: B023 (called at once)
            checked(browser, f"{page} at {width}")
            for name in dialogs:
                dialog(browser, name)
        # Its button is there only where callers have identities.
        browser.execute_script("signIn()")
        checked_dialog(browser, "Sign in")
    browser.get(f"http://{server.http}/#/topics/orders")
    eventually(lambda: browser.find_element(By.CSS_SELECTOR, ".records .rows .row")).click()
    eventually(lambda: browser.find_element(By.CSS_SELECTOR, ".detail pre"))
    checked(browser, "a record")
    button(browser, "Live tail").click()
    eventually(lambda: "Live" in browser.find_element(By.CSS_SELECTOR, "[role=status].soft").text)
    checked(browser, "a live tail")
