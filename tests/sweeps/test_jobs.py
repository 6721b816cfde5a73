"""Names of jobs and sweeps: told by what is swept, and the same whenever the same is asked for."""

import pytest

from mobilenet_train.sweeps.jobs import LONGEST_NAME, clean, identity, make_job
from tests.conftest import TINY, configure


def test_a_job_is_named_by_what_it_changes_and_by_a_hash_of_everything() -> None:
    job = make_job(configure(*TINY, "seed=3"), {"model.width_mult": "0.25", "seed": "3"})
    assert job.name == f"width_mult-0.25_seed-3_{job.hash}"
    assert len(job.hash) == 8
    assert job.seed == 3


def test_another_value_anywhere_is_another_job() -> None:
    one = make_job(configure(*TINY), {})
    assert make_job(configure(*TINY, "optim.lr=0.011"), {}).hash != one.hash
    assert make_job(configure(*TINY), {}) == one


@pytest.mark.parametrize("words", ["device.threads=2", "log_every=7", "outputs=elsewhere", "run_dir=there", "slots=3"])
def test_what_may_change_when_a_run_goes_on_leaves_it_the_same_job(words: str) -> None:
    assert make_job(configure(*TINY, words), {}).hash == make_job(configure(*TINY), {}).hash


def test_such_a_key_does_make_jobs_differ_where_it_is_swept() -> None:
    hashes = {make_job(configure(*TINY, f"log_every={n}"), {"log_every": str(n)}).hash for n in (1, 2)}
    assert len(hashes) == 2


def test_seeds_share_a_group_and_nothing_else_does() -> None:
    first, second = (make_job(configure(*TINY, f"seed={seed}"), {"seed": str(seed)}) for seed in (0, 1))
    assert first.group == second.group
    assert first.hash != second.hash
    assert make_job(configure(*TINY, "epochs=3"), {}).group != first.group


@pytest.mark.parametrize("split_seeds", [[0, 0, 0], [1, 1, 1], [0, 1, 2]], ids=["usual", "another", "the seed's own"])
def test_seeds_share_a_group_whatever_seed_their_split_has(split_seeds: list[int]) -> None:
    configs = [configure(*TINY, f"seed={n}", f"dataset.split_seed={s}") for n, s in enumerate(split_seeds)]
    assert len({make_job(config, {"seed": str(config.seed)}).group for config in configs}) == 1


def test_splits_that_are_swept_are_configurations_of_their_own() -> None:
    pairs = [(seed, split_seed) for seed in (0, 1) for split_seed in (0, 1)]
    groups = {pair: _group_of(*pair) for pair in pairs}
    assert groups[0, 0] == groups[1, 0] != groups[0, 1] == groups[1, 1]


def _group_of(seed: int, split_seed: int) -> str:
    config = configure(*TINY, f"seed={seed}", f"dataset.split_seed={split_seed}")
    return make_job(config, {"seed": str(seed), "dataset.split_seed": str(split_seed)}).group


def test_a_sweep_is_named_by_what_is_fixed_and_the_swept_keys_not_their_values() -> None:
    fixed = ["model=v2", "epochs=3"]
    name = identity([*fixed, "model.width_mult=0.5,1.0"]).name
    assert name == "epochs-3_model-v2_by_width_mult"
    assert identity(["model.width_mult=0.25,0.5,1.0", *reversed(fixed)]).name == name
    assert identity([*fixed, "model.width_mult=0.5,1.0", "slots=2", "device.threads=1"]).name == name


def test_keys_that_end_alike_are_told_apart() -> None:
    assert identity(["model.name=a,b", "dataset.name=c,d"]).name == "by_dataset.name_model.name"


def test_long_names_are_cut_and_keep_their_hash() -> None:
    words = [f"dataset.mean=[{'0.123456789,' * 12}0.5]", "epochs=3"]
    cut = identity([*words, "seed=1,2"]).name
    assert len(cut) <= LONGEST_NAME + 9
    assert identity([words[0], "epochs=4", "seed=1,2"]).name != cut
    job = make_job(configure(*TINY), {"dataset.mean": "0.123456789" * 20})
    assert len(job.name) <= LONGEST_NAME + 9
    assert job.name.endswith(job.hash)


def test_names_need_no_quotes() -> None:
    assert clean("a=b,c [d]'e'/f") == "a-b-c-d-e-f"
