"""A page of an application in a browser, and the emulator's page on which a user signs in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait


class PageInBrowser:
    """A page in a browser.

    Attributes:
        browser: The browser.
        origin: The origin of the page.
    """

    def __init__(self, browser: webdriver.Chrome, origin: str) -> None:
        self.browser = browser
        self.origin = origin

    def until(self, condition: Callable[[], Any]) -> Any:
        """Wait until a condition holds; return what it returned."""
        try:
            return WebDriverWait(self.browser, 20, 0.05).until(lambda _: condition())
        except Exception as error:
            page = self.browser.find_element(By.TAG_NAME, "body").text
            log = self.browser.get_log("browser")
            raise AssertionError(f"{self.browser.current_url} shows {page!r}; {log}") from error

    def click(self, selector: str) -> None:
        """Click on an element of the page."""
        self.browser.find_element(By.CSS_SELECTOR, selector).click()

    def choose(self, name: str) -> None:
        """Choose a user, or cancel, on the page of the emulator."""

        def buttons() -> Any:
            found = self.browser.find_elements(By.CSS_SELECTOR, "form[action=authorize] button")
            return [each for each in found if each.text.partition("\n")[0] == name]

        self.until(buttons)[0].click()
