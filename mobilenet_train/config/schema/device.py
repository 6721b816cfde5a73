"""The group `device`: where the network is trained."""

from mobilenet_train.config.fields import NULL, Section, flag, one_of, whole

MOST_THREADS = 1024  # far more make OpenMP hang or crash


class DeviceConfig(Section):
    """Where the network is trained, one of the group `device`."""

    name: str = one_of("the choice", "auto", "cpu", "cuda", free=True)
    threads: int | None = whole(
        "CPU threads; null = all cores this process may use", 1, MOST_THREADS, null="null (all cores)", free=True
    )
    precision: str = one_of(
        "auto: bf16 (or fp16) on CUDA and on CPUs that have it, else fp32", *("auto", "fp32", "bf16", "fp16"), free=True
    )
    channels_last: bool = flag("memory layout of images and weights; false is slower almost everywhere", free=True)
    compile: str | None = one_of(
        "torch.compile: default, reduce-overhead (CUDA graphs) or max-autotune; null = off",
        *("default", "reduce-overhead", "max-autotune"),
        null=NULL,
        free=True,
    )
    cuda_graph: bool = flag(
        "record an update once and replay it (CUDA), which spares the CPU; false: launch its operations one by one",
        free=True,
    )
    sync_batch_norm: bool = flag(
        "batch-norm over the global batch of all ranks (CUDA); false: over each rank's share", free=True
    )
    deterministic: bool = flag(
        "only algorithms that are bit-identical from run to run on a GPU, which are slower; on a CPU all are", free=True
    )
