"""Execute one notebook in a kernel of this interpreter, measure time and memory, and render it as HTML."""

from __future__ import annotations

import contextlib
import html
import logging
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat
import papermill
import psutil
from jupyter_client.manager import AsyncKernelManager
from nbconvert import HTMLExporter
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

import covidxr
from covidxr.utils import CovidxrError, atomic_path, quiet_environment

_PREFIX = "covidxr-"  # of temporary folders

_SAMPLE_SECONDS = 0.2

_END_SECONDS = 5

_KERNEL_START_SECONDS = 180  # a busy machine may take a minute

_LONGEST_SOCKET = 100  # characters; systems allow a path of 103 to 107

_ERROR_LINES = 6  # TensorFlow appends its graph to some messages

_OPTIONAL = "optional:"  # begins the tag of cells whose section is left out where it has no output
_COUNT = re.compile(r"\d/\d+\s\[")  # of a progress bar, such as "3/12 [00:12<00:36, 4.00s/epoch]"

_WIDGET = "application/vnd.jupyter.widget-view+json"

# The page of nbconvert without the scripts that it would load from the network.
_OFFLINE = """{% extends 'index.html.j2' %}
{% block html_head_js %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}"""


@dataclass
class Outcome:
    """Outcome of a notebook's execution."""

    seconds: float
    peak_memory_mb: float
    error: str | None = None


class ThisInterpreter(AsyncKernelManager):
    """Starts kernels with the Python that runs this, whatever kernel specifications the user has installed."""

    def format_kernel_cmd(self, extra_arguments=None) -> list[str]:
        """Give the command that starts a kernel."""
        quiet = "--log-level=50"  # an interrupted kernel logs much while it ends
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", self.connection_file, quiet]
        return command + (extra_arguments or [])


class _Client(PapermillNotebookClient):
    """Executes the cells, and notes what the notebook is doing."""

    def __init__(self, nb_man, meter, **options):
        super().__init__(nb_man, **options)
        self._meter, self._heading = meter, ""

    def process_message(self, msg, cell, cell_index):
        """Process a message of the kernel."""
        if msg["msg_type"] == "execute_input":
            self._meter.doing = self._heading = _heading(self.nb.cells[:cell_index])
        elif line := _last_line(msg["msg_type"], msg["content"]):
            self._meter.doing = f"{self._heading}: {line}".removeprefix(": ")
        return super().process_message(msg, cell, cell_index)


class _Engine(NBClientEngine):
    """papermill's engine with this module's client and kernels."""

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, meter, folder, **_):
        """Execute the notebook."""
        kernel = {"kernel_name": kernel_name, "kernel_manager_class": ThisInterpreter, "config": _connection(folder)}
        log = logging.getLogger("papermill")
        client = _Client(nb_man, meter, startup_timeout=_KERNEL_START_SECONDS, log=log, **kernel)
        return client.execute(env=_environment(folder))


papermill_engines.register("covidxr", _Engine)


def _heading(cells):
    """The last heading in the cells."""
    lines = [line for cell in cells if cell.cell_type == "markdown" for line in cell.source.splitlines()]
    headings = [line.lstrip("#").strip() for line in lines if re.match(r"#+ ", line)]
    return headings[-1] if headings else ""


def _last_line(kind, content):
    """The last line that a message prints, or the numbers that it adds to a progress bar."""
    if kind == "stream" and content["name"] == "stdout":
        return next((line for line in reversed(content["text"].splitlines()) if line.strip()), None)
    if kind == "comm_msg":  # of a widget, such as the text next to a bar
        text = content["data"].get("state", {}).get("value")
        return " ".join(html.unescape(text).split()) if isinstance(text, str) and _COUNT.search(text) else None
    return None


def execute(notebook: Path, target: Path, parameters: dict, on_tick=lambda seconds, doing: None) -> Outcome:
    """Execute a notebook and render it; `on_tick` is called a few times a second."""
    working, failed = target.with_suffix(".running.ipynb"), target.with_suffix(".failed.ipynb")
    target.parent.mkdir(parents=True, exist_ok=True)
    failed.unlink(missing_ok=True)
    try:
        with _folder() as folder, _Meter(on_tick) as meter, _no_kernel_left():
            error = _papermill(notebook, working, parameters, meter, folder)
        copy = _tidy(working, complete=not error)
        os.replace(working, failed if error else target)
    finally:
        working.unlink(missing_ok=True)
    if not error:
        _render(copy, target)
    return Outcome(round(meter.seconds, 1), round(meter.peak / 2**20, 1), error)


