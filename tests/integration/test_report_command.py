"""`hkrunner report`, and the same in a notebook: one page about tasks, from their records."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import hkrunner
from support.local import ALGORITHMS
from support.programs import run_hkrunner

CODE = """\
import os
from tensorboard.summary import Writer

def start(args):
    (given,) = args["input"]
    print("<b>begins</b>", given)
    writer = Writer(os.environ["ALGO_METRICS_DIR"])
    for step in range(5):
        writer.add_scalar("loss", given["lr"] * step, step)
    writer.close()
    if given["lr"] > 1:
        raise ValueError("<i>diverges</i>")
    return {"score": given["lr"] * 100}
"""


def test_a_page_compares_tasks_and_a_notebook_shows_the_same(tmp_path: Path) -> None:
    (tmp_path / "alg.py").write_text(CODE)
    inputs = [{"lr": 0.5, "name": "<u>x</u>"}, {"lr": 2.5, "name": "<u>x</u>"}]
    results = hkrunner.run(
        tmp_path / "alg.py",
        inputs,
        state_dir=tmp_path / ".hkrunner",
        mem="512Mi",
        on_event=lambda event: None,
    )
    ended = run_hkrunner("report", "t2", "t1", "-o", "page.html", cwd=tmp_path)
    assert ended.status == 0 and ended.stderr.startswith("page.html: 2 tasks, "), ended
    page = (tmp_path / "page.html").read_text("utf-8")
    assert page.startswith("<!DOCTYPE html>\n") and "default-src 'none'" in page
    assert "<title>2 tasks of alg.py</title>" in page
    names = ["t2 lr=2.5 ✘", "t1 lr=0.5"]
    assert re.findall("<tr><th><svg.*?</svg>(.*?)</th>", page) == names
    assert re.findall("<summary><svg.*?</svg>(.*?)</summary>", page) == names
    assert re.findall("<figcaption>(.*?)</figcaption>", page)[0] == "loss"
    for told in (
        *("✘</span> failed (AlgorithmError)", "ValueError: &lt;i&gt;diverges&lt;/i&gt;", "memory 512 MiB"),
        *("&lt;b&gt;begins&lt;/b&gt;", "<td>&lt;u&gt;x&lt;/u&gt;</td>", "Traceback (most recent call last)"),
        *("<tr><th>score</th><td>50</td></tr>", "resources/memory_mib", "<title>limit</title>"),
    ):
        assert told in page, told
    assert run_hkrunner("report", "--all", "-o", "-", cwd=tmp_path).stdout.count("<summary>") == 2

    shown = results._repr_html_()
    assert shown.startswith('<div class="hkrunner-report">') and "<html" not in shown
    assert re.findall("<tr><th><svg.*?</svg>(.*?)</th>", shown) == names[::-1]
    assert "<figcaption>loss</figcaption>" in results[0]._repr_html_()
    shutil.rmtree(tmp_path / ".hkrunner")
    without = results._repr_html_()
    assert "ValueError: &lt;i&gt;diverges" in without and "&quot;score&quot;: 50.0" in without

    for args, sentence in (
        (("report",), "no tasks given: name some (hkrunner runs ls), or use --all"),
        (("report", "t9"), "there is no task t9 in "),
        (("report", "--all"), "no tasks are recorded in ./.hkrunner"),
    ):
        refused = run_hkrunner(*args, cwd=tmp_path)
        assert refused.status == 2 and refused.stderr.startswith(f"hkrunner: {sentence}"), refused


def test_a_page_goes_through_links_and_into_pipes_and_replaces_neither(tmp_path: Path) -> None:
    assert run_hkrunner("-e", ALGORITHMS / "adds.py", "-i", "1", cwd=tmp_path).status == 0
    (tmp_path / "link.html").symlink_to("page.html")
    os.mkfifo(tmp_path / "pipe")
    pipe = os.open(tmp_path / "pipe", os.O_RDWR)  # the pipe has room for a page of one task
    try:
        for place in ("link.html", "pipe"):
            ended = run_hkrunner("report", "t1", "-o", place, cwd=tmp_path)
            assert (ended.status, ended.stderr.partition(",")[0]) == (0, f"{place}: 1 task"), ended.stderr
        assert os.read(pipe, 1 << 20).endswith(b"</html>\n")
    finally:
        os.close(pipe)
    assert (tmp_path / "link.html").is_symlink() and (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "page.html").read_bytes().endswith(b"</html>\n")
    ended = run_hkrunner("report", "t1", "-o", "", cwd=tmp_path)
    assert (ended.status, ended.stderr) == (2, "hkrunner: --output wants FILE, not ''\n")
