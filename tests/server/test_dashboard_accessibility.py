"""The dashboard is usable with a keyboard, and readable."""

from __future__ import annotations

import pytest
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from server.dashboard_fixtures import ADD, Board


def test_the_keyboard_is_enough(board: Board) -> None:
    board.module("POST", "/schemas", [ADD])
    for n in range(3):
        board.submit(f"f{n}")
    board.open()
    board.until(lambda: len(board.rows()) == 3 and len(board.all("#runtimes > li")) == 2)

    def active() -> WebElement:
        return board.browser.switch_to.active_element

    def press(*keys: str) -> str:
        """Press a key, and check that the element with the focus then has a name and a visible outline."""
        active().send_keys(*keys)
        outline = board.js("return getComputedStyle(document.activeElement).outline")
        assert "solid 3px" in outline, (outline, active().get_attribute("outerHTML"))
        name = active().accessible_name
        assert name, active().get_attribute("outerHTML")
        return name

    stops = []
    while "f2" not in stops:
        stops.append(press(Keys.TAB))
        assert len(stops) < 40, stops
    assert stops[:2] == ["Skip to the jobs", "Sign out"]
    # "Clear all" is disabled, because there are no faults.
    assert stops[2:] == [
        "Functions", "Submit a job…", "Functions", "Submit a job…", "Add a fault…",
        "Runtime", "Function", "Status", "Pause updates", "f2",
    ]  # fmt: skip
    assert press(Keys.ARROW_DOWN) == "f1"
    press(Keys.ENTER)
    board.until(lambda: board.texts("#story h2") == ["f1\nqueued"])
    assert active().accessible_name == "Close"
    assert [press(Keys.TAB), press(Keys.TAB)] == ["Cancel the job", "Query"]
    press(Keys.ESCAPE)
    assert not board.find("#story").is_displayed()
    assert active().text == "f1"
    # Go back to the functions of the first runtime, and run one.
    assert [press(Keys.SHIFT, Keys.TAB) for _ in range(10)] == ["f2", *reversed(stops[2:-1])]
    press(Keys.SPACE)
    board.until(lambda: board.texts(".functions > li > code"))
    assert press(Keys.TAB) == "Run add"
    press(Keys.ENTER)
    assert active().accessible_name == "a"
    active().send_keys("1")
    press(Keys.TAB)
    active().send_keys("2", Keys.ENTER)
    board.until(lambda: board.texts("#story h2") == ["add\nqueued"])
    assert board.find("#announcer").text == "The job is queued"


#: Returns the number of visible texts, the lowest contrast among them, and its text (WCAG 2, 1.4.3).
LOWEST_CONTRAST = """
const channels = (color) => color.match(/[\\d.]+/g).map(Number);
const luminance = ([r, g, b]) => {
  const [x, y, z] = [r, g, b].map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
};
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const color = channels(getComputedStyle(at).backgroundColor);
    if (color.length === 3 || color[3] > 0) return color;
  }
  throw new Error("nothing is behind it");
};
const ratio = (color, back) => {
  const [low, high] = [luminance(channels(color)), luminance(back)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
};
const found = [];
for (const element of document.querySelectorAll("body *")) {
  if (!element.checkVisibility() || element.closest(":disabled, svg, .hidden")) continue;
  const style = getComputedStyle(element);
  if (element.placeholder) {
    found.push([ratio(getComputedStyle(element, "::placeholder").color, behind(element)), element.placeholder]);
  }
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  if (own || element.value) found.push([ratio(style.color, behind(element)), element.textContent]);
}
return [found.length, ...found.sort((a, b) => a[0] - b[0])[0]];
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_in(board: Board, scheme: str) -> None:
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    board.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    board.module("POST", "/schemas", [ADD])
    board.call("POST", "/faults", {"kind": "fail_job", "function": "bad", "message": "on purpose"})
    for function in ("good", "running", "canceled", "bad", "queued"):
        board.submit(function)
    board.module("POST", f"/results/{board.take()}", b"{}")
    board.take()
    board.open()
    board.until(lambda: len(board.rows()) == 5)
    light = board.js("return getComputedStyle(document.body).backgroundColor") == "rgb(244, 245, 247)"
    assert light == (scheme == "light")
    board.all("#rows button")[2].click()
    board.until(lambda: board.texts("#story .badge") == ["canceled"] or board.button("Cancel the job").is_displayed())
    board.button("Cancel the job").click()
    board.until(lambda: {row[1] for row in board.rows()} == {"queued", "running", "succeeded", "failed", "canceled"})
    board.find("#runtimes summary")
    seen = []

    def check() -> None:
        number, lowest, text = board.js(LOWEST_CONTRAST)
        seen.append(number)
        assert lowest >= 4.5, (lowest, text)

    check()
    board.button("Close", "#story").click()
    board.find("#runtimes summary").click()
    board.until(lambda: board.all("button[aria-label='Run add']"))
    check()
    board.find("button[aria-label='Run add']").click()
    check()
    board.button("Show as code", "#submit").click()
    check()
    board.button("Close", "#submit").click()
    board.button("Sign out").click()
    check()
    assert min(seen) >= 5 and max(seen) > 80