def _papermill(notebook, working, parameters, meter, folder):
    """Run papermill; return None, or what went wrong."""
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # the message below holds what it would log
    try:
        papermill.execute_notebook(
            notebook,
            working,
            parameters,
            engine_name="covidxr",
            kernel_name="python3",
            language="python",
            progress_bar=False,
            meter=meter,
            folder=folder,
        )
    except PapermillExecutionError as error:
        message = "\n".join(error.evalue.strip().splitlines()[:_ERROR_LINES])
        reason = message if error.ename == CovidxrError.__name__ else f"{error.ename}: {message}"
        return _failure(error.exec_count, error.source, reason)
    except RuntimeError as error:  # the kernel died, or never started
        return _failure(*_last_started(working), f"{error}; a dead kernel is most often one that ran out of memory")


def _failure(number, source, reason):
    first_line = source.strip().partition("\n")[0]
    return f"cell In [{number}]: {first_line}\n{reason}"


def _last_started(working):
    """Number and source of the code cell that papermill started last."""
    cells = [cell for cell in nbformat.read(working, as_version=4).cells if cell.cell_type == "code"]
    started = [number for number, cell in enumerate(cells) if cell.metadata.papermill["start_time"]]
    return (started[-1] + 1, cells[started[-1]].source) if started else (0, "(before the first one)")


def _tidy(working, complete):
    """Remove this machine's folders from papermill's record, and from a complete notebook the sections that do not apply."""
    notebook = nbformat.read(working, as_version=4)
    if complete:
        notebook.cells = _with_output(notebook.cells)
    for name in ("input_path", "output_path"):
        notebook.metadata.papermill[name] = Path(notebook.metadata.papermill[name]).name.replace(".running", "")
    nbformat.write(notebook, working)
    return notebook


def _with_output(cells):
    """The cells without optional sections of no output: those whose cells share a tag ``optional:NAME``."""
    sections = [next((tag for tag in cell.metadata.get("tags", []) if tag.startswith(_OPTIONAL)), "") for cell in cells]
    spoke = {section for section, cell in zip(sections, cells, strict=True) if cell.get("outputs")}
    return [cell for section, cell in zip(sections, cells, strict=True) if not section or section in spoke]


def _render(notebook, target):
    """Write the HTML of an executed notebook next to it; it opens without a network."""
    notebook.metadata.pop("widgets", None)  # they would be drawn by a script from the network
    for cell in notebook.cells:  # their text shows progress bars at zero
        cell.outputs = [output for output in cell.get("outputs", []) if _WIDGET not in output.get("data", {})]
    exporter = HTMLExporter(raw_template=_OFFLINE, embed_images=True)
    exporter.log.setLevel(logging.ERROR)  # it warns of each image without a description
    resources = {"metadata": {"name": target.stem, "path": str(target.parent)}}
    body, _ = exporter.from_notebook_node(notebook, resources)
    with atomic_path(target.with_suffix(".html")) as temporary:
        temporary.write_text(body, encoding="utf-8")


def _environment(folder):
    """The kernel's environment; its temporary files go to a folder."""
    path = os.pathsep.join(filter(None, [str(Path(covidxr.__file__).parent.parent), os.environ.get("PYTHONPATH")]))
    return {**os.environ, **quiet_environment(), "PYTHONHASHSEED": "0", "TMPDIR": folder, "PYTHONPATH": path}


@contextlib.contextmanager
def _folder():
    """A temporary folder named after this process, so that a later one can remove what a killed one left."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}[0-9]*_*"):
        if not psutil.pid_exists(int(re.match(r"\d+", left.name.removeprefix(_PREFIX))[0])):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}_", ignore_cleanup_errors=True) as folder:
        yield folder


def _connection(folder):
    """Connect to the kernel through Unix sockets in a private folder, where the system has them."""
    file = os.path.join(folder, "kernel.json")
    sockets = os.name == "posix" and len(file) <= _LONGEST_SOCKET
    return Config({"ThisInterpreter": {"connection_file": file, "transport": "ipc" if sockets else "tcp"}})


@contextlib.contextmanager
def _no_kernel_left():
    """Kill the processes of an interrupted block; papermill only asks the kernel, which may be busy, to end."""
    before = set(psutil.Process().children())
    try:
        yield
    except BaseException:
        started = [child for child in psutil.Process().children(recursive=True) if child not in before]
        for child in started:
            with contextlib.suppress(psutil.Error):
                child.kill()
        psutil.wait_procs(started, timeout=_END_SECONDS)
        raise


class _Meter:
    """Wall time, and the peak memory of all child processes."""

    def __init__(self, on_tick):
        self.seconds, self.peak, self.doing = 0.0, 0, ""
        self._on_tick, self._stop = on_tick, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self):
        self._start = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._stop.set()
        self._thread.join()
        self.seconds = time.monotonic() - self._start

    def _watch(self):
        while not self._stop.wait(_SAMPLE_SECONDS):
            self.peak = max(self.peak, _children_bytes())
            self._on_tick(time.monotonic() - self._start, self.doing)


def _children_bytes():
    total = 0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it may have ended since it was listed
            total += process.memory_info().rss
    return total
