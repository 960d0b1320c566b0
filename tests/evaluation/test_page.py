"""The page: what it holds, and what it does in a browser."""

import io
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from yoda_jax.evaluation.page import Comparison, page

BROWSER = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
SIDE = 200


def flat(colour, form="JPEG"):
    file = io.BytesIO()
    Image.new("RGB" if isinstance(colour, tuple) else "L", (SIDE, SIDE), colour).save(file, form)
    return file.getvalue()


def ramp():
    """From 0 at the left to 255 at the right."""
    file = io.BytesIO()
    grey = np.repeat(np.linspace(0, 255, SIDE).astype(np.uint8)[None], SIDE, axis=0)
    Image.fromarray(grey).save(file, "PNG")
    return file.getvalue()


RED, BLUE, GREEN = (200, 0, 0), (0, 0, 200), (0, 200, 0)
COMPARISONS = [
    Comparison(name, {"bicubic": flat(left), "ours": flat(BLUE), "HR": flat(GREEN)}, ramp(), ramp())
    for name, left in (("</script><b>one", RED), ("two", GREEN))
]
TABLES = {"Set5, means": [["", "PSNR dB"], ["<ours>", "27.81 (27.16 - 28.45)"], ["HR", "3 ± 1"]]}


@pytest.fixture(scope="module")
def made():
    return page("Title & co", "How < it was made", TABLES, COMPARISONS, {"Curves": flat(9, "PNG")})


def test_everything_is_in_the_page(made):
    text = made.decode()
    assert "Title &amp; co" in text and "How &lt; it was made" in text
    assert "<td>&lt;ours&gt;</td>" in text and "</script><b>" not in text
    assert "<td>27.81<br><small>(27.16 - 28.45)</small></td>" in text and "<td>3 ± 1</td>" in text
    assert "Curves" in text and "http" not in text and "$$" not in text


def test_a_page_without_pictures_has_no_slider():
    text = page("t", "p", TABLES).decode()
    assert '<section id="pictures" hidden>' in text and "[]</script>" in text


@pytest.fixture(scope="module")
def browser(made, tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_bytes(made)
    options = webdriver.ChromeOptions()
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "window-size=900,1200"):
        options.add_argument(f"--{argument}")
    options.binary_location = BROWSER
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.get(path.as_uri())
    yield driver
    assert driver.get_log("browser") == []
    driver.quit()


@pytest.mark.slow
@pytest.mark.skipif(
    not (BROWSER and DRIVER),
    reason="chromium and chromedriver are not installed (Debian: chromium, chromium-driver)",
)
class TestInABrowser:
    def choose(self, browser, **values):
        for name, value in values.items():
            event = "input" if name in ("split", "time") else "change"
            browser.execute_script(
                "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
                "e.dispatchEvent(new Event(arguments[2]))",
                *(name, value, event),
            )
        time.sleep(0.3)

    def colours(self, browser):
        """Along a line through the stage: the pixels as they are seen."""
        stage = browser.find_element("id", "stage")
        with Image.open(io.BytesIO(stage.screenshot_as_png)) as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        return pixels[pixels.shape[0] // 2]

    def test_the_slider_divides_left_from_right(self, browser):
        for share in (250, 800):
            self.choose(browser, split=share)
            line = self.colours(browser)
            is_left = np.abs(line - RED).max(-1) < 30
            is_right = np.abs(line - BLUE).max(-1) < 30
            border = len(line) * share // 1000
            assert is_left[: border - 5].all() and is_right[border + 5 :].all()

    def test_dragging_over_the_picture_moves_it(self, browser):
        from selenium.webdriver import ActionChains

        stage = browser.find_element("id", "stage")
        width = stage.size["width"]
        chain = ActionChains(browser).move_to_element_with_offset(stage, width // 4, 0)
        chain.click_and_hold().move_by_offset(-width // 2, 0).release().perform()
        assert abs(int(browser.find_element("id", "split").get_property("value")) - 250) < 20

    def test_other_versions_and_pictures_are_shown(self, browser):
        self.choose(browser, split=500, right="HR")
        assert np.abs(self.colours(browser)[-20] - GREEN).max() < 30
        self.choose(browser, picture="two")
        assert np.abs(self.colours(browser)[20] - GREEN).max() < 30
        self.choose(browser, picture="</script><b>one", right="ours")

    def test_the_mask_covers_what_is_at_work(self, browser):
        self.choose(browser, split=0)
        plain = self.colours(browser)
        for left in (75, 25):
            self.choose(browser, overlay="mask", time=left)
            covered = np.abs(self.colours(browser) - plain).max(-1) > 30
            border = len(plain) * left // 100
            assert covered[border + 5 :].all() and not covered[: border - 5].any()
        assert "25 %" in browser.find_element("id", "told").text

    def test_attention_grows_redder(self, browser):
        self.choose(browser, overlay="none", split=0, right="HR")
        plain = self.colours(browser)
        self.choose(browser, overlay="attention")
        more = (self.colours(browser) - plain)[:, 0]
        assert more[5] < 10 and more[-5] > 100 and (np.diff(more[::20]) > -12).all()
        self.choose(browser, overlay="none", left="bicubic", right="ours")

    def test_nothing_is_wider_than_a_phone(self, browser):
        size = {"width": 400, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        script = "return document.documentElement.scrollWidth"
        assert browser.execute_script(script) <= 400

    def test_it_is_dark_where_the_reader_wants_it(self, browser):
        def paper(scheme):
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            script = "return getComputedStyle(document.body).backgroundColor"
            return browser.execute_script(script)

        assert paper("light") == "rgb(255, 255, 255)" and paper("dark") == "rgb(22, 24, 27)"
