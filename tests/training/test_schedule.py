"""The learning rate as a function of the update, the resolution as one of the epoch."""

import pytest

from mobilenet_train.config.schema import ProgressiveConfig, ScheduleConfig
from mobilenet_train.training.schedule import learning_rate, resolution


def learning_rates(decay: str, warmup: float = 0.0, final: float = 0.0, total: int = 100) -> list[float]:
    schedule = ScheduleConfig(decay=decay, warmup=warmup, final=final, every_epochs=2.0, factor=0.5)
    return [learning_rate(update, total, 10, 1.0, schedule) for update in range(total)]


def test_warmup_grows_linearly_from_the_first_update_to_the_peak() -> None:
    assert learning_rates("constant", warmup=0.2)[:20] == pytest.approx([(n + 1) / 20 for n in range(20)])


def test_cosine_halves_at_half_time_and_ends_near_zero() -> None:
    values = learning_rates("cosine")
    assert values[0] == 1.0
    assert values[50] == pytest.approx(0.5)
    assert values[-1] == pytest.approx(0.000247, abs=1e-6)


def test_linear_after_warmup_falls_by_equal_steps_to_its_final_share() -> None:
    values = learning_rates("linear", warmup=0.2, final=0.1)
    assert values[20] == 1.0
    assert values[60] == pytest.approx(0.55)
    assert values[99] == pytest.approx(0.11125)


def test_step_multiplies_every_so_many_epochs() -> None:
    values = learning_rates("step")
    assert (values[19], values[20], values[39], values[40]) == (1.0, 0.5, 0.5, 0.25)


def test_exponential_passes_through_the_same_points_smoothly() -> None:
    values = learning_rates("exponential")
    assert values[20] == pytest.approx(0.5)
    assert values[10] == pytest.approx(0.5**0.5)


def test_constant_stays() -> None:
    assert set(learning_rates("constant")) == {1.0}


@pytest.mark.parametrize(
    ("start", "full", "step", "sizes"),
    [
        (64, 160, 32, [64, 64, 96, 96, 128, 128, 160, 160]),
        (16, 32, 8, [16, 16, 16, 24, 24, 24, 32, 32]),
        (16, 32, 32, [16, 16, 16, 16, 16, 16, 32, 32]),
    ],
)
def test_a_progressive_resolution_grows_in_steps_and_is_full_for_the_rest(
    start: int, full: int, step: int, sizes: list[int]
) -> None:
    assert [
        resolution(epoch, 8, full, step, ProgressiveConfig(start=start, full_from=0.75)) for epoch in range(8)
    ] == sizes


def test_without_a_start_every_epoch_has_the_full_resolution() -> None:
    assert {resolution(epoch, 8, 160, 32, ProgressiveConfig(start=None, full_from=0.75)) for epoch in range(8)} == {160}
