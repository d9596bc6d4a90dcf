"""How the page looks: light and dark, wide and narrow, and on paper.

The three colours of the charts are told apart in the common kinds of colour blindness, and none carries a
meaning alone: lines are dashed, dots round, and legends say the rest.
"""

from __future__ import annotations

from launcher.report.markup import Markup

_LIGHT = """
  --page: #f6f6f4; --card: #ffffff; --ink: #1d2126; --soft: #5b636d; --grid: #e7e9ec; --edge: #dcdfe3;
  --a: #2c6cb0; --b: #c2560a; --c: #0f7b6c; --inner: #d5e3f3; --on-inner: #1d3c5e; --on-b: #ffffff;
  --full: #5f90c6; --good: #19713f; --bad: #b3261e; --warn: #805400; --calm: #5b636d;
"""

_DARK = """
  --page: #13161a; --card: #1b1f25; --ink: #e7e9ec; --soft: #9fa8b3; --grid: #2a3038; --edge: #2f363f;
  --a: #79b0f0; --b: #f0994d; --c: #54c5b3; --inner: #2b405a; --on-inner: #cfe2f7; --on-b: #2a1602;
  --full: #5c8fc9; --good: #63c98f; --bad: #ff8f84; --warn: #e6b450; --calm: #9fa8b3;
"""

_LAYOUT = """
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); -webkit-text-size-adjust: 100%;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: break-word; }
main { max-width: 68rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1, h2, h3, p, dl, dd, ul, figure { margin: 0; padding: 0; }
h1 { font-size: 2.1rem; line-height: 1.2; font-weight: 650; letter-spacing: -0.015em; }
h2 { font-size: 1.15rem; font-weight: 650; margin: 2.75rem 0 0.9rem; }
h3 { font-size: 0.95rem; font-weight: 600; }
.run-id, .aside, .caption, .beside { color: var(--soft); }
.run-id { font-size: 0.9rem; }
.aside { font-weight: 400; font-size: 0.85em; margin-left: 0.5em; }
.prose { max-width: 46rem; }
ul.prose { padding-left: 1.2rem; margin-top: 0.5rem; }
code, pre { font: 0.85rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { margin: 0; overflow-x: auto; white-space: pre-wrap; }

.state { display: inline-block; margin: 0.6rem 0.75rem 0 0; padding: 0.1rem 0.75rem; border-radius: 1rem;
  border: 1.5px solid currentColor; font-weight: 600; font-size: 0.9rem; color: var(--calm); }
.state.done { color: var(--good); } .state.failed { color: var(--bad); } .state.running { color: var(--a); }
.state.preempted, .state.interrupted { color: var(--warn); }
.note { margin-top: 1.25rem; padding: 0.9rem 1.15rem; background: var(--card); border: 1px solid var(--edge);
  border-left: 4px solid var(--calm); border-radius: 0.5rem; font-size: 0.95rem; }
.note h2 { margin: 0 0 0.25rem; font-size: 0.95rem; }
.note.bad { border-left-color: var(--bad); } .note.bad h2, .note.bad strong { color: var(--bad); }
.note.warn { border-left-color: var(--warn); } .note.warn h2 { color: var(--warn); }
.note ul { padding-left: 1.1rem; } .note pre { margin: 0.5rem 0; max-height: 20rem; overflow-y: auto; }

.tiles { display: grid; gap: 1px; margin-top: 1.75rem; grid-template-columns: repeat(3, 1fr);
  background: var(--edge); border: 1px solid var(--edge); border-radius: 0.6rem; overflow: hidden; }
.tiles > div { background: var(--card); padding: 0.9rem 1.15rem 1rem; }
.tiles dt { color: var(--soft); font-size: 0.85rem; }
.tiles dd { font-size: 1.6rem; line-height: 1.3; font-weight: 600; letter-spacing: -0.01em; }
.tiles dd.beside { font-size: 0.85rem; font-weight: 400; letter-spacing: 0; }
.tiles > div:last-child:nth-child(3n + 2) { grid-column: span 2; }
.equation { font-size: 1.25rem; margin-bottom: 0.35rem; }

.figures { display: grid; gap: 1rem; grid-template-columns: repeat(2, minmax(0, 1fr)); }
.prose + .figures { margin-top: 1.1rem; }
figure { background: var(--card); border: 1px solid var(--edge); border-radius: 0.6rem; padding: 1.1rem 1.25rem 1rem;
  break-inside: avoid; min-width: 0; }
.figures.pair { grid-template-columns: minmax(0, 5fr) minmax(0, 3fr); }
figure.wide, .figures > :only-child { grid-column: 1 / -1; }
.pair > figure.wide { grid-column: auto; }
.caption { font-size: 0.87rem; margin-top: 0.1rem; }
.empty { color: var(--soft); padding: 1.5rem 0 0.75rem; }
.plot { position: relative; padding: 1.9rem 0.75rem 1.9rem 3.4rem; }
.plot.ranks { padding: 1rem 0 0.9rem 3.6rem; }
.legend { display: flex; flex-wrap: wrap; gap: 0.15rem 1.4rem; list-style: none; font-size: 0.85rem;
  color: var(--soft); }
.legend li { display: flex; align-items: center; gap: 0.5rem; }

.table { overflow-x: auto; background: var(--card); border: 1px solid var(--edge); border-radius: 0.6rem; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; }
th, td { text-align: right; padding: 0.45rem 1rem; white-space: nowrap; border-top: 1px solid var(--grid); }
thead th { border-top: 0; color: var(--soft); font-weight: 500; }
th:first-child, td:first-child { text-align: left; }
.facts { display: grid; gap: 0.7rem 2rem; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); }
.facts dt { color: var(--soft); font-size: 0.85rem; }
details { margin-top: 1rem; background: var(--card); border: 1px solid var(--edge); border-radius: 0.6rem; }
section + details { margin-top: 2.5rem; }
summary { cursor: pointer; padding: 0.8rem 1.15rem; font-weight: 600; }
details > pre { padding: 0 1.15rem 1.1rem; } details .table { border-width: 1px 0 0; border-radius: 0; }
:focus-visible { outline: 2px solid var(--a); outline-offset: 2px; }
"""

