"""The page, in a real headless Chromium: load, ask, see the answer grow, stop, compare, bad input."""

import io
import json
import re
import shutil
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from alpaca import decoding, ui
from alpaca.decoding import Sampling
from alpaca.infer_config import InferConfig, UiConfig
from alpaca.streams import Streams
from tests import forks
from tests.commands import ROOT
from tests.tiny import TINY_ROWS

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
    """Addresses: one model, two side by side, one behind a password, one where a single question may wait."""
    single = InferConfig(run=str(tiny_run), ui=UiConfig("gradio", port=0))
    double = InferConfig(compare=[str(tiny_run), str(tiny_lora_run)], ui=UiConfig("gradio", port=0))
    locked = InferConfig(run=str(tiny_run), ui=UiConfig("gradio", port=0, user="me", password="secret"))
    first = [ui.Column(n, Streams(m)) for n, m in ui.models(single)]
    both = [ui.Column(n, Streams(m)) for n, m in ui.models(double)]
    narrow = [ui.Column("narrow", Streams(first[0].streams.loaded, capacity=1, limit=1))]
    started = [
        ui.launch(columns, Sampling(max_new_tokens=200), config)
        for columns, config in ((first, single), (both, double), (first, locked), (narrow, single))
    ]
    yield dict(zip(("one", "two", "locked", "narrow"), (address for _, address in started), strict=True))
    for page, _ in started:
        page.close(verbose=False)


def until(check: Callable[[], Any], what: str) -> Any:
    for _ in range(1200):
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


def test_a_question_is_answered_and_the_prompt_is_shown_and_the_history_saved(browser: Any, pages: dict[str, str], tmp_path: Path) -> None:  # fmt: skip
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
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    press(browser, "save")
    saved = until(lambda: (tmp_path / "history.jsonl").read_text(), "the file")
    answers = {"run": TINY_ROWS[3]["output"]}
    assert json.loads(saved) == {"instruction": "Say word 3.", "input": "loudly", "answers": answers}
    names = browser.execute_script("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert [n for n in names if not n.startswith((pages["one"].rstrip("/"), "data:", "blob:"))] == []


def test_the_answer_grows_and_stops_by_keyboard(browser: Any, pages: dict[str, str], slow: None) -> None:
    from selenium.webdriver.common.keys import Keys

    open_page(browser, pages["one"])
    type_into(browser, "instruction", "Count to sixty.")
    browser.find_element("css selector", "#instruction textarea").send_keys(Keys.CONTROL, Keys.ENTER)
    lengths = set()
    until(lambda: lengths.add(len(value(browser, "answer0"))) or len(lengths) > 4, "an answer that grows")
    browser.find_element("css selector", "body").send_keys(Keys.ESCAPE)
    until(lambda: "stopped" in status(browser), "the stop")
    answer = value(browser, "answer0")
    assert answer and answer != COUNT and COUNT.startswith(answer)


def test_two_models_side_by_side(browser: Any, pages: dict[str, str]) -> None:
    open_page(browser, pages["two"])
    type_into(browser, "instruction", "Say word 1.")
    press(browser, "ask")
    until(lambda: value(browser, "answer0") == TINY_ROWS[1]["output"], "the first answer")
    second = " ".join(TINY_ROWS[1]["output"].split()[::-1])
    assert until(lambda: value(browser, "answer1") == second, "the second answer")


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


def test_a_question_too_many_is_told_to_wait(
    browser: Any, pages: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pick = decoding.pick
    stopped = threading.Event()  # until then the first answer takes minutes, and two more pages open before it ends
    monkeypatch.setattr(decoding, "pick", lambda *a: (stopped.wait(1), pick(*a))[1])
    tabs = [browser.current_window_handle]
    for number in range(3):
        if number:
            browser.switch_to.new_window("tab")
            tabs.append(browser.current_window_handle)
        open_page(browser, pages["narrow"])
        type_into(browser, "instruction", "Count to sixty.")
        press(browser, "ask")
        words = ("tokens/s", "waiting", "2 questions are waiting already: try again")[number]
        until(lambda words=words: words in status(browser), f"{words} in tab {number}")
    browser.close()
    browser.switch_to.window(tabs[0])
    press(browser, "stop")
    until(lambda: "stopped" in status(browser), "the stop")
    stopped.set()
    browser.switch_to.window(tabs[1])
    assert until(lambda: "tokens/s" in status(browser), "the turn of the one that waited")
    browser.close()
    browser.switch_to.window(tabs[0])


def test_a_password_is_asked_for(browser: Any, pages: dict[str, str]) -> None:
    for password, there in (("wrong", False), ("secret", True)):
        browser.get(pages["locked"])
        boxes = until(lambda: browser.find_elements("css selector", "input"), "the login")
        assert not browser.find_elements("css selector", "#ask")
        for box, text in zip(boxes, ("me", password), strict=True):
            box.send_keys(text)
        browser.find_element("css selector", "button").click()
        found = until(lambda: browser.find_elements("css selector", "#ask") or "ncorrect" in browser.page_source, "an answer")  # fmt: skip
        assert isinstance(found, list) == there


def brightness(browser: Any) -> int:
    """Of the page's corner, as a person sees it: 0 is black, 255 white."""
    return Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("L").getpixel((3, 300))


def test_light_and_dark(browser: Any, pages: dict[str, str]) -> None:
    open_page(browser, pages["one"])
    assert brightness(browser) > 200
    press(browser, "theme")
    until(lambda: brightness(browser) < 60, "a dark page")
    press(browser, "theme")
    until(lambda: brightness(browser) > 200, "a light page")


def test_a_phone_has_no_sideways_scroll(browser: Any, pages: dict[str, str]) -> None:
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    open_page(browser, pages["two"])
    wide, seen = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= seen == 390
    type_into(browser, "instruction", "Say word 1.")
    press(browser, "ask")
    until(lambda: value(browser, "answer1").split()[::-1] == TINY_ROWS[1]["output"].split(), "the second answer")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_columns_are_told_apart_by_as_much_of_their_paths_as_it_takes() -> None:
    assert ui.labels(["outputs/a", "outputs/b/", "hub/c/model"]) == ["a", "b", "c"]
    assert ui.labels(["x/seed1/run", "y/seed1/run", "x/seed2/run"]) == ["x/seed1/run", "y/seed1/run", "x/seed2/run"]
    assert ui.labels(["a/run", "a/run/model"]) == ["1. run", "2. run"]


@pytest.mark.slow
def test_the_page_of_the_newest_finished_run(tiny_run: Path, tmp_path: Path) -> None:
    for name, status in (("older", "completed"), ("newest", "completed"), ("failed", "failed")):
        folder = tmp_path / "outputs" / "2026-01-01" / name
        shutil.copytree(tiny_run, folder)
        (folder / "result.json").write_text(json.dumps({"status": status}))
        time.sleep(0.05)
    started, end = forks.Forked([str(ROOT / "infer.py"), "ui=gradio", "ui.port=0"], tmp_path), time.monotonic() + 120
    try:
        while not re.search(r"the page is at \S+\s", said := started.stderr):
            assert started.poll() is None and time.monotonic() < end, said
            time.sleep(0.05)
        assert "the newest finished run is outputs/2026-01-01/newest" in said
        address = said.split("the page is at ")[1].split()[0]
        assert '"title":"newest"' in urllib.request.urlopen(address).read().decode()
    finally:
        started.terminate()
        started.wait(30)
