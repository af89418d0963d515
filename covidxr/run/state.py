"""Whether a run folder is as its record says: code, parameters, inputs and outputs of each notebook.

A notebook is done when all four are unchanged. What it reads of the run folder counts by content too, so that a notebook
that ends with the same results causes none of the later ones to run again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from datetime import datetime
from pathlib import Path

from covidxr.fingerprint import comparable, content, digest, inputs_of
from covidxr.run.record import facts, now, open_record, save_record
from covidxr.utils import SECTIONS, CovidxrError, read_json, write_json

_METRICS = "metrics.json"

_NOT_OUTPUTS = {"run.json", "run.lock", "index.html", _METRICS}

_CHECKPOINTS = {"training", "stages"}  # folders of trainings that can be resumed

_UNFINISHED = (".running.ipynb", ".failed.ipynb")

_TEMPORARY = re.compile(r"\.covidxr-[0-9a-f-]+(\..*)?|.*\.running\.ipynb")  # of `covidxr.utils`, and the runner's own

_PHANTOMS = "phantoms/"

_ASIDE = ".damaged"  # where damaged files are kept

_ENDED = ("done", "outdated")


class State:
    """A run folder, its record, and the notebooks as they are now; the folder is locked by this process."""

    def __init__(self, profile, steps, run_dir):
        self.record, self.steps, self.run_dir = open_record(profile, steps, run_dir), steps, Path(run_dir)
        self.entries, self._known, self._before = self.record["notebooks"], {}, {}
        _tidy(run_dir)
        (self.run_dir / SECTIONS).unlink(missing_ok=True)
        moved = self.record.get("machine") != facts()["machine"]
        for entry in self.entries.values():
            if moved:  # the times of another machine are no estimate
                entry.pop("usual_seconds", None)
            if entry["status"] == "running":  # the lock is ours, so that run was killed
                entry.update(status="interrupted", outputs={**entry.get("outputs", {}), **self._since(entry)})
        self.damage = {step.stem: found for step in steps if (found := self._damaged(self.entries[step.stem]))}

    def save(self) -> None:
        """Write the record."""
        save_record(self.record, self.run_dir)

    def why(self, step) -> str | None:
        """Why a notebook has to run; ``""`` where it never finished, None where it is done."""
        entry = self.entries[step.stem]
        if entry["status"] not in _ENDED:
            return ""
        if "code" not in entry:
            return "its record is of an older version"
        if entry["code"] != step.code:
            return "its code changed"
        if changed := self._other_parameter(step):
            name, old, new = changed
            return f"{name} is {new}, and was {old}"
        if other := self._other_input(step):
            return f"{other} changed"
        found = list(self.damage.get(step.stem, {}).values())
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        return f"{found[0]}{more}" if found else None

    def refusal(self, step) -> str | None:
        """Why a notebook cannot be run by itself on the present files, and what to run first; None where it can."""
        return next((f"{step.stem} cannot run: {wrong}" for wrong in self._problems(step, set())), None)

    def expected_seconds(self, step, chosen) -> tuple[float, float] | None:
        """Time of a notebook and of all that are to follow, as on this machine before; None where one has never run here."""
        later = [other for other in chosen[chosen.index(step) + 1 :] if self.entries[other.stem]["status"] != "done"]
        times = [self.entries[other.stem].get("usual_seconds") for other in [step, *later]]
        return None if None in times else (times[0], sum(times[1:]))

    def begin(self, step) -> None:
        """Record a notebook as running, move its damaged outputs aside, and note the present files."""
        entry = self.entries[step.stem]
        for name in self.damage.pop(step.stem, {}):
            _set_aside(self.run_dir, name)
        for later in self.steps[self.steps.index(step) + 1 :]:
            if self.entries[later.stem]["status"] == "done":
                self.entries[later.stem]["status"] = "outdated"
        kept = {name: entry[name] for name in ("outputs", "metrics", "usual_seconds") if name in entry}
        seen = {"code": step.code, "inputs": self._inputs(step)}
        self.entries[step.stem] = {"status": "running", "started": now(), **seen, **kept}
        self.record.update(facts(), parameters={**self.record["parameters"], step.stem: step.values})
        (self.run_dir / SECTIONS).write_text("", encoding="utf-8")
        self._before = _snapshot(self.run_dir)

    def finish(self, step, outcome=None) -> None:
        """Record how a notebook ended and what it wrote; without an outcome it was interrupted."""
        entry = self.entries[step.stem]
        ended = outcome is not None and outcome.error is None
        if outcome is None:
            _tidy(self.run_dir)
            entry["status"] = "interrupted"
        else:
            entry |= {"seconds": outcome.seconds, "peak_memory_mb": outcome.peak_memory_mb, "finished": now()}
            entry |= {"status": "done", "usual_seconds": outcome.seconds} if ended else {"status": "failed"}
            entry |= {} if ended else {"error": outcome.error}
        self._record_files(entry, ended)
        self._record_metrics(entry, ended)

    def _record_files(self, entry, ended):
        """Outputs of the last execution that a notebook has not written again are no longer its own, once it has ended."""
        after = _snapshot(self.run_dir)
        written = {name for name, stamp in after.items() if self._before.get(name) != stamp}
        earlier = {name for name in {*entry.get("outputs", {}), *self._drawn(after)} if name in after} - written
        if ended:
            for name in filter(_is_shown, earlier):
                (self.run_dir / name).unlink()
            earlier = {name for name in earlier if not _is_shown(name)}
        self._disown("outputs", written)
        entry["outputs"] = {name: content(self.run_dir / name) for name in sorted(written | earlier)}

    def _record_metrics(self, entry, ended):
        sections = set((self.run_dir / SECTIONS).read_text(encoding="utf-8").split("\n")) - {""}
        (self.run_dir / SECTIONS).unlink()
        metrics = read_json(self.run_dir / _METRICS)
        if "version" in metrics:
            self.record["metrics_version"] = metrics["version"]
        kept = {} if ended else entry.get("metrics", {})
        gone = {name for other in self.entries.values() for name in other.get("metrics", {})} - set(metrics)
        self._disown("metrics", sections | gone)
        entry["metrics"] = {**kept, **{name: metrics[name] for name in sorted(sections) if name in metrics}}

    def _disown(self, kind, names):
        """A file or section belongs to the notebook that wrote it last."""
        for entry in self.entries.values():
            entry[kind] = {name: value for name, value in entry.get(kind, {}).items() if name not in names}

    def refresh(self) -> None:
        """Record as done again the notebooks after one whose results have not changed."""
        for step in self.steps:
            if self.entries[step.stem]["status"] == "outdated" and self.why(step) is None:
                self.entries[step.stem]["status"] = "done"

    def restore_metrics(self) -> str | None:
        """Restore numbers that are not as recorded; return a message, or None where nothing was wrong."""
        claimed = {name: value for entry in self.entries.values() for name, value in entry.get("metrics", {}).items()}
        path = self.run_dir / _METRICS
        try:
            there = read_json(path)
        except CovidxrError:
            there = {}
        if all(name in there and digest(there[name]) == digest(claimed[name]) for name in claimed):
            return None
        what = "damaged" if path.exists() else "missing"
        _set_aside(self.run_dir, _METRICS)
        version = {"version": self.record["metrics_version"]} if "metrics_version" in self.record else {}
        write_json(path, {**version, **there, **claimed})
        return f"{_METRICS} was {what}; its numbers were restored from run.json"

    def _since(self, entry):
        """Files written since a notebook was started; without a digest, as it did not finish."""
        started = datetime.fromisoformat(entry["started"]).timestamp()  # whole seconds: another may have ended since
        others = [other.get("outputs", {}) for other in self.entries.values() if other is not entry]
        known = {output for outputs in others for output in outputs.items()}
        new = [name for name, (written, *_) in _snapshot(self.run_dir).items() if written / 1e9 >= started]
        return {name: None for name in new if (name, content(self.run_dir / name)) not in known}

    def _drawn(self, files):
        """Phantoms whose origin is not recorded, as the record was lost; they are not drawn again."""
        left = {name for entry in self.entries.values() for name in entry.get("outputs", {})}
        return {name for name in files if name.startswith(_PHANTOMS)} - left

    def _before_it(self, step):
        return self.steps[: self.steps.index(step)]

    def _reads(self, step):
        """Names of what a notebook reads of the run folder, optional ones with "?"; by default all outputs before it."""
        if step.reads is not None:
            return step.reads
        left = [name for earlier in self._before_it(step) for name in self._left(earlier)]
        return [name for name in left if not name.startswith("notebooks/")]

    def _left(self, step):
        """Digests of a notebook's outputs, its numbers section by section."""
        entry = self.entries[step.stem]
        sections = {f"{_METRICS}#{name}": digest(value) for name, value in entry.get("metrics", {}).items()}
        return {**entry.get("outputs", {}), **sections}

    def _claims(self, step, name):
        """Earlier notebooks with their outputs under a name: of a file, a section, a folder or all numbers."""
        found = [(earlier, _matching(self._left(earlier), name)) for earlier in self._before_it(step)]
        return [(earlier, left) for earlier, left in found if left]

    def _inputs(self, step):
        """Digests of all that a notebook reads: what its parameters name, and what it reads of the run folder."""
        names = [name.rstrip("?") for name in self._reads(step)]
        return {**inputs_of(step.values, self._known), **{name: self._sum(step, name) for name in names}}

    def _sum(self, step, name):
        left = {file: total for _, claim in self._claims(step, name) for file, total in claim.items()}
        left = left or self._on_disk(name)
        return left[name] if set(left) == {name} else digest(left) if left else None

    def _on_disk(self, name):
        """Digests of files or sections of this name that no notebook has written: the user put them there."""
        if name.startswith(_METRICS):
            sections = {f"{_METRICS}#{key}": digest(value) for key, value in read_json(self.run_dir / _METRICS).items()}
            return _matching(sections, name)
        return {file: content(self.run_dir / file) for file in _matching(_snapshot(self.run_dir), name)}

    def _other_parameter(self, step):
        """Name, recorded and present value of the first parameter that differs, the values as they are typed."""
        old, new = comparable(self.record["parameters"].get(step.stem, {})), comparable(step.values)
        pairs = ((name, _typed(old.get(name)), _typed(new.get(name))) for name in sorted({*old, *new}))
        return next((pair for pair in pairs if pair[1] != pair[2]), None)

    def _other_input(self, step):
        return _first_difference(self.entries[step.stem]["inputs"], self._inputs(step))

    def _damaged(self, entry):
        sums = ((name, recorded, content(self.run_dir / name)) for name, recorded in entry.get("outputs", {}).items())
        return {name: f"{name} is {_wrong(name, now)}" for name, recorded, now in sums if now != recorded and recorded}

    def _problems(self, step, checked):
        """What is wrong with what a notebook reads, and with what that was made from."""
        for name in self._reads(step):
            plain = name.rstrip("?")
            claims = self._claims(step, plain)
            for producer, left in claims:
                yield from self._problems_of_output(producer, plain, left, checked)
            if not claims:
                yield from self._problems_of_unclaimed(step, plain, optional=name.endswith("?"))
        if step.reads is None and (missing := self._undone_before(step)):
            yield f"it reads what {missing[0]} leaves; run notebook {missing[0]} first"

    def _problems_of_output(self, producer, name, left, checked):
        """What is wrong with an output of another notebook that is to be read."""
        first = f"run notebook {producer.stem} first"
        if not self._is_recorded(producer):
            yield f"{name} is of {producer.stem}, which did not finish; {first}"
        for file, total in left.items():
            if not file.startswith(_METRICS) and content(self.run_dir / file) != total:
                yield f"{file} is not as {producer.stem} wrote it; {first}"
        if producer.stem in checked:
            return
        checked.add(producer.stem)
        yield from self._problems(producer, checked)
        if changed := self._other_parameter(producer):
            parameter, old, new = changed
            yield f"{name} was made with {parameter} {old}, not {new}; give -p {parameter} {old}, or {first}"
        if other := self._other_input(producer):
            yield f"{name} was made from another {other}; {first}"

    def _problems_of_unclaimed(self, step, name, optional):
        """What is wrong with a file that no notebook has written."""
        earlier, there = self._before_it(step), self._on_disk(name)
        run = [other for other in earlier if self.entries[other.stem]["status"] != "not run"]
        broken = [other.stem for other in run if not self._is_recorded(other)]
        if there and broken:
            origin = f"{broken[0]}, which did not finish or was recorded by an older version"
            yield f"{name} may be of {origin}; run notebook {broken[0]} first"
        if not there and not optional:
            writers = [other.stem for other in earlier if name in other.writes] or self._undone_before(step)
            yield f"{self.run_dir} holds no {name}; run notebook {' and '.join(writers) or 'that writes it'} first"

    def _is_recorded(self, step):
        entry = self.entries[step.stem]
        return entry["status"] in _ENDED and "code" in entry

    def _undone_before(self, step):
        earlier = [other for other in self._before_it(step) if other.wanted]
        return [other.stem for other in earlier if self.entries[other.stem]["status"] not in _ENDED]


