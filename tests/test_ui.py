"""The page, in a real headless Chromium: load, ask, see the answer grow, stop, compare, bad input."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from alpaca import decoding, ui
from alpaca.decoding import Sampling
from alpaca.infer_config import InferConfig, UiConfig
from alpaca.streams import Streams
from tests.helpers import TINY_ROWS

pytestmark = pytest.mark.browser
TINY_PROMPT = "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
COUNT = TINY_ROWS[-1]["output"]
FLAGS = ["headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"]
FLAGS += ["disable-component-update", "disable-sync", "window-size=1200,900"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no chromium with chromedriver here: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in [*FLAGS, f"user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument("--" + flag)
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()


@pytest.fixture(scope="module")
def pages(tiny_run: Path, tiny_lora_run: Path) -> Iterator[dict[str, str]]:
    """Addresses: one model, two side by side, one behind a password."""
    single = InferConfig(run=str(tiny_run), ui=UiConfig("gradio", port=0))
    double = InferConfig(compare=[str(tiny_run), str(tiny_lora_run)], ui=UiConfig("gradio", port=0))
    locked = InferConfig(run=str(tiny_run), ui=UiConfig("gradio", port=0, user="me", password="secret"))
    first = [ui.Column(n, Streams(m)) for n, m in ui.models(single)]
    both = [ui.Column(n, Streams(m)) for n, m in ui.models(double)]
    started = [
        ui.launch(columns, Sampling(max_new_tokens=200), config)
        for columns, config in ((first, single), (both, double), (first, locked))
    ]
    yield dict(zip(("one", "two", "locked"), (address for _, address in started), strict=True))
    for page, _ in started:
        page.close(verbose=False)


def until(check: Callable[[], Any], what: str) -> Any:
    for _ in range(600):
        try:
            if found := check():
                return found
        except Exception:
            pass
        time.sleep(0.05)
    raise AssertionError(f"waited for {what}")


def open_page(browser: Any, address: str) -> None:
    browser.get(address)
    until(lambda: browser.find_element("css selector", "#instruction textarea").is_displayed(), "the page")


def value(browser: Any, name: str) -> str:
    return browser.find_element("css selector", f"#{name} textarea").get_attribute("value") or ""


def status(browser: Any, i: int = 0) -> str:
    return browser.find_element("css selector", f"#status{i}").text


def type_into(browser: Any, name: str, text: str) -> None:
    box = browser.find_element("css selector", f"#{name} textarea")
    box.clear()
    box.send_keys(text)


def press(browser: Any, name: str) -> None:
    browser.find_element("css selector", f"#{name}").click()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    pick = decoding.pick
    monkeypatch.setattr(decoding, "pick", lambda *a: (time.sleep(0.03), pick(*a))[1])


def test_a_question_is_answered_and_the_prompt_and_history_are_shown(browser: Any, pages: dict[str, str]) -> None:
    open_page(browser, pages["one"])
    type_into(browser, "instruction", "Say word 3.")
    type_into(browser, "input", "loudly")
    press(browser, "ask")
    until(lambda: value(browser, "answer0") == TINY_ROWS[3]["output"], "the answer")
    until(lambda: "4 tokens," in status(browser) and "tokens/s" in status(browser), "tokens/s")
    for fold in browser.find_elements("css selector", "button.label-wrap"):
        if fold.text.startswith(("The prompt", "History")):
            fold.click()
    prompt = TINY_PROMPT.format(instruction="Say word 3.", input="loudly")
    until(lambda: value(browser, "sent0") == prompt, "the prompt")
    until(lambda: "Say word 3." in browser.find_element("css selector", "#history").text, "the history")
    names = browser.execute_script("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert [n for n in names if not n.startswith((pages["one"].rstrip("/"), "data:", "blob:"))] == []


def test_the_answer_grows_and_stops_by_keyboard(browser: Any, pages: dict[str, str], slow: None) -> None:
    from selenium.webdriver.common.keys import Keys

    open_page(browser, pages["one"])
    type_into(browser, "instruction", "Count to sixty.")
    browser.find_element("css selector", "#instruction textarea").send_keys(Keys.CONTROL, Keys.ENTER)
    lengths = set()
    until(lambda: lengths.add(len(value(browser, "answer0"))) or len(lengths) > 4, "an answer that grows")
    press(browser, "stop")
    until(lambda: "stopped" in status(browser), "the stop")
    answer = value(browser, "answer0")
    assert answer and answer != COUNT and COUNT.startswith(answer)


def test_two_models_side_by_side(browser: Any, pages: dict[str, str]) -> None:
    open_page(browser, pages["two"])
    type_into(browser, "instruction", "Say word 1.")
    press(browser, "ask")
    until(lambda: value(browser, "answer0") == TINY_ROWS[1]["output"], "the first answer")
    until(lambda: value(browser, "answer1").split()[::-1] == TINY_ROWS[1]["output"].split(), "the second answer")


def test_bad_input_and_a_failure_are_a_message(
    browser: Any, pages: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_page(browser, pages["one"])
    press(browser, "ask")
    until(lambda: "the instruction is empty" in status(browser), "a word about the empty box")
    script = "const t = document.querySelector('#instruction textarea'); t.value = 'long '.repeat(2000);"
    browser.execute_script(script + "t.dispatchEvent(new Event('input', {bubbles: true}));")
    press(browser, "ask")
    until(lambda: "the model takes 1024: shorten it" in status(browser), "a word about the length")
    type_into(browser, "instruction", "Count to sixty.")
    pick, calls = decoding.pick, []

    def breaking(*words: Any) -> Any:
        calls.append(1)
        if len(calls) > 9:
            raise RuntimeError("broken inside")
        return pick(*words)

    monkeypatch.setattr(decoding, "pick", breaking)
    press(browser, "ask")
    until(lambda: "the model failed (RuntimeError)" in status(browser), "a word about the failure")
    assert "Traceback" not in browser.page_source and "broken inside" not in browser.page_source


def test_a_password_is_asked_for(browser: Any, pages: dict[str, str]) -> None:
    browser.get(pages["locked"])
    until(lambda: browser.find_elements("css selector", "input[type=password]"), "the login")
    assert not browser.find_elements("css selector", "#ask")


def test_a_phone_has_no_sideways_scroll(browser: Any, pages: dict[str, str]) -> None:
    browser.set_window_size(500, 900)  # Chromium's narrowest window; the page is narrower still in a frame
    open_page(browser, pages["two"])
    wide, seen = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= seen
    browser.set_window_size(1200, 900)
