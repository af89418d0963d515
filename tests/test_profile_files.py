"""Files of profiles: whatever is in them is sections or one sentence, in little time and memory."""

from __future__ import annotations

import resource
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covidxr._profile import parse_yaml, read_profile
from covidxr.errors import CovidxrError

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join(10 * [f'*a{n - 1}'])}]\n" for n in range(1, 9)
)
HOSTILE = {
    "Latin-1": ("all:\n  classes: [Gesünder]\n".encode("latin-1"), "is not text in UTF-8; save it in that encoding"),
    "UTF-16": ("all:\n  seed: 1\n".encode("utf-16"), "is not text in UTF-8"),
    "binary": (bytes(range(256)), "is not text in UTF-8"),
    "NUL": (b"all:\0\n", "is not valid YAML"),
    "circular": (b"all: &a\n  seed: *a\n", r"is not valid YAML: aliases \(\*a\) are not read, write the value out"),
    "circular list": (b"all: {classes: &a [*a]}\n", "is not valid YAML: aliases .* are not read"),
    "alias bomb": (BOMB.encode(), "is not valid YAML: aliases .* are not read"),
    "merged bomb": (b"a: &a {x: 1}\nb: {<<: [*a, *a]}\n", "is not valid YAML: aliases .* are not read"),
    "deep": (b"all: " + 40_000 * b"[", "is not valid YAML: too many brackets"),
    "deep mapping": (b"all: " + 20_000 * b"{a: ", "is not valid YAML: too many brackets"),
    "large": (b"all:\n" + 30_000_000 * b"# 345\n", "has 100,001 letters, 100,000 are the most"),
    "no date": (b"all:\n  seed: 2020-99-99\n", "is not valid YAML: month must be in 1..12"),
    "no number": (b"all:\n  seed: 1" + 9_000 * b"0" + b"\n", "is not valid YAML: .*integer string conversion"),
    "tag": (b"all: !!python/object/apply:os.system [exit]\n", "is not valid YAML: could not determine a constructor"),
    "empty tag": (b"all: !!int ''\n", "is not valid YAML"),
    "unhashable": (b"? [a]\n: b\n", "is not valid YAML"),
    "a section twice": (b"all:\n  seed: 1\nall:\n  seed: 2\n", "is not valid YAML: 'all' stands twice"),
    "a parameter twice": (b"all:\n  seed: 1\n  seed: 2\n", "is not valid YAML: 'seed' stands twice .*line 2"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_profile_is_one_sentence_in_little_time_and_memory(name, tmp_path):
    content, error = HOSTILE[name]
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    del content
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(CovidxrError, match=f"mine.yaml {error}") as caught:
        read_profile(path)
    assert time.monotonic() - start < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_profile_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "mine.yaml").write_text("all:\n  classes: [Málaga]\n", encoding="utf-8-sig")
    assert read_profile(tmp_path / "mine.yaml") == ("mine", {"all": {"classes": ["Málaga"]}})


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=30), st.text("[]{}:&*!?-,\n 0a'\"<|>#%@", max_size=30)))
def test_any_text_is_a_value_or_one_sentence(text):
    try:
        parse_yaml(text, "-p seed")
    except CovidxrError as error:
        assert str(error).startswith("-p seed ")
