"""Python's values as words of a command line."""

from pathlib import Path

import pytest

from mobilenet_train.api.words import words_of
from mobilenet_train.config.overrides import parsed


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (2, "key=2"),
        (1e-4, "key=0.0001"),
        (True, "key=true"),
        (None, "key=null"),
        ("v3_small", "key=v3_small"),
        ("null", "key='null'"),
        ("10m", "key='10m'"),
        ([0.25, 1.0], "key=[0.25,1.0]"),
        ({"width": 16}, "key={width:16}"),
        ((0, 1), "key=0,1"),
        (range(3), "key=0,1,2"),
        (Path("/tmp/a b"), "key='/tmp/a b'"),
    ],
)
def test_a_value_is_written_as_a_user_would(value: object, word: str) -> None:
    assert words_of({"key": value}) == [word]


@pytest.mark.parametrize("text", ["it's", "a=b, c", "${x}", "back\\slash", "~/runs", "null", "1"])
def test_a_text_is_read_as_it_is(text: str) -> None:
    (override,) = parsed(words_of({"key": text}))
    assert str(override.value()) == text
