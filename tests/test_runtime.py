"""Which device and how many threads a rank gets."""

import argparse
import os

import pytest
import torch

from mobilenet_train import runtime
from mobilenet_train.cli.tool import runtime_of
from mobilenet_train.errors import ConfigError, RunError
from mobilenet_train.kernels import bindings as kernels
from mobilenet_train.ranks import ALONE, Ranks, ranks_from_environment
from tests.conftest import TINY, configure


def machine(monkeypatch: pytest.MonkeyPatch, gpus: int = 0, apple: bool = False, bf16: bool = True) -> None:
    """Lets torch see so many CUDA devices, which multiply in bf16 or emulate it, or Apple's."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or bf16)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: apple)


def set_up(ranks: Ranks, *overrides: str) -> runtime.Runtime:
    return runtime.set_up(configure(*TINY, *overrides).device, ranks)


def test_auto_takes_cuda_before_apples_gpu_before_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, gpus=1, apple=True)
    assert set_up(ALONE, "device=auto").precision == "bf16"
    machine(monkeypatch, apple=True)
    found = set_up(ALONE, "device=auto")
    assert (found.device.type, found.precision, found.sum_dtype) == ("mps", "fp32", torch.float32)
    assert found.memory_format == torch.contiguous_format, "batch-norm's gradients are wrong there in channels_last"
    assert set_up(Ranks(1, 2, 1, 2), "device=auto").device.type == "cpu", "ranks cannot share Apple's GPU"
    machine(monkeypatch)
    found = set_up(ALONE, "device=auto")
    assert (found.device.type, found.sum_dtype) == ("cpu", torch.float64)


def test_a_gpu_that_emulates_bf16_takes_fp16_with_a_scaler(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, gpus=1, bf16=False)
    assert torch.cuda.is_bf16_supported(including_emulation=True)
    found = set_up(ALONE, "device=auto")
    assert (found.precision, found.casting().fast_dtype) == ("fp16", torch.float16)


@pytest.mark.parametrize("wanted", [True, False])
def test_deterministic_takes_only_algorithms_that_repeat(wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, gpus=1)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        assert set_up(ALONE, "device=cuda", f"device.deterministic={wanted}").deterministic == wanted
        assert torch.are_deterministic_algorithms_enabled() == wanted
        assert torch.backends.cudnn.benchmark != wanted
        assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == (":4096:8" if wanted else None)
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = True


def test_apples_gpu_does_not_promise_to_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, apple=True)
    assert not set_up(ALONE, "device=auto").deterministic
    with pytest.raises(ConfigError, match=r"device\.deterministic=true is for CUDA devices and CPUs; use device=cpu"):
        set_up(ALONE, "device=auto", "device.deterministic=true")


def test_a_cpu_always_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch)
    assert set_up(ALONE, "device=cpu").deterministic
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(("instructions", "compiled", "chosen"), [(1, 1, "bf16"), (0, 1, "fp32"), (1, 0, "fp32")])
def test_auto_takes_bf16_on_a_cpu_that_has_it(
    monkeypatch: pytest.MonkeyPatch, instructions: int, compiled: int, chosen: str
) -> None:
    monkeypatch.setattr(runtime, "cpu_flags", lambda: {"avx2", "avx512_bf16"} if instructions else {"avx2"})
    monkeypatch.setattr(kernels, "library", lambda _: compiled or None)
    assert set_up(ALONE, "device=cpu").precision == chosen
    assert set_up(ALONE, "device=cpu", "device.precision=fp32").precision == "fp32"
    assert set_up(ALONE, "device=cpu", "device.channels_last=false").precision == "fp32"
    device = configure(*TINY, "device=cpu").device
    assert runtime.set_up(device, custom=True).precision == "fp32", "with PyTorch's own kernels it is slow"
    if chosen == "fp32":
        with pytest.raises(ConfigError, match=r"device\.precision=bf16 needs .*AVX512_BF16.* C compiler"):
            set_up(ALONE, "device=cpu", "device.precision=bf16")


def test_tools_take_the_precision_of_the_run_where_the_device_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch)
    monkeypatch.setattr(runtime, "cpu_flags", set)
    arguments = argparse.Namespace(device="auto", threads=None)
    config = configure(*TINY, "device=cuda", "device.precision=bf16", "device.sync_batch_norm=true")
    assert runtime_of(arguments, config, threads=1).precision == "fp32"
    monkeypatch.setattr(runtime, "cpu_flags", lambda: {"avx512_bf16"})
    monkeypatch.setattr(kernels, "library", lambda _: True)
    assert runtime_of(arguments, config, threads=1).precision == "bf16"
    config.device.precision = "fp32"
    assert runtime_of(arguments, config, threads=1).precision == "fp32"


def test_another_make_of_cpu_is_another_environment_and_an_older_checkpoints_is_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtime, "processor_model", lambda: "AMD EPYC")
    there = runtime.environment(set_up(ALONE, "device=cpu"))
    assert runtime.changes({**there, "compile": None}, there) == []
    monkeypatch.setattr(runtime, "processor_model", lambda: "Intel Xeon")
    here = runtime.environment(set_up(ALONE, "device=cpu"))
    assert runtime.changes(there, here) == ["processor AMD EPYC -> Intel Xeon"]
    del there["processor"]
    assert runtime.changes(there, here) == ["processor unknown -> Intel Xeon"]


def test_each_rank_of_a_machine_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, gpus=2)
    assert set_up(Ranks(3, 4, 1, 2), "device=cuda").device == torch.device("cuda", 1)
    with pytest.raises(RunError, match=r"no GPU for each of 3 ranks: torch sees 2 .* --nproc-per-node=2"):
        set_up(Ranks(2, 3, 2, 3), "device=cuda")


def test_ranks_of_a_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "usable_cores", lambda: 8)
    chosen = ("device=cpu", "device.threads=null")
    assert set_up(ALONE, *chosen).threads == 8
    assert set_up(Ranks(0, 6, 0, 3), *chosen).threads == 2
    assert set_up(Ranks(0, 16, 0, 16), *chosen).threads == 1


def test_synchronised_batch_norm_is_refused_where_there_is_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch)
    with pytest.raises(ConfigError, match=r"device\.sync_batch_norm=true needs CUDA"):
        configure(*TINY, "device=cpu", "device.sync_batch_norm=true")
    with pytest.raises(ConfigError, match=r"device\.sync_batch_norm=true needs CUDA"):
        set_up(ALONE, "device=auto", "device.sync_batch_norm=true")


def test_the_environment_sets_which_rank_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert ranks_from_environment() == ALONE
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert ranks_from_environment() == Ranks(5, 8, 5, 8)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert ranks_from_environment() == Ranks(5, 8, 1, 4)
