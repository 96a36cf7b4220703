"""Presets of settings and seeds that answer a question, each one command."""

from recbole_sda.studies.run_study import study

__all__ = ["study"]
