"""The report in a browser: it loads without a word on the console or to the outside, sorts, filters and slides."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import pytest

from bench.report import content, page

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (make setup)")
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402 - after the check that selenium is there

ROOT = Path(__file__).resolve().parents[1]
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    BROWSER is None or DRIVER is None, reason="no browser: apt-get install chromium chromium-driver"
)
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-first-run", "--window-size=1280,900"),
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def open_page(browser: Any, page: Path) -> None:
    """A fresh page: on a busy machine ``get`` of the page that is open can return while the old one still answers."""
    browser.get("about:blank")
    browser.get_log("performance")
    browser.get(page.as_uri())
    loaded = "return location.href === arguments[0] && document.readyState === 'complete'"
    WebDriverWait(browser, 60).until(lambda each: each.execute_script(loaded, page.as_uri()))


@pytest.fixture
def opened(browser: Any, toy_page: Path) -> Any:
    open_page(browser, toy_page)
    return browser


def ask(browser: Any, script: str, *arguments: object) -> Any:
    return browser.execute_script(f"return {script}", *arguments)


def column(browser: Any, name: str) -> list[str]:
    """The texts of a column in the rows that are shown."""
    cells = f"document.querySelectorAll('#table tbody tr:not([hidden]) td[data-column=\"{name}\"]')"
    return ask(browser, f"[...{cells}].map((cell) => cell.textContent)")


def press(browser: Any, heading: str) -> None:
    buttons = "[...document.querySelectorAll('#table th button')]"
    ask(browser, f"{buttons}.find((each) => each.textContent === arguments[0]).click()", heading)


def choose(browser: Any, selector: str, value: str, event: str = "change") -> None:
    browser.execute_script(
        "const e = document.querySelector(arguments[0]); e.value = arguments[1];"
        "e.dispatchEvent(new Event(arguments[2], {bubbles: true}));",
        *(selector, value, event),
    )


def test_it_loads_in_silence(opened: Any, toy_page: Path) -> None:
    assert opened.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    ours = [each["request"]["url"] for each in sent if each["documentURL"] == toy_page.as_uri()]
    assert toy_page.as_uri() in ours
    assert all(url.startswith(("file:", "data:")) for url in ours)


def test_headers_sort_both_ways_with_empty_cells_last(opened: Any) -> None:
    press(opened, "F1 %")
    rising = [float(text) for text in column(opened, "F1 %")]
    assert rising == sorted(rising)
    press(opened, "F1 %")
    assert [float(text) for text in column(opened, "F1 %")] == sorted(rising, reverse=True)
    assert ask(opened, "document.querySelectorAll('th[aria-sort=descending]').length") == 1
    for _ in range(2):
        press(opened, "to FP32")
        assert column(opened, "to FP32")[-1] == ""


def test_filters(opened: Any) -> None:
    choose(opened, "#find", "focus w4a4", "input")
    assert column(opened, "Method") == ["selective-focus"]
    assert ask(opened, "document.querySelector('#count').textContent") == "1 of 5 rows"
    choose(opened, "#find", "", "input")
    choose(opened, 'select[data-column="Method"]', "minmax")
    assert column(opened, "Method") == ["minmax", "minmax"]


def test_the_slider_moves_the_border_of_two_methods(opened: Any) -> None:
    clip = "getComputedStyle(document.querySelector('.view .b')).clipPath"
    assert "50%" in ask(opened, clip)
    choose(opened, "#split", "20", "input")
    assert "20%" in ask(opened, clip)
    slider = opened.find_element("id", "split")
    slider.send_keys("\ue014")  # the right arrow key
    assert "21%" in ask(opened, clip)


def test_the_gallery_puts_failures_first_and_can_show_them_alone(opened: Any) -> None:
    choose(opened, "#right", "minmax w4a4")
    captions = "[...document.querySelectorAll('#grid figcaption')].map((each) => each.textContent)"
    failing = [text.startswith("failure") for text in ask(opened, captions)]
    assert failing == sorted(failing, reverse=True)
    assert sum("worst LDS" in text for text in ask(opened, captions)) == 1
    ask(opened, "document.querySelector('#only').click()")
    assert len(ask(opened, captions)) == sum(failing)


def test_light_and_dark(opened: Any) -> None:
    back = "getComputedStyle(document.body).backgroundColor"
    before = ask(opened, back)
    opened.find_element("id", "theme").click()
    assert ask(opened, back) != before


@contextmanager
def shown_at(browser: Any, width: int) -> Iterator[None]:
    """A screen of this width, with everything laid out: what is skipped or clipped cannot be too wide."""
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.execute_script(
        "document.querySelectorAll('.drawn, .made, .grid > figure')"
        ".forEach((each) => { each.style.contentVisibility = 'visible'; })"
    )
    try:
        yield
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_the_screen(opened: Any, width: int, tmp_path: Path) -> None:
    with shown_at(opened, width):
        assert ask(opened, "document.documentElement.scrollWidth") <= width
        assert opened.save_screenshot(str(tmp_path / "page.png"))
    shot = cv2.imread(str(tmp_path / "page.png"))
    assert shot is not None
    assert shot.shape[1] == width
    assert shot.std() > 5


def test_everything_can_be_reached_by_keyboard_and_named(opened: Any) -> None:
    unnamed = (
        "[...document.querySelectorAll('input, select, button, [tabindex], [role=img], img')]"
        ".filter((e) => !(e.labels?.length || e.ariaLabel || e.getAttribute('aria-label')"
        " || e.alt || e.textContent.trim()))"
        ".map((e) => e.outerHTML.slice(0, 80))"
    )
    assert ask(opened, unnamed) == []
    assert ask(opened, "[...document.querySelectorAll('.scroll')].every((e) => e.tabIndex === 0)")


def test_the_report_of_the_committed_records_opens(browser: Any, tmp_path: Path) -> None:
    """What ``make report`` writes, less the files for papers: below 15 MB, silent, every part filled."""
    out = tmp_path / "report.html"
    report = content.gather_report(ROOT / "results" / "reference")
    page.write(report, out, with_files=False)
    assert out.stat().st_size < page.MOST_MB * 2**20
    open_page(browser, out)
    assert browser.get_log("browser") == []
    assert len(column(browser, "F1 %")) == len(report.rows) > 100
    assert ask(browser, "document.querySelectorAll('figure.drawn svg').length") > 50
    assert ask(browser, "document.querySelectorAll('#grid figure').length") > 5
    assert ask(browser, "document.querySelectorAll('.claim .verdict').length") > 50
    with shown_at(browser, 390):
        assert ask(browser, "document.documentElement.scrollWidth") <= 390
