"""Presets of settings and seeds that answer a question, each one command."""
