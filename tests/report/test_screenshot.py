"""The pages in a browser: every figure is painted, nothing sticks out, and no network is needed."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from matplotlib.image import imread

from tests.report.test_page import full_run
from ts_lightning.report import Comparison, write_comparison_page, write_page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "headless_shell")
INSTALLED = [found for name in NAMES if (found := shutil.which(name))]
# as Playwright installs it
INSTALLED += sorted(map(str, Path.home().glob(".cache/ms-playwright/chromium*/chrome-*/*[sS]hell")))
INSTALLED += sorted(map(str, Path.home().glob(".cache/ms-playwright/chromium*/chrome-*/chrome")))
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=1"),
    *("--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND"),
)
#: says where the pictures lie, how large they are by themselves, and how wide the page is
PROBE = """<script>window.addEventListener("load", () => {
  const images = [...document.images].map((image) => {
    const box = image.getBoundingClientRect();
    return { name: image.alt, natural: image.naturalWidth, box: [box.left, box.top, box.right, box.bottom] };
  });
  const found = { images, width: document.documentElement.scrollWidth, inner: innerWidth };
  const textContent = JSON.stringify(found);
  document.body.append(Object.assign(document.createElement("pre"), { id: "probe", textContent }));
})</script>"""
#: the colours of curves, told apart from ink and rules by being strong
STRONG = 0.2


def works(browser):
    """Whether it starts: some systems have a script of this name that only tells how to install it."""
    return subprocess.run([browser, "--version"], capture_output=True, timeout=60).returncode == 0


BROWSER = next(filter(works, INSTALLED), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome on the PATH, or Playwright's")


def browse(page, folder, width):
    """What the probe found in a page, and the screenshot of it (height, width, 3), 6,000 pixels high."""
    probed = page.with_name("probed.html")
    probed.write_text(page.read_text(encoding="utf-8").replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    size = (f"--window-size={width},6000", f"--user-data-dir={folder / 'profile'}")

    screenshot = folder / "page.png"
    done = subprocess.run(
        [BROWSER, *OPTIONS, *size, f"--screenshot={screenshot}", "--dump-dom", probed.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout)
    return json.loads(found[1].replace("&amp;", "&")), imread(screenshot)[..., :3]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    runs = [full_run(folder / space, space) for space in ("target", "weight")]
    return {"run": write_page(runs[0]), "comparison": write_comparison_page(Comparison.of(runs), folder)}


@pytest.mark.parametrize("width", [1200, 500])
@pytest.mark.parametrize("kind", ["run", "comparison"])
def test_every_figure_is_painted(kind, width, pages, tmp_path):
    found, screenshot = browse(pages[kind], tmp_path, width)
    assert len(found["images"]) == 11
    assert found["width"] <= found["inner"]
    for image in found["images"]:
        left, top, right, bottom = (round(edge) for edge in image["box"])
        assert image["natural"] > 0, image
        assert right - left > 200, image
        painted = screenshot[top:bottom, left:right]
        assert painted.size, image
        strong = painted.max(axis=2) - painted.min(axis=2) > STRONG
        assert strong.sum() > 50, f"{image['name']}: {strong.sum()} pixels of colour"
