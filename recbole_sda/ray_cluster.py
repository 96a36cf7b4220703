"""A Ray cluster with room for what is asked of it: the one that is running, or one on this machine."""

import os

from recbole_sda.errors import SDAError


def connect(reason: str, address: str | None = None, **options) -> None:
    """Connect to Ray, unless this process is; what it is connected to then stays, whatever the address.

    Args:
        reason: what needs it, for the error.
        address: of a running cluster; None takes the one that ``RAY_ADDRESS`` names, or starts one here.
        options: further ones of ``ray.init``.

    Raises:
        SDAError: Ray is not installed, there is no cluster at the address, or it lets nobody in without its token.
    """
    try:
        import ray
    except ImportError as error:
        raise SDAError(f"{reason} needs Ray ({error}); pip install 'recbole_sda[tune]'") from error
    if ray.is_initialized():
        return
    address = address or os.environ.get("RAY_ADDRESS")
    try:
        ray.init(address=address, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        if "AuthenticationError" in f"{error} {error.__cause__}":
            raise SDAError(
                f"ray_address={address or ''}: the Ray cluster that runs there wants a token; set "
                "RAY_AUTH_MODE=token, and have the cluster's ~/.ray/auth_token on this machine, too"
            ) from error
        if address is None:
            raise
        raise SDAError(
            f"ray_address={address}: no Ray cluster answers there ({' '.join(str(error).split())[:200]}); start "
            "one with `ray start --head`, or leave ray_address out"
        ) from error


def show_gpus(config) -> None:
    """Let a cluster that starts here count the GPUs that the user means it to have.

    They are those of ``gpu_id`` where that is given, else all that this process was started with: RecBole has
    hidden all but its default, the first one.
    """
    gpus = str(config["gpu_id"]) if config.given("gpu_id") else config.users_gpus
    if gpus is None:
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus


def start_ray(key: str, workers: int, *, use_gpu: bool, address: str | None = None) -> None:
    """Connect to Ray.

    Args:
        key: of the configuration, that asked for the workers; named in errors.
        use_gpu: a GPU each, instead of a CPU.
        address: as :func:`connect`.

    Raises:
        SDAError: as :func:`connect`; Ray has too little room.
    """
    connect(f"{key}={workers}", address)
    import ray

    kind = "GPU" if use_gpu else "CPU"
    if (there := int(ray.cluster_resources().get(kind, 0))) < workers:
        remedy = f"lower {key}, or name more of them in gpu_id" if use_gpu else f"lower {key}"
        raise SDAError(f"{key}={workers} takes a {kind} each, and Ray has {there}; {remedy}")
