"""The HTML of a run is self-contained, and text in it is escaped."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from conftest import DATA

from diffmoe import Trace
from diffmoe import view as views


class Page(HTMLParser):
    """Collects addresses, tags and text, and checks that tags are balanced."""

    VOID = {"meta", "img", "input", "br"}

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.tags, self.text = [], [], [], []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.addresses += [value for key, value in attributes if key in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.addresses += [value for key, value in attributes if key in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text.append(data)


def test_a_run_shows_itself(eurosat, tmp_path):
    out = eurosat(labels=["Residential", "River"], seed=7, num_inference_steps=3)
    text = out._repr_html_()
    page = Page(text)
    said = " ".join(page.text)
    assert "2 images · 3 steps · heun · guidance 2 · seed 7" in said and "Residential · C" in said
    assert page.addresses and all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert not re.search(r"https?://|@import|url\(", text), "nothing is fetched"
    assert len(text) < 400_000
    assert text != out._repr_html_(), "every output has its own id"
    out.save_html(tmp_path / "run.html")
    assert (tmp_path / "run.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_text_is_escaped():
    trace = Trace.load(DATA / "prompts.json")
    evil = '</script><img src=x onerror="alert(1)">\u2028'
    trace.model, trace.labels = evil, [[evil] * 3]
    text = trace._repr_html_()
    page = Page(text)
    assert evil not in text and not any("onerror" in attributes for _, attributes in page.tags)
    assert text.count("</script>") == 1


def test_long_runs_and_many_images_are_limited():
    trace = Trace.load(DATA / "eurosat.json")
    steps = 100
    one = np.flatnonzero(trace.step == 0)[:2]
    trace.step, trace.time = (
        np.repeat(np.arange(steps, dtype=np.uint32), 2),
        np.repeat(np.linspace(0, 1, steps, dtype=np.float32), 2),
    )
    trace.guided, trace.masks = np.tile(trace.guided[one], steps), np.tile(trace.masks[one], (steps, 1, 10))
    trace.labels = [trace.labels[0] * 10]
    trace.check()
    data = views._data(trace, None, views._shown_steps(trace), views.MOST_IMAGES)
    assert len(data["steps"]) == views.MOST_STEPS and data["steps"][-1][0] == data["last"] == 99
    text = trace._repr_html_()
    assert "first 6 of 20 images" in text and len(text) < 400_000
    Page(text)


def test_masks_in_the_data():
    import base64

    trace = Trace.load(DATA / "prompts.json")
    data = views._data(trace, None, [0, 1, 2, 3], 3)
    masks = np.frombuffer(base64.b64decode(data["masks"]), np.uint8).reshape(4, 1, 3, 3, 3)
    assert data["bytes"] == 1
    for step in range(4):
        assert np.array_equal(masks[step], trace.maps(step))


@pytest.mark.parametrize("kind", ["capacity", "loads"])
def test_plots(kind):
    import matplotlib

    matplotlib.use("Agg")
    trace = Trace.load(DATA / "eurosat.json")
    axes = trace.plot(kind)
    assert axes.get_xlabel() == "step"
    if kind == "capacity":
        assert axes.lines[-1].get_ydata() == pytest.approx(trace.capacity_by_step())
    with pytest.raises(ValueError, match="capacity"):
        trace.plot("bars")
