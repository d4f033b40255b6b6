"""Reports a result: an HTML page, Markdown for a pull request, and the comparison of two runs."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from rt4ksr_client.errors import LoadTestError
from rt4ksr_client.files import atomic_write
from rt4ksr_loadtest.report.comparison import Comparison, compare_page, compare_runs
from rt4ksr_loadtest.report.html import run_page
from rt4ksr_loadtest.report.markdown import run_summary
from rt4ksr_loadtest.result import RunResult

__all__ = [
    "Comparison",
    "compare_page",
    "compare_runs",
    "run_page",
    "run_summary",
    "write_report",
    "write_text",
]


def write_report(result: RunResult, folder: Path) -> Path:
    """Write ``report.html`` and ``report.md`` to ``folder``, both or none; return the page's path.

    Raises:
        LoadTestError: a file could not be written, or the result is damaged.

    """
    page, summary = folder / "report.html", folder / "report.md"
    write_text({page: run_page(result), summary: run_summary(result)})
    return page


def write_text(files: dict[Path, str]) -> None:
    """Write each text to its file; on an error, the files stay as they were.

    Raises:
        LoadTestError: a file could not be written.

    """
    try:
        with ExitStack() as stack:
            for path, text in files.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary = stack.enter_context(atomic_write(path))
                temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as exc:
        names = ", ".join(map(str, files))
        raise LoadTestError(f"{names}: cannot be written: {exc.strerror}") from exc
