"""Sweeps without Ray: what is searched, where it is kept, and what a trial is worth."""
