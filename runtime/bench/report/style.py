"""The page's style and its one small script, as text: an editable install would keep a stale copy of a data file."""

from __future__ import annotations

__all__ = ["SCRIPT", "STYLE"]

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f7f6f3; --card: #ffffff; --ink: #1b1e23; --soft: #575d67; --line: #e2dfd8; --strong: #c9c5bc;
  --accent: #ad4700; --mark: #d55e00; --tint: #fdf1e7; --good: #e9f2f8; --good-ink: #0a5380; --link: #0a5f94;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  --mono: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #121417; --card: #1a1d22; --ink: #ebe9e4; --soft: #a7adb7; --line: #2c3037; --strong: #434954;
    --accent: #ff9d5c; --mark: #d55e00; --tint: #2c2018; --good: #16262f; --good-ink: #8ccbf2; --link: #82c4ee;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 var(--sans); overflow-wrap: anywhere; }
main, header.top, nav.jump > div { max-width: 76rem; margin: 0 auto; padding: 0 1.25rem; }
header.top { padding-top: 3rem; padding-bottom: 1.5rem; }
.eyebrow { margin: 0 0 .4rem; color: var(--accent); font-size: .8rem; font-weight: 650; letter-spacing: .09em;
  text-transform: uppercase; }
h1 { margin: 0; font-size: clamp(1.7rem, 4.5vw, 2.6rem); line-height: 1.15; letter-spacing: -.022em; font-weight: 700; }
h2 { margin: 0; font-size: 1.6rem; line-height: 1.2; letter-spacing: -.015em; }
h3 { margin: 2.6rem 0 .2rem; font-size: 1.12rem; letter-spacing: -.005em; }
h4 { margin: 0; font-size: .95rem; font-weight: 620; }
p { margin: .5rem 0; max-width: 46rem; }
a { color: var(--link); text-underline-offset: .18em; }
.facts { margin: 1rem 0 0; padding: 0; display: flex; flex-wrap: wrap; gap: .3rem 1.6rem; list-style: none;
  color: var(--soft); font-size: .92rem; }
.facts b { color: var(--ink); font-weight: 600; }
nav.jump { position: sticky; top: 0; z-index: 5; background: var(--page); border-bottom: 1px solid var(--line); }
nav.jump .scroll { display: flex; gap: 1.4rem; overflow-x: auto; white-space: nowrap; padding: .65rem 0;
  font-size: .9rem; scrollbar-width: none; }
nav.jump a { color: var(--soft); text-decoration: none; }
nav.jump a:hover, nav.jump a:focus { color: var(--ink); text-decoration: underline; }
section { padding: 3rem 0 1rem; border-bottom: 1px solid var(--line); scroll-margin-top: 2.5rem; }
section:last-of-type { border-bottom: 0; }
.soft, .note { color: var(--soft); }
.note, .missing { font-size: .88rem; }
.missing { color: var(--soft); margin: .35rem 0 0; }
.lead { font-size: 1.12rem; max-width: 50rem; }
.points { margin: .6rem 0 0; padding-left: 1.15rem; max-width: 54rem; }
@media (min-width: 60rem) { .points { columns: 2; column-gap: 3rem; max-width: none; } }
.points li { break-inside: avoid; margin: .22rem 0; }
.behind { margin: 1.1rem 0; padding: .5rem 1.15rem .7rem; border-left: 4px solid var(--mark); background: var(--tint);
  border-radius: 0 8px 8px 0; max-width: 58rem; }
.behind summary { font-weight: 650; color: var(--accent); }
.grid { display: grid; gap: 1rem; margin-top: .9rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 23rem), 1fr)); }
.grid > figure { min-width: 0; }
.grid.alone { grid-template-columns: minmax(0, 1fr); }
.grid.wide { grid-template-columns: repeat(auto-fill, minmax(min(100%, 28rem), 1fr)); }
figure { margin: 0; padding: 1rem 1rem .7rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 12px; }
figcaption { margin-top: .3rem; font-size: .84rem; color: var(--soft); }
.plot { width: 100%; margin-top: .5rem; }
.legend { display: flex; flex-wrap: wrap; gap: .15rem .95rem; margin: .35rem 0 .2rem; padding: 0; list-style: none;
  font-size: .84rem; }
.legend li { display: inline-flex; align-items: center; gap: .38rem; min-width: 0; }
.mark { width: 14px; height: 14px; flex: none; }
details { margin-top: .5rem; font-size: .88rem; }
summary { cursor: pointer; color: var(--soft); width: fit-content; }
summary:hover { color: var(--ink); }
.scroll { overflow-x: auto; max-width: 100%; -webkit-overflow-scrolling: touch; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; margin-top: .5rem;
  overflow-wrap: normal; }
th, td { padding: .38rem .95rem .38rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line);
  max-width: 26rem; }
th { font-weight: 600; color: var(--soft); border-bottom-color: var(--strong); }
td.number { white-space: nowrap; }
tbody th { color: var(--ink); border-bottom-color: var(--line); }
table.glance { margin-top: 1rem; }
table.glance td, table.glance th { padding: .5rem .7rem; min-width: 6rem; }
table.glance tbody th { padding-left: 0; min-width: 9rem; }
table.glance thead th { vertical-align: bottom; }
td.ahead { background: var(--good); color: var(--good-ink); }
td.lost { background: var(--tint); color: var(--accent); font-weight: 650; }
td.none { color: var(--soft); }
td small { display: block; font-size: .78rem; font-weight: 400; }
dl { display: grid; grid-template-columns: minmax(7rem, max-content) minmax(0, 1fr); gap: .35rem 1.4rem;
  margin: .8rem 0; }
dt { color: var(--soft); }
dd { margin: 0; }
pre { margin: .6rem 0; padding: .8rem 1rem; background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  font: .86rem/1.5 var(--mono); white-space: pre-wrap; }
footer { padding: 2rem 0 3rem; color: var(--soft); font-size: .86rem; }
.js-plotly-plot text { fill: var(--soft) !important; }
.js-plotly-plot .ytick text, .js-plotly-plot .annotation-text { fill: var(--ink) !important; }
.js-plotly-plot .hoverlayer text { fill: #f4f3ef !important; }
@media (max-width: 40rem) {
  body { font-size: 15.5px; }
  header.top { padding-top: 1.8rem; }
  main, header.top, nav.jump > div { padding-left: 1rem; padding-right: 1rem; }
  section { padding-top: 2.2rem; }
  figure { padding: .85rem .75rem .6rem; }
  dl { grid-template-columns: minmax(0, 1fr); gap: 0; }
  dd { margin-bottom: .6rem; }
}
@media print { nav.jump { display: none; } figure { break-inside: avoid; } }
"""

# One chart a turn of the event loop: the page can be read while they come.
SCRIPT = """
(function () {
  "use strict";
  var figures = JSON.parse(document.getElementById("figures").textContent);
  var names = Object.keys(figures);
  var config = { responsive: true, displayModeBar: false, typesetMath: false, showTips: false };
  function next() {
    var name = names.shift();
    if (!name) { document.documentElement.dataset.drawn = "yes"; return; }
    Plotly.newPlot(name, figures[name].data, figures[name].layout, config).then(function () { setTimeout(next, 0); });
  }
  next();
})();
"""
