"""Sweeps under Ray Tune, in which every distinct adapter is trained once."""

from recbole_sda.tuning.sweep import tune

__all__ = ["tune"]
