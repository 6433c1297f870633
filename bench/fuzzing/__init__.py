"""Hostile files: every reader of files from outside, and ways to spoil a sound file (``scripts/fuzz.py``)."""
