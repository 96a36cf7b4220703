"""What a user is told of the cluster that is asked for."""

import pytest

from recbole_sda.errors import SDAError
from recbole_sda.ray_cluster import connect, start_ray

ray = pytest.importorskip("ray")


@pytest.fixture
def asked(monkeypatch):
    """What ``ray.init`` was called with; it raises ``asked.error`` where there is one."""
    calls = type("Calls", (list,), {"error": None})()

    def init(**options):
        calls.append(options)
        if calls.error:
            raise calls.error

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    return calls


def test_the_address_is_the_one_that_was_said(asked):
    start_ray("embed_workers", 2, use_gpu=False, address="10.0.0.1:6379")
    assert asked == [{"address": "10.0.0.1:6379"}]


def test_the_environments_cluster_is_named_where_it_does_not_answer(asked, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:6379")
    asked.error = ConnectionError("Failed to connect")
    with pytest.raises(SDAError, match=r"ray_address=10.0.0.2:6379: no Ray cluster answers there"):
        connect("embed_workers=2")


def test_no_cluster_there(asked):
    asked.error = ConnectionError("Failed to\nconnect")
    with pytest.raises(SDAError, match=r"ray_address=auto: no Ray cluster answers there \(Failed to connect\)"):
        connect("tune", "auto")
    with pytest.raises(ConnectionError):  # nobody asked for a cluster: Ray's own words
        connect("tune")


@pytest.mark.parametrize("address", ["10.0.0.1:6379", None])
def test_a_cluster_that_wants_a_token(asked, address):
    """As Ray says it: the reason is in the text of the cause."""
    asked.error = ConnectionError("Failed to connect")
    asked.error.__cause__ = RuntimeError("Last error: ray.exceptions.AuthenticationError: InvalidAuthToken")
    with pytest.raises(SDAError, match=r"wants a token; set RAY_AUTH_MODE=token.*auth_token"):
        connect("tune", address)


def test_too_few_processors(asked):
    with pytest.raises(SDAError, match="nproc=3 takes a CPU each, and Ray has 2; lower nproc"):
        start_ray("nproc", 3, use_gpu=False)
