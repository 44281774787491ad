"""Keeps TensorBoard's page up to date: a script of ours in it, and the state that the script asks for.

TensorBoard's page loads new data only when its user presses reload, or every 30 s if a setting says so;
browsers store that by address, and each board has another address. So the script makes the settings for users
who have not. The pane of settings is closed, since it takes a quarter of the page; the button beside it opens
it. Every second the script asks what the view shows (10 µs here), and presses reload when tasks have begun or
ended, and every five seconds while tasks run.

The page opens the first two groups of cards. If the algorithm has a group of its own, the script folds those
of hkrunner, whose names begin with a tilde, once: a group that the user unfolds stays so.
"""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Callable, Iterable

from .host_check import Application, Environ, StartResponse

SCRIPT_NAME = "hkrunner-live.js"
_STATE_NAME = "hkrunner-state.json"
_DAY_S = 24 * 3600
_SCRIPT = b"""\
try {
  const name = "_tb_global_settings", settings = JSON.parse(localStorage.getItem(name) || "{}");
  const ours = {autoReload: true, timeSeriesSettingsPaneOpened: false};
  localStorage.setItem(name, JSON.stringify({...ours, ...settings}));
} catch {}  // without storage, or with another form of it, the page keeps its default

(() => {
  const running_ms = 5000;  // between two reloads while tasks run
  const loaded_ms = 1500;  // after a change the data server has loaded it
  let shown = null, reloaded = 0, due = 0;
  const folded = new Set();
  const fold = () => {
    const groups = [...document.querySelectorAll("metrics-card-group-toolbar button")].map(
      (button) => ({button, name: button.querySelector(".group-title")?.textContent ?? ""}));
    if (groups.every(({name}) => name.startsWith("~"))) return;
    for (const {button, name} of groups) {
      if (!name.startsWith("~") || folded.has(name)) continue;
      folded.add(name);
      if (button.querySelector("[svgicon^=expand_less]")) button.click();
    }
  };
  const look = async () => {
    try {
      fold();
      if (document.hidden) return;
      const answer = await fetch("hkrunner-state.json", {cache: "no-store"});
      if (!answer.ok) return;
      const {changes, running} = await answer.json(), now = performance.now();
      if (shown !== null && changes !== shown) due = now + loaded_ms;
      shown = changes;
      const button = document.querySelector("app-header-reload button");
      const is_due = due || (running && now - reloaded > running_ms);
      if (!button || button.disabled || !is_due) return;
      button.click();
      reloaded = now;
      if (now >= due) due = 0;  // else again, for what the data server had not loaded
    } catch {}  // the board has ended, or is busy: the next look may do
  };
  setInterval(look, 1000);
})();
"""


def live_page(application: Application, prefix: str, state: Callable[[], dict[str, int]]) -> Application:
    """Return an application that serves the script and the state below the prefix; others pass on.

    state: `changes`, another number after every task that began or ended, and `running`, how many run.
    """

    def serve(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == f"{prefix}/{SCRIPT_NAME}":
            body = _SCRIPT
        elif path == f"{prefix}/{_STATE_NAME}":
            body = json.dumps(state()).encode()
        else:
            return application(environ, start_response)
        start_response("200 OK", response_headers(path, body, is_kept=False))
        return [body]

    return serve


def response_headers(name: str, body: bytes, *, is_kept: bool) -> list[tuple[str, str]]:
    """Return the headers of an answer with this file; is_kept: browsers may keep it for a day."""
    return [
        ("Content-Type", mimetypes.guess_type(name)[0] or "application/octet-stream"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", f"private, max-age={_DAY_S}" if is_kept else "no-cache, must-revalidate"),
        ("X-Content-Type-Options", "nosniff"),
    ]