def _tidy(run_dir):
    """Remove files that were half written when a run was interrupted."""
    for path in _files(run_dir):
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _matching(files, name):
    """What is known of this file, of the files in this folder, or of all sections of this file."""
    return {file: known for file, known in files.items() if file == name or file.startswith((f"{name}/", f"{name}#"))}


def _files(run_dir):
    return (Path(folder, name) for folder, _, names in os.walk(run_dir) for name in names)


def _snapshot(run_dir):
    """Time, size and inode of each file that can be an output: they change when it is written."""
    found = {}
    for path in _files(run_dir):
        place = path.relative_to(run_dir)
        hidden = any(part.startswith(".") for part in place.parts)
        if not hidden and not _CHECKPOINTS & set(place.parts) and not place.name.endswith(_UNFINISHED):
            stat = path.stat()
            found[place.as_posix()] = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
    return {name: stamp for name, stamp in found.items() if name not in _NOT_OUTPUTS}


def _is_shown(name):
    """Whether a file would be taken for a present result, such as a figure that is no longer drawn."""
    return name.startswith("figures/") or ("/" not in name and name.endswith(".csv"))


def _wrong(name, now):
    """Say how a file differs from the record; a manifest counts with the existence of its images."""
    if now is None:
        return "missing"
    return "damaged, or names images that were moved" if name == "manifest.csv" else "damaged"


def _set_aside(run_dir, name):
    """Move a damaged file aside, or a file that took the place of its folder; it may be somebody's work."""
    place = Path(name)
    for part in (*reversed(place.parents[:-1]), place):
        if (run_dir / part).is_file() or ((run_dir / part).exists() and part == place):
            kept = run_dir / _ASIDE / part
            shutil.rmtree(kept, ignore_errors=True)
            kept.parent.mkdir(parents=True, exist_ok=True)
            os.replace(run_dir / part, kept)


def _typed(value):
    """A parameter's value as typed on the command line."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def _first_difference(old, new):
    return next((name for name in sorted({*old, *new}) if old.get(name) != new.get(name)), None)
