"""Messages about memory say what can be done."""

from __future__ import annotations

import time
from functools import partial

import pytest
from hkrunner.runner.protocol.messages import Failure
from hkrunner.runner.protocol.result import Result
from hkrunner.runner.serving.leak_watch import LEAK_TASKS, LeakWatch
from hkrunner.runner.serving.memory_advice import explain_exit, explain_refusal, refused_all_the_same
from hkrunner.sandbox.shared.limits import Limits
from hkrunner.sandbox.shared.messages import HeldBack
from hkrunner.sandbox.shared.outcome import Cause, Exit

MI = 1024**2


def refused(text: str = "MemoryError: an allocation failed") -> Failure:
    return Failure("MEMORY_ERROR", f"MEMORY_ERROR: {text}\n  frames")


def ended(peak: int | None, limit: int | None = 100 * MI) -> Result:
    return Result("t", "j", "n", "p", "succeed", 0, 0, 0, peak_bytes=peak, limit_bytes=limit)


def test_a_refused_allocation_is_reported_with_a_limit_that_would_suffice() -> None:
    told = explain_refusal(refused(), Limits(), 256 * MI, lambda: 250 * MI).message
    first, frames = told.split("\n")
    assert "limit 256 MiB (--mem), used 250 MiB. Try --mem 512Mi" in first and frames == "  frames"


def test_a_refusal_that_failed_no_task_names_what_has_set_the_limit() -> None:
    held = HeldBack(7, "python3", 0, 120 * MI, 0.1)
    limits = Limits(memory_bytes=128 * MI, origins=(("memory_bytes", "mem: in algorithm.yml"),))
    assert "of 128 MiB (mem: in algorithm.yml)" in refused_all_the_same(held, limits, 128 * MI)
    assert "of 128 MiB (--mem)" in refused_all_the_same(held, Limits(), 128 * MI)


def test_a_refusal_that_failed_no_task_is_followed_by_a_limit_that_suffices_for_the_peak() -> None:
    held = HeldBack(7, "python3", 0, 120 * MI, 0.1)
    told = refused_all_the_same(held, Limits(), 128 * MI, peak_bytes=400 * MI)
    assert told.startswith("at 120 MiB of 128 MiB") and told.endswith("Try --mem 512Mi")


@pytest.mark.parametrize("size", ["2.0 GiB", "2. GiB"])
def test_the_size_of_a_refused_numpy_array_counts(size: str) -> None:
    text = f"MemoryError: Unable to allocate {size} for an array"
    told = explain_refusal(refused(text), Limits(mem_mode="brake"), 256 * MI, lambda: 100 * MI).message
    assert "Try --mem 2816Mi" in told


def test_a_higher_limit_is_not_suggested_for_what_the_machine_has_refused_far_from_it() -> None:
    told = explain_refusal(refused(), Limits(), 256 * MI, lambda: 10 * MI).message.partition("\n")[0]
    assert told.endswith(
        "used 10 MiB. Try less: this machine, or the code itself, has refused it, whatever the limit"
    )


@pytest.mark.parametrize(
    "text", ["Unable to allocate 1.2.3 GiB", "Unable to allocate . KiB", f"allocate {'9' * 5000} bytes"]
)
def test_a_size_that_is_none_does_not_count(text: str) -> None:
    told = explain_refusal(refused(text), Limits(), 256 * MI, lambda: 250 * MI).message
    assert "used 250 MiB. Try --mem 512Mi" in told


def test_a_failure_of_another_kind_is_not_changed() -> None:
    failure = Failure("ALGORITHM_ERROR", "ALGORITHM_ERROR: KeyError: 'age'")
    assert explain_refusal(failure, Limits(), 256 * MI, lambda: pytest.fail("nobody asked")) is failure
    assert explain_refusal(refused(), Limits(), None, lambda: pytest.fail("nobody asked")) == refused()


def test_a_long_word_in_the_text_of_an_error_costs_no_time() -> None:
    failure = Failure("ALGORITHM_ERROR", f"ALGORITHM_ERROR: KeyError: '{'x' * 10_000_000}'")
    began = time.thread_time()
    assert explain_refusal(failure, Limits(), 256 * MI, lambda: pytest.fail("nobody asked")) is failure
    assert time.thread_time() - began < 10  # it took minutes, in which hkrunner did nothing else


def warnings(stays: list[int], *, peak: int | None = None, limit: int | None = 100 * MI) -> list[str]:
    """Return the warnings after tasks that leave so much memory; `peak`: of each, else what it leaves."""
    watch = LeakWatch()
    looks = [
        watch.look(task, ended(one if peak is None else peak, limit), one)
        for task, one in enumerate(stays, 1)
    ]
    return [one for one in looks if one is not None]


