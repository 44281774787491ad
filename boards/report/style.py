"""How a report looks: light, dark as the reader's system or notebook is, and on paper."""

from __future__ import annotations

#: Okabe and Ito's colors, which readers who are color-blind can tell apart; the black one follows the text.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d00")
_DARK_COLORS = ("#56a9e8", "#ff8a3d", "#2fcf9f", "#e79ac6", "#f0b429", "#8fd0f5", "#d6bd4f")
_DASHES = ("none", "6 3", "2 2")


def _variables(
    text: str, paper: str, quiet: str, rule: str, good: str, bad: str, colors: tuple[str, ...]
) -> str:
    named = {"text": text, "paper": paper, "quiet": quiet, "rule": rule, "good": good, "bad": bad}
    lines = [*colors, "var(--text)"]
    return " ".join(
        [
            *(f"--{name}: {value};" for name, value in named.items()),
            *(f"--c{number}: {color};" for number, color in enumerate(lines)),
        ]
    )


_LIGHT = _variables("#1b1f24", "#ffffff", "#57606a", "#d0d7de", "#1a7f37", "#cf222e", _COLORS)
_DARK = _variables("#e6edf3", "#0d1117", "#9198a1", "#3d444d", "#3fb950", "#ff7b72", _DARK_COLORS)

STYLE = f"""
.hkrunner-report {{ {_LIGHT} }}
@media screen and (prefers-color-scheme: dark) {{ .hkrunner-report {{ {_DARK} }} }}
[data-jp-theme-light="true"] .hkrunner-report {{ {_LIGHT} }}
[data-jp-theme-light="false"] .hkrunner-report {{ {_DARK} }}
.hkrunner-report {{
  color: var(--text); background: var(--paper); color-scheme: light dark;
  font: 14px/1.45 system-ui, sans-serif;
}}
.hkrunner-report.page {{ padding: 1.5rem; min-height: 100vh; box-sizing: border-box; }}
.hkrunner-report h1 {{ font-size: 1.5rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }}
.hkrunner-report h2 {{ font-size: 1.15rem; margin: 1.5rem 0 .5rem; }}
.hkrunner-report h4 {{ font-size: .8rem; margin: .9rem 0 .25rem; color: var(--quiet); }}
.hkrunner-report p {{ color: var(--quiet); }}
.hkrunner-report .wide {{ overflow-x: auto; }}
.hkrunner-report table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
.hkrunner-report th, .hkrunner-report td {{
  padding: .25rem .7rem .25rem 0; border-bottom: 1px solid var(--rule); text-align: left; vertical-align: top;
  unicode-bidi: isolate;
}}
.hkrunner-report td {{ overflow-wrap: break-word; max-width: 30rem; }}
.hkrunner-report .whole {{ white-space: nowrap; }}
.hkrunner-report thead th {{ color: var(--quiet); font-weight: 600; white-space: nowrap; }}
.hkrunner-report tbody th {{ font-weight: 600; white-space: nowrap; }}
.hkrunner-report .facts th {{
  font-weight: 400; color: var(--quiet); white-space: normal; overflow-wrap: anywhere;
}}
.hkrunner-report .number {{ text-align: right; white-space: nowrap; }}
.hkrunner-report .good {{ color: var(--good); }}
.hkrunner-report .bad, .hkrunner-report .error {{ color: var(--bad); }}
.hkrunner-report .charts {{
  display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: 1rem;
}}
.hkrunner-report figure {{ margin: 0; border: 1px solid var(--rule); border-radius: 6px; padding: .6rem; }}
.hkrunner-report figcaption {{ font-weight: 600; overflow-wrap: anywhere; }}
.hkrunner-report figure ul {{
  list-style: none; margin: .3rem 0 0; padding: 0; font-size: 12px;
  display: flex; flex-wrap: wrap; gap: .1rem .9rem;
}}
.hkrunner-report svg {{ display: block; width: 100%; height: auto; }}
.hkrunner-report svg.sample {{ display: inline-block; width: 20px; height: 8px; margin-right: .4rem; }}
.hkrunner-report svg text {{ font-size: 10.5px; fill: var(--quiet); }}
.hkrunner-report svg .x {{ text-anchor: middle; }}
.hkrunner-report svg .y, .hkrunner-report svg .axis {{ text-anchor: end; }}
.hkrunner-report svg .grid {{ stroke: var(--rule); fill: none; }}
.hkrunner-report svg .line {{ fill: none; stroke-width: 1.6; stroke-linejoin: round; }}
.hkrunner-report svg .limit {{ stroke: var(--bad); stroke-dasharray: 4 4; fill: none; }}
{"".join(f".hkrunner-report svg .c{n} {{ stroke: var(--c{n}); }} " for n in range(8))}
{"".join(f".hkrunner-report svg circle.c{n} {{ fill: var(--c{n}); }} " for n in range(8))}
{"".join(f".hkrunner-report svg .d{n} {{ stroke-dasharray: {dash}; }} " for n, dash in enumerate(_DASHES))}
.hkrunner-report details {{ border-top: 2px solid var(--rule); margin-top: 1.2rem; padding-top: .6rem; }}
.hkrunner-report summary {{
  font-weight: 600; font-size: 1.05rem; cursor: pointer; overflow-wrap: anywhere;
}}
.hkrunner-report pre {{
  margin: 0; padding: .5rem .7rem; border: 1px solid var(--rule); border-radius: 6px;
  font: 12px/1.45 monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; background: none; unicode-bidi: plaintext;
}}
@media print {{
  .hkrunner-report {{ font-size: 11px; }}
  .hkrunner-report .wide {{ overflow: visible; }}
  .hkrunner-report .wide th, .hkrunner-report .wide td {{ white-space: normal; padding-right: .4rem; }}
  .hkrunner-report .many th, .hkrunner-report .many td {{ overflow-wrap: anywhere; }}
  .hkrunner-report figure, .hkrunner-report tr {{ break-inside: avoid; }}
  .hkrunner-report .charts {{ grid-template-columns: 1fr 1fr; }}
  .hkrunner-report h2, .hkrunner-report h4, .hkrunner-report summary {{ break-after: avoid; }}
}}
"""
