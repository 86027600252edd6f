"""What a page of the report must hold in a browser: findings as sentences, none when all is well."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser

__all__ = ["FLAGS", "chromium", "findings", "opened"]

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)

_CHECKS = """() => {
  const found = [];
  const shown = text => JSON.stringify(text.trim().replace(/\\s+/g, " ").slice(0, 60));
  const visible = e => e.checkVisibility({ visibilityProperty: true, opacityProperty: true })
    && e.getBoundingClientRect().width > 0;

  // Charts: a drawn SVG with a mark of some size in every container.
  const MARKS = ".points path, .bars .point path, path.box, path.js-line, path.js-fill";
  for (const plot of document.querySelectorAll(".plot")) {
    const marks = [...plot.querySelectorAll(MARKS)].filter(mark => {
      const box = mark.getBoundingClientRect();
      const style = getComputedStyle(mark);
      return (box.width > 1 || box.height > 1) && style.visibility !== "hidden" && style.opacity !== "0";
    });
    if (!plot.querySelector("svg.main-svg") || !marks.length) found.push(`empty chart: ${plot.id}`);
    const width = plot.getBoundingClientRect().width;
    for (const svg of plot.querySelectorAll("svg.main-svg")) {
      const box = svg.getBoundingClientRect();
      if (Math.abs(box.width - width) > 2) found.push(`chart is not as wide as its place: ${plot.id}`);
    }
  }

  // SVG text: inside its own picture, on nothing else that is text.
  for (const plot of document.querySelectorAll(".plot")) {
    const frame = plot.getBoundingClientRect();
    const texts = [...plot.querySelectorAll("text")].filter(text => text.textContent.trim() && visible(text));
    const boxes = texts.map(text => text.getBoundingClientRect());
    texts.forEach((text, i) => {
      const box = boxes[i], own = text.closest("svg").getBoundingClientRect();
      const left = Math.max(frame.left, own.left), right = Math.min(frame.right, own.right);
      const top = Math.max(frame.top, own.top), bottom = Math.min(frame.bottom, own.bottom);
      if (box.left < left - 1 || box.right > right + 1 || box.top < top - 1 || box.bottom > bottom + 1)
        found.push(`cut off in ${plot.id}: ${shown(text.textContent)}`);
      for (let j = 0; j < i; j++) {
        const wide = Math.min(box.right, boxes[j].right) - Math.max(box.left, boxes[j].left);
        const high = Math.min(box.bottom, boxes[j].bottom) - Math.max(box.top, boxes[j].top);
        if (wide > 1 && high > 3)
          found.push(`on each other in ${plot.id}: ${shown(text.textContent)}, ${shown(texts[j].textContent)}`);
      }
    });
  }

  // HTML text: no box smaller than what is in it, no page wider than the screen.
  const root = document.documentElement;
  if (root.scrollWidth > root.clientWidth) found.push(`the page is ${root.scrollWidth} wide on ${root.clientWidth}`);
  for (const e of document.querySelectorAll("body *")) {
    if (e.closest("svg, script, .plot, .scroll") || !visible(e) || getComputedStyle(e).display === "inline") continue;
    if (e.scrollWidth > e.clientWidth + 1) found.push(`cut off in <${e.localName}>: ${shown(e.textContent)}`);
    const box = e.getBoundingClientRect();
    if (box.right > root.clientWidth + 1 || box.left < -1) found.push(`off the screen: ${shown(e.textContent)}`);
  }

  // Text: large enough, and apart from what is behind it.
  const parse = colour => {
    const parts = colour.match(/[\\d.]+/g).map(Number);
    return [parts[0], parts[1], parts[2], parts.length > 3 ? parts[3] : 1];
  };
  const over = (top, under) => [0, 1, 2].map(i => top[i] * top[3] + under[i] * (1 - top[3]));
  const behind = e => {
    const layers = [];
    for (; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour[3] > 0) layers.push(colour);
      if (colour[3] === 1) break;
    }
    return layers.reduceRight((under, layer) => over(layer, under), [255, 255, 255]);
  };
  const light = colour => {
    const [r, g, b] = colour.map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const seen = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || seen.has(e)) continue;
    if (e.closest("script, style, .hoverlayer") || !visible(e)) continue;
    seen.add(e);
    const style = getComputedStyle(e), words = shown(walker.currentNode.data);
    const size = parseFloat(style.fontSize);
    if (size < 11) found.push(`too small, ${size} px: ${words}`);
    const under = behind(e), own = parse(e.closest("svg") ? style.fill : style.color);
    own[3] *= parseFloat(style.opacity);
    const [low, high] = [light(under), light(over(own, under))].sort((a, b) => a - b);
    const contrast = (high + 0.05) / (low + 0.05);
    if (contrast < 4.5) found.push(`contrast ${contrast.toFixed(2)}: ${words}`);
  }
  return found;
}"""


def chromium() -> str | None:
    """The browser: PRECAST_CHROMIUM, what the system has, or playwright's own."""
    named = os.environ.get("PRECAST_CHROMIUM")
    if named:
        return named
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if Path(own).is_file() else None


@contextmanager
def opened(
    browser: Browser, page: str | Path, *, theme: Any = "light", width: int = 1280
) -> Iterator[tuple[Any, list[str]]]:
    """The page with all charts drawn, and what the console and the network said so far."""
    height = 900 if width > 500 else 844
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
    said: list[str] = []
    address = Path(page).as_uri()
    try:
        view = context.new_page()
        view.on("console", lambda message: said.append(f"console {message.type}: {message.text}"))
        view.on("pageerror", lambda error: said.append(f"error: {error}"))
        view.on("request", lambda request: said.append(f"request: {request.url}") if asked(request.url, address) else 0)
        view.goto(address)
        view.wait_for_selector("html[data-drawn=yes]", state="attached", timeout=120_000)
        yield view, said
    finally:
        context.close()


def asked(url: str, address: str) -> bool:
    return url.partition("#")[0] != address and not url.startswith(("data:", "blob:"))


def findings(view: Any, said: list[str]) -> list[str]:
    """All that is wrong with an opened page."""
    return [*said, *view.evaluate(_CHECKS)]
