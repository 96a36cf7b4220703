"""Sweeps of all three stages under Ray Tune."""
