"""The page of live charts: no script from the net, drawn as SVG in the browser."""

from __future__ import annotations

from typing import Final

__all__ = ["PAGE"]

PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>4K load test</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root { color-scheme: light dark; --line: #1a73e8; --second: #e8710a; --grid: #8884; }
body { font: 15px/1.4 system-ui, sans-serif; max-width: 70rem; margin: 0 auto; padding: 1rem; }
dl { display: flex; flex-wrap: wrap; gap: .5rem 2rem; margin: 1rem 0; }
dt { font-size: .8rem; opacity: .7; } dd { margin: 0; font-size: 1.6rem; }
h2 { font-size: 1rem; margin: 1.5rem 0 .3rem; }
svg { width: 100%; height: 14rem; } path { fill: none; stroke-width: 2; }
text { font-size: 12px; fill: currentColor; opacity: .7; } a { color: var(--line); }
.key { font-size: .85rem; } .key b { font-weight: 400; margin-right: 1rem; }
</style></head><body>
<h1>4K load test</h1><p id="state">No run yet: <a href="/">start one</a>.</p>
<dl id="row"></dl>
<h2>4K frames per second</h2><p class="key"><b style="color:var(--line)">answered right</b>
<b style="color:var(--second)">failures</b></p><svg id="rate" viewBox="0 0 900 220"></svg>
<h2>Latency, ms</h2><p class="key"><b style="color:var(--line)">p50</b>
<b style="color:var(--second)">p99</b></p><svg id="latency" viewBox="0 0 900 220"></svg>
<script>
const W = 900, H = 220, LEFT = 50, BOTTOM = 20;
function node(svg, name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const key in attributes) made.setAttribute(key, attributes[key]);
  if (text !== undefined) made.textContent = text;
  svg.append(made);
}
function draw(id, seconds, lines) {
  const svg = document.getElementById(id);
  svg.replaceChildren();
  const top = Math.max(1e-9, ...lines.flatMap(line => line.values)) * 1.1;
  const first = seconds[0], span = Math.max(1, seconds.at(-1) - first);
  const x = s => LEFT + (s - first) / span * (W - LEFT - 10);
  const y = v => (H - BOTTOM) * (1 - v / top) + 5;
  for (let i = 0; i <= 4; i++) {
    const v = top * i / 4;
    node(svg, "line", {x1: LEFT, x2: W, y1: y(v), y2: y(v), stroke: "var(--grid)"});
    node(svg, "text", {x: 0, y: y(v) + 4}, v < 10 ? v.toFixed(2) : v.toFixed(0));
  }
  node(svg, "text", {x: LEFT, y: H}, first + " s");
  node(svg, "text", {x: W - 50, y: H}, seconds.at(-1) + " s");
  for (const line of lines) {
    const points = line.values.map((v, i) => x(seconds[i]).toFixed(1) + "," + y(v).toFixed(1));
    node(svg, "path", {d: "M" + points.join("L"), stroke: line.colour});
  }
}
async function refresh() {
  const data = await (await fetch("/4k/series")).json();
  if (!data.seconds.length) return;
  document.getElementById("state").textContent =
    "The last seconds of the run; figures above the charts are of the last ten.";
  const row = document.getElementById("row");
  row.replaceChildren();
  for (const key in data.titles) {
    const title = document.createElement("dt"), value = document.createElement("dd");
    title.textContent = data.titles[key];
    value.textContent = data.row[key];
    const pair = document.createElement("div");
    pair.append(title, value);
    row.append(pair);
  }
  const blue = "var(--line)", orange = "var(--second)";
  draw("rate", data.seconds, [{values: data.goodput, colour: blue},
                              {values: data.failures, colour: orange}]);
  draw("latency", data.seconds, [{values: data.p50, colour: blue},
                                 {values: data.p99, colour: orange}]);
}
setInterval(() => refresh().catch(() => {}), 1000);
</script></body></html>
"""
