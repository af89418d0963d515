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
from covidxr.run.record import facts, now
from covidxr.utils import SECTIONS, CovidxrError, read_json, write_json

METRICS = "metrics.json"

_NOT_OUTPUTS = {"run.json", "run.lock", "index.html", METRICS}

_CHECKPOINTS = {"training", "stages"}  # folders of trainings that can be resumed

_UNFINISHED = (".running.ipynb", ".failed.ipynb")

_TEMPORARY = re.compile(r"\.covidxr-[0-9a-f-]+(\..*)?|.*\.running\.ipynb")  # of `covidxr.utils`, and the runner's own

_PHANTOMS = "phantoms/"

_ASIDE = ".damaged"  # where damaged files are kept

_ENDED = ("done", "outdated")


class State:
    """A run folder, its record, and the notebooks as they are now."""

    def __init__(self, record, steps, run_dir):
        self.record, self.steps, self.run_dir = record, steps, Path(run_dir)
        self.entries, self._known, self._before = record["notebooks"], {}, {}
        if record.get("machine") != facts()["machine"]:  # the times of another machine are no estimate
            for entry in self.entries.values():
                entry.pop("usual_seconds", None)
        (self.run_dir / SECTIONS).unlink(missing_ok=True)
        for entry in self.entries.values():  # the lock is ours, so that run was killed
            if entry["status"] == "running":
                entry.update(status="interrupted", outputs={**entry.get("outputs", {}), **self._since(entry)})
        self.damage = {step.stem: found for step in steps if (found := self._damaged(self.entries[step.stem]))}

    def why(self, step) -> str | None:
        """Why a notebook has to run; ``""`` where it never finished, None where it is done."""
        entry = self.entries[step.stem]
        if entry["status"] not in _ENDED:
            return ""
        if "code" not in entry:
            return "its record is of an older version"
        if entry["code"] != step.code:
            return "its code changed"
        if changed := self._other_parameters(step):
            name, old, new = changed
            return f"{name} is {_text(new)}, and was {_text(old)}"
        if other := _first_difference(entry["inputs"], self.inputs(step)):
            return f"{other} changed"
        found = list(self.damage.get(step.stem, {}).values())
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        return f"{found[0]}{more}" if found else None

    def refusal(self, step) -> str | None:
        """Why a notebook cannot be run by itself on the present files, and what to run first; None where it can."""
        wrong = self._wrong_below(step, set())
        return f"{step.stem} cannot run: {wrong}" if wrong else None

    def inputs(self, step) -> dict:
        """Digests of all that a notebook reads: what its parameters name, and what it reads of the run folder."""
        return {**inputs_of(step.values, self._known), **{name: self._sum(step, name) for name in self._reads(step)}}

    def begin(self, step) -> dict:
        """Record a notebook as running, move its damaged outputs aside, and note the present files."""
        entry = self.entries[step.stem]
        for name in self.damage.pop(step.stem, {}):
            _set_aside(self.run_dir, name)
        for later in self.steps[self.steps.index(step) + 1 :]:
            if self.entries[later.stem]["status"] == "done":
                self.entries[later.stem]["status"] = "outdated"
        kept = {name: entry[name] for name in ("outputs", "metrics", "usual_seconds") if name in entry}
        seen = {"code": step.code, "inputs": self.inputs(step)}
        self.entries[step.stem] = {"status": "running", "started": now(), **seen, **kept}
        self.record.update(facts(), parameters={**self.record["parameters"], step.stem: step.values})
        (self.run_dir / SECTIONS).write_text("", encoding="utf-8")
        self._before = _snapshot(self.run_dir)
        return self.entries[step.stem]

    def expected_seconds(self, step, chosen) -> tuple[float, float] | None:
        """Time of a notebook and of all that are to follow, as on this machine before; None where one has never run here."""
        later = [other for other in chosen[chosen.index(step) + 1 :] if self.entries[other.stem]["status"] != "done"]
        times = [self.entries[other.stem].get("usual_seconds") for other in [step, *later]]
        return None if None in times else (times[0], sum(times[1:]))

    def finish(self, step, ended=True) -> None:
        """Record the outputs of a notebook; those of its last execution that it has not written again are no longer its own."""
        entry, after = self.entries[step.stem], _snapshot(self.run_dir)
        written = {name for name, stamp in after.items() if self._before.get(name) != stamp}
        earlier = {name for name in {*entry.get("outputs", {}), *self._drawn(after)} if name in after} - written
        if ended:
            for name in filter(_is_shown, earlier):
                (self.run_dir / name).unlink()
            earlier = {name for name in earlier if not _is_shown(name)}
        sections = set((self.run_dir / SECTIONS).read_text(encoding="utf-8").split("\n")) - {""}
        (self.run_dir / SECTIONS).unlink()
        metrics = read_json(self.run_dir / METRICS)
        if "version" in metrics:
            self.record["metrics_version"] = metrics["version"]
        kept = {} if ended else entry.get("metrics", {})
        gone = {name for other in self.entries.values() for name in other.get("metrics", {})} - set(metrics)
        for other in self.entries.values():  # a file belongs to the notebook that wrote it last
            for kind, names in (("outputs", written), ("metrics", sections | gone)):
                other[kind] = {name: value for name, value in other.get(kind, {}).items() if name not in names}
        entry["outputs"] = {name: content(self.run_dir / name) for name in sorted(written | earlier)}
        entry["metrics"] = {**kept, **{name: metrics[name] for name in sorted(sections) if name in metrics}}

    def refresh(self) -> None:
        """Record as done again the notebooks after one whose results have not changed."""
        for step in self.steps:
            if self.entries[step.stem]["status"] == "outdated" and self.why(step) is None:
                self.entries[step.stem]["status"] = "done"

    def restore_metrics(self) -> str | None:
        """Restore numbers that are not as recorded; return a message, or None where nothing was wrong."""
        claimed = {name: value for entry in self.entries.values() for name, value in entry.get("metrics", {}).items()}
        if not claimed:
            return None
        path, there = self.run_dir / METRICS, _readable(self.run_dir / METRICS)
        if there is not None and all(
            name in there and digest(there[name]) == digest(claimed[name]) for name in claimed
        ):
            return None
        what = "missing" if not path.exists() else "damaged"
        _set_aside(self.run_dir, METRICS)
        version = {"version": self.record["metrics_version"]} if "metrics_version" in self.record else {}
        write_json(path, {**version, **(there or {}), **claimed})
        return f"{METRICS} was {what}; its numbers were restored from run.json"

    def _since(self, entry):
        """Files written since a notebook was started; without a digest, as it did not finish."""
        started = datetime.fromisoformat(entry["started"]).timestamp()  # whole seconds: another may have ended since
        known = [other.get("outputs", {}) for other in self.entries.values() if other is not entry]
        new = [name for name, (written, *_) in _snapshot(self.run_dir).items() if written / 1e9 >= started]
        sums = {name: content(self.run_dir / name) for name in new if any(name in outputs for outputs in known)}
        return {
            name: None for name in new if not any(name in sums and outputs.get(name) == sums[name] for outputs in known)
        }

    def _drawn(self, files):
        """Phantoms whose origin is not recorded, as the record was lost; they are not drawn again."""
        left = {name for entry in self.entries.values() for name in entry.get("outputs", {})}
        return {name for name in files if name.startswith(_PHANTOMS)} - left

    def _reads(self, step):
        """Names of what a notebook reads of the run folder; by default all outputs of those before it."""
        if step.reads is not None:
            return [name.rstrip("?") for name in step.reads]
        return [
            name
            for earlier in self._before_it(step)
            for name in self._left(earlier)
            if not name.startswith("notebooks/")
        ]

    def _before_it(self, step):
        return self.steps[: self.steps.index(step)]

    def _left(self, step):
        """Digests of a notebook's outputs, its numbers section by section."""
        entry = self.entries[step.stem]
        sections = {f"{METRICS}#{name}": digest(value) for name, value in entry.get("metrics", {}).items()}
        return {**entry.get("outputs", {}), **sections}

    def _claims(self, step, name):
        """Outputs of earlier notebooks under a name: of a file, a section, a folder or all numbers."""
        found = {earlier.stem: _matching(self._left(earlier), name) for earlier in self._before_it(step)}
        return {stem: left for stem, left in found.items() if left}

    def _sum(self, step, name):
        left = {file: total for claim in self._claims(step, name).values() for file, total in claim.items()}
        if not left:
            left = self._on_disk(name)
        return left[name] if set(left) == {name} else digest(left) if left else None

    def _on_disk(self, name):
        """Digests of files or sections of this name that no notebook has written: the user put them there."""
        if name.startswith(METRICS):
            sections = {f"{METRICS}#{key}": digest(value) for key, value in read_json(self.run_dir / METRICS).items()}
            return _matching(sections, name)
        files = _matching(dict.fromkeys(_snapshot(self.run_dir)), name)
        return {file: content(self.run_dir / file) for file in files}

    def _other_parameters(self, step):
        """Name, recorded and present value of the first parameter that differs."""
        old, new = comparable(self.record["parameters"].get(step.stem, {})), comparable(step.values)
        names = (name for name in sorted({*old, *new}) if digest(old.get(name)) != digest(new.get(name)))
        return next(((name, old.get(name), new.get(name)) for name in names), None)

    def _damaged(self, entry):
        sums = ((name, recorded, content(self.run_dir / name)) for name, recorded in entry.get("outputs", {}).items())
        return {name: f"{name} is {_wrong(name, now)}" for name, recorded, now in sums if now != recorded and recorded}

    def _wrong_below(self, step, checked):
        """The first problem of what a notebook reads, and of what that was made from."""
        for name in step.reads if step.reads is not None else self._reads(step):
            claims = self._claims(step, name.rstrip("?"))
            if not claims and (wrong := self._unclaimed(step, name)):
                return wrong
            for stem, left in claims.items():
                producer = next(other for other in self.steps if other.stem == stem)
                if wrong := self._wrong_with(producer, name.rstrip("?"), left, checked):
                    return wrong
        if step.reads is None and (missing := [s.stem for s in self._before_it(step) if not self._has_ended(s)]):
            return f"it reads what {missing[0]} leaves; run notebook {missing[0]} first"
        return None

    def _has_ended(self, step):
        return self.entries[step.stem]["status"] in _ENDED or not step.wanted

    def _unclaimed(self, step, name):
        """What is wrong with a file that no notebook has written."""
        there, optional = self._on_disk(name.rstrip("?")), name.endswith("?")
        broken = [
            earlier.stem
            for earlier in self._before_it(step)
            if self.entries[earlier.stem]["status"] not in ("not run", *_ENDED)
            or (self.entries[earlier.stem]["status"] in _ENDED and "code" not in self.entries[earlier.stem])
        ]
        if there and broken:
            origin = f"{broken[0]}, which did not finish or was recorded by an older version"
            return f"{name.rstrip('?')} may be of {origin}; run notebook {broken[0]} first"
        if there or optional:
            return None
        writers = [earlier.stem for earlier in self._before_it(step) if name in earlier.writes]
        undone = writers or [earlier.stem for earlier in self._before_it(step) if not self._has_ended(earlier)]
        return f"{self.run_dir} holds no {name}; run notebook {' and '.join(undone) or 'that writes it'} first"

    def _wrong_with(self, producer, name, left, checked):
        """What is wrong with an output of another notebook that is to be read."""
        entry, first = self.entries[producer.stem], f"run notebook {producer.stem} first"
        files = [file for file in left if not file.startswith(METRICS)]
        if entry["status"] not in _ENDED or "code" not in entry:
            return f"{name} is of {producer.stem}, which did not finish; {first}"
        damaged = next((file for file in files if content(self.run_dir / file) != left[file]), None)
        if damaged:
            return f"{damaged} is not as {producer.stem} wrote it; {first}"
        if producer.stem in checked:
            return None
        checked.add(producer.stem)
        if wrong := self._wrong_below(producer, checked):
            return wrong
        if changed := self._other_parameters(producer):
            parameter, old, new = changed
            return f"{name} was made with {parameter} {_text(old)}, not {_text(new)}; give -p {parameter} {_text(old)}, or {first}"
        if other := _first_difference(entry["inputs"], self.inputs(producer)):
            return f"{name} was made from another {other}; {first}"
        return None


def tidy(run_dir) -> None:
    """Remove files that were half written when a run was interrupted."""
    for path in _files(run_dir):
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _matching(digests, name):
    """Digests of this file, of the files in this folder, or of all sections of this file."""
    return {file: total for file, total in digests.items() if file == name or file.startswith((f"{name}/", f"{name}#"))}


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


def _readable(path):
    try:
        found = read_json(path)
    except (CovidxrError, OSError):
        return None
    return found if isinstance(found, dict) else None


def _text(value):
    """A parameter's value as typed on the command line."""
    return json.dumps(value, ensure_ascii=False, default=str)


def _first_difference(old, new):
    return next((name for name in sorted({*old, *new}) if old.get(name) != new.get(name)), None)
