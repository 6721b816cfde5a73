"""Any overrides either train a tiny step or end in one clear line."""

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mobilenet_train.cli.train import main
from mobilenet_train.config.explain import known_keys
from tests.conftest import TINY

pytestmark = pytest.mark.faults

# Large valid numbers are left out: they are right and slow.
WORDS_AS_VALUES = """
0 1 2 -1 0.5 1.5 -0.0 nan inf 1e400 -1e308 true false null abc '' [] [1,2,3] [0.5,0.5,0.5] {} {a:1} ??? ${x}
${epochs} ${oc.env:HOME} a:b :b paper relu auto imagenet constant step cosine v1 v2 adam none basic cpu fp32 bf16
0x10 1_0 é 💥 a=b a,b choice(1,2) range(1,3) ../x /proc/x
"""
VALUES = st.sampled_from(WORDS_AS_VALUES.split())
KEYS = st.sampled_from([*known_keys(), "recipe", "hydra/launcher", "nope", "model.nope", "a.b.c", "hydra.job.name"])
OVERRIDE = st.builds(
    lambda prefix, key, value: f"{prefix}{key}={value}", st.sampled_from(["", "", "", "+", "++", "~"]), KEYS, VALUES
)
GARBAGE = st.text(st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
WORDS = st.lists(st.one_of(OVERRIDE, OVERRIDE, OVERRIDE, GARBAGE.filter(lambda t: not t.startswith("-"))), max_size=3)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(words=WORDS)
def test_any_overrides_train_a_step_or_end_in_one_clear_line(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["mnet-train", *TINY, "max_updates=1", "dataset.max_per_class=4", *words])
    with pytest.raises(SystemExit) as end:
        main()
    errors = capsys.readouterr().err
    if end.value.code == 0:
        return
    assert end.value.code in (1, 2), words
    assert len(errors.strip().splitlines()) == 1, (words, errors)
    assert errors.startswith("mnet-train: "), (words, errors)
    if end.value.code == 2:
        assert list(folder.iterdir()) == [], words
