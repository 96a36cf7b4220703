"""A Ray cluster with room for what is asked of it: the one that is running, or one on this machine."""

from recbole_sda.errors import SDAError


def start_ray(key: str, workers: int, *, use_gpu: bool) -> None:
    """Connect to Ray.

    Args:
        key: of the configuration, that asked for the workers; named in errors.
        use_gpu: a GPU each, instead of a CPU.

    Raises:
        SDAError: Ray is not installed or has too little room.
    """
    try:
        import ray
    except ImportError as error:
        raise SDAError(f"{key}={workers} needs Ray ({error}); pip install 'recbole_sda[tune]'") from error
    if not ray.is_initialized():
        ray.init()
    kind = "GPU" if use_gpu else "CPU"
    if (there := int(ray.cluster_resources().get(kind, 0))) < workers:
        remedy = f"lower {key}, or name more of them in gpu_id" if use_gpu else f"lower {key}"
        raise SDAError(f"{key}={workers} takes a {kind} each, and Ray has {there}; {remedy}")
