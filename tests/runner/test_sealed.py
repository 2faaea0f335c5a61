"""What was sealed comes back; what was changed does not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgbatch.runner.sealed import sealed, unsealed

BODIES = st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers()))


@given(BODIES.filter(lambda body: "sha256" not in body), st.sampled_from([None, 1, 2]), st.booleans())
def test_body_comes_back_however_it_is_laid_out(body: dict, indent: int | None, ascii_only: bool) -> None:
    assert unsealed(sealed(body, indent=indent, ensure_ascii=ascii_only)) == body


def test_changed_or_missing_content_is_refused() -> None:
    whole = sealed({"rows": 10, "name": "a"})
    for changed in (whole.replace(b"10", b"11"), whole.replace(b"name", b"nome"), json.dumps({"rows": 10}).encode()):
        with pytest.raises(ValueError, match="does not match its own checksum"):
            unsealed(changed)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", sealed({"rows": 1})[:-3]])
def test_what_is_no_whole_object_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # json says it in its own words
        unsealed(data)