def test_a_leak_is_reported_once_before_it_reaches_the_limit() -> None:
    (sentence,) = warnings([10 * MI + task * 4 * MI for task in range(24)])
    assert sentence.startswith("◌ memory grew 4 MiB per task over 19 tasks, to 82 MiB of 100 MiB; ")


@pytest.mark.parametrize("at", [0, -1])
def test_an_import_in_the_first_tasks_or_what_the_last_has_not_freed_is_no_part_of_a_leak(at: int) -> None:
    stays = [10 * MI + task * 5 * MI for task in range(15)]
    stays[at] += -8 * MI if at == 0 else 12 * MI
    (sentence,) = warnings(stays)
    assert sentence.startswith("◌ memory grew 5 MiB per task"), sentence


def test_a_slow_leak_is_reported_over_thousands_of_tasks() -> None:
    (sentence,) = warnings([10 * MI + task * MI // 50 for task in range(4000)])
    assert "memory grew 20.5 KiB per task over 3" in sentence


def test_a_task_with_a_high_peak_is_no_leak() -> None:
    assert warnings([10 * MI] * 40, peak=95 * MI) == []


@pytest.mark.parametrize("at", [1, 5, 9, 15])
def test_a_model_that_one_task_loads_for_good_is_no_leak(at: int) -> None:
    assert warnings([10 * MI] * at + [85 * MI] * (40 - at)) == []


def test_a_new_process_starts_a_new_series() -> None:
    watch = LeakWatch()
    for _ in range(2):
        looks = [watch.look(task, ended(80 * MI), 10 * MI + task * 2 * MI) for task in range(1, 30)]
        assert len([one for one in looks if one is not None]) == 1


@pytest.mark.parametrize(("peak", "limit"), [(95 * MI, None), (None, 100 * MI)])
def test_memory_without_a_limit_or_a_figure_is_no_leak(peak: int | None, limit: int | None) -> None:
    watch = LeakWatch()
    looks = [watch.look(task, ended(peak, limit), task * MI) for task in range(1, 3 * LEAK_TASKS)]
    assert not any(looks)


# ---- failures of libraries


def held(ago_s: float = 0.01) -> HeldBack:
    return HeldBack(7, "python", 0, 250 * MI, ago_s)


def told(
    text: str,
    held_back: HeldBack | None,
    *,
    mode: str = "auto",
    printed: tuple[str, ...] = (),
    details: str = "",
    peak: int = 250 * MI,
) -> Failure:
    failure = Failure("ALGORITHM_ERROR", f"ALGORITHM_ERROR: {text}", details)
    limits = Limits(memory_bytes=256 * MI, mem_mode=mode)
    return explain_refusal(failure, limits, 256 * MI, lambda: peak, held=held_back, printed=printed)


@pytest.mark.parametrize(
    "text",
    [
        "RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried to allocate 16777216 bytes",
        "jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory allocating 4096 bytes.",
        "RuntimeError: can't start new thread",
        "subprocess.CalledProcessError: Command 'x' returned non-zero exit status 1.",
        "concurrent.futures.process.BrokenProcessPool: A process in the process pool was terminated abruptly",
        "KeyboardInterrupt: (without a text)",
        "SystemError: error return without exception set (us.py:2 in start)",
        "ImportError: libx.so: failed to map segment from shared object",
        "ImportError: libc10_cuda.so: failed to map segment from shared object",
    ],
)
def test_what_fails_just_after_memory_was_refused_is_reported_as_the_limit(text: str) -> None:
    failure = told(text, held())
    assert failure.code == "MEMORY_ERROR" and failure.message.startswith(
        f"MEMORY_ERROR: {text}; limit 256 MiB"
    )
    assert "Try --mem " in failure.message
    assert told(text, None, peak=9 * MI).code == "ALGORITHM_ERROR", "the text alone is no fact"


@pytest.mark.parametrize(
    "text", ["KeyError: 'age'", "ValueError: no", "torch.cuda.OutOfMemoryError: CUDA out of memory"]
)
def test_errors_of_the_code_itself_and_of_a_gpu_are_no_matter_of_the_limit(text: str) -> None:
    assert told(text, held()).code == "ALGORITHM_ERROR"


def test_an_error_of_unknown_kind_counts_only_just_after_a_refusal() -> None:
    assert told("SystemError: error return", held(ago_s=3.0)).code == "ALGORITHM_ERROR"


@pytest.mark.parametrize("text", ["ALGORITHM_ERROR: alg.Diverged: no", "EXITED: sys.exit(3) ended it"])
def test_what_the_code_itself_has_decided_close_to_the_limit_is_not_blamed_on_it(text: str) -> None:
    failure = Failure(text.partition(":")[0], f"{text}\n  frames", is_deliberate=True)
    explain = partial(explain_refusal, limits=Limits(), limit_bytes=256 * MI, peak=lambda: 250 * MI)
    told = explain(failure, held=held())
    may_be = "at 250 MiB of 256 MiB (--mem), python (pid 7) may have been refused memory. Try --mem 512Mi"
    assert (told.code, told.message) == (failure.code, f"{text}; {may_be}\n  frames")
    assert explain(failure, held=held(ago_s=3.0)) == explain(failure, held=None) == failure
    assert explain(failure, held=held(), printed=("MemoryError",)).code == "MEMORY_ERROR"
    assert explain(failure._replace(is_deliberate=False), held=held()).code == "MEMORY_ERROR"


def test_what_the_machine_has_refused_is_a_matter_of_the_limit_if_it_would_not_have_fitted() -> None:
    asked = "MemoryError: Unable to allocate 74.5 GiB for an array with shape (10000000000,)"
    failure = told(
        "RuntimeError: could not build the model", None, details=f"caused by {asked}", peak=20 * MI
    )
    assert (
        failure.code == "MEMORY_ERROR"
        and "used 20 MiB, asked for 74.5 GiB. Try --mem 95488Mi on a machine that has" in failure.message
    )
    little = asked.replace("74.5 GiB", "2.0 MiB")
    assert told(f"RuntimeError: {little}", None, peak=20 * MI).code == "ALGORITHM_ERROR"
    raised = Failure("MEMORY_ERROR", f"MEMORY_ERROR: {little}")  # of a limit that the process has set itself
    other = explain_refusal(raised, Limits(memory_bytes=256 * MI), 256 * MI, lambda: 20 * MI)
    assert (other.code, other.message) == ("ALGORITHM_ERROR", f"ALGORITHM_ERROR: {little}")


def test_where_reserved_memory_counts_the_text_of_an_allocation_is_enough() -> None:
    assert told("RuntimeError: can't start new thread", None, mode="brake").code == "MEMORY_ERROR"
    assert told("CalledProcessError: Command 'git' returned 1", None, mode="brake").code == "ALGORITHM_ERROR"


def test_what_a_library_printed_counts_with_its_error() -> None:
    printed = ("OpenBLAS blas_thread_init: pthread_create failed for thread 1 of 2",)
    assert (
        told("KeyboardInterrupt: (without a text)", held(ago_s=3.0), printed=printed).code == "MEMORY_ERROR"
    )


def test_the_size_of_a_refused_torch_tensor_counts() -> None:
    failure = told("RuntimeError: you tried to allocate 1073741824 bytes, can't allocate memory", held())
    assert "Try --mem 1600Mi" in failure.message


@pytest.mark.parametrize(
    ("printed", "mode", "exit", "cause"),
    [
        ("OpenBLAS error: Memory allocation still failed", "brake", Exit(Cause.EXITED, code=1), Cause.MEMORY),
        ("OpenBLAS error: Memory allocation still failed", "auto", Exit(Cause.EXITED, code=1), Cause.EXITED),
        ("OpenBLAS error: Memory allocation still failed", "brake", Exit(Cause.EXITED, code=0), Cause.EXITED),
        ("There is insufficient memory for the Java Runtime", "brake", Exit(Cause.SIGNALLED), Cause.MEMORY),
        ("CUDA out of memory", "brake", Exit(Cause.EXITED, code=1), Cause.EXITED),
        (
            "cannot allocate memory in static TLS block",
            "brake",
            Exit(Cause.EXITED, code=1),
            Cause.EXITED,
        ),
        ("no such file", "brake", Exit(Cause.EXITED, code=1), Cause.EXITED),
        ("std::bad_alloc", "brake", Exit(Cause.TASK_TIMEOUT), Cause.TASK_TIMEOUT),
    ],
)
def test_an_end_is_due_to_refused_memory_if_the_mode_refuses_it_and_the_output_says_so(
    printed: str, mode: str, exit: Exit, cause: Cause
) -> None:
    limits = Limits(memory_bytes=100 * MI, mem_mode=mode)
    assert explain_exit(exit, limits, ("before", printed)).cause is cause