_CHARTS = """
svg { display: block; overflow: visible; }
svg text { font-size: 12px; fill: var(--soft); font-family: inherit; }
.mark.up, .rank { text-anchor: end; } .mark.across { text-anchor: middle; }
.grid { stroke: var(--grid); } .zero { stroke: var(--soft); stroke-opacity: 0.6; }
.a { --tone: var(--a); } .b { --tone: var(--b); } .c { --tone: var(--c); }
path { fill: none; stroke: var(--tone); stroke-width: 2; stroke-linecap: round; stroke-linejoin: round;
  vector-effect: non-scaling-stroke; }
path.faint { stroke-width: 1; stroke-opacity: 0.35; } path.dashed { stroke-dasharray: 5 5; stroke-linecap: butt; }
.dots { fill: var(--tone); stroke: var(--card); stroke-width: 1.5; }
.bars { fill: var(--tone); shape-rendering: crispEdges; } .bars.a { fill: var(--full); }
.box { stroke: var(--card); stroke-width: 2; } .box.inner { fill: var(--inner); } .box.boundary { fill: var(--b); }
.box.waiting { fill: none; stroke: var(--soft); stroke-width: 1; stroke-dasharray: 3 3; stroke-opacity: 0.7; }
.in-inner, .in-boundary { text-anchor: middle; }
svg .in-inner { fill: var(--on-inner); } svg .in-boundary { fill: var(--on-b); font-weight: 600; }

.readout { position: absolute; top: 1.9rem; left: 3.4rem; width: calc(100% - 4.15rem); }
.readout rect { fill: transparent; } .readout line { stroke: var(--soft); visibility: hidden; pointer-events: none; }
.readout text { visibility: hidden; text-anchor: end; fill: var(--ink); pointer-events: none; }
.readout g:hover line, .readout g:hover text { visibility: visible; }

.key { flex: none; width: 1.3rem; border-top: 2px solid var(--tone); }
.key.faint { border-top-width: 1px; opacity: 0.6; } .key.dashed { border-top-style: dashed; }
.key.dots { width: 0.55rem; height: 0.55rem; border: 0; border-radius: 50%; background: var(--tone); }
.key.bars, .key.box { width: 0.8rem; height: 0.8rem; border: 0; border-radius: 0.15rem; background: var(--tone); }
.key.inner { background: var(--inner); } .key.boundary { background: var(--b); }
.key.bars.a { background: var(--full); }
.key.waiting { background: none; border: 1px dashed var(--soft); }
"""

_NARROW = """
  main { padding: 1.5rem 0.9rem 3rem; }
  h1 { font-size: 1.6rem; }
  .tiles { grid-template-columns: repeat(2, 1fr); } .tiles > div { padding: 0.7rem 0.85rem; }
  .tiles dd { font-size: 1.3rem; } .tiles > div:last-child:nth-child(odd) { grid-column: 1 / -1; }
  .figures, .figures.pair { grid-template-columns: minmax(0, 1fr); } figure { padding: 0.9rem 0.9rem 0.8rem; }
  .tiles > div:last-child:nth-child(3n + 2) { grid-column: span 2; }
.equation { font-size: 1.1rem; }
"""

_PAPER = """
  :root { --page: #ffffff; } body { font-size: 11pt; } main { max-width: none; padding: 0; }
  h2, h3, .equation, .prose { break-after: avoid; } figure, .note, .tiles, .prose { break-inside: avoid; }
  .readout, .numbers { display: none; } details::details-content { content-visibility: visible; height: auto; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
"""

STYLE = Markup(
    f":root {{ color-scheme: light dark; {_LIGHT} }}\n"
    f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}\n"
    f"{_LAYOUT}{_CHARTS}"
    f"@media (max-width: 42rem) {{ {_NARROW} }}\n"
    f"@media print {{ {_PAPER} }}\n"
)
