"""Containers and codecs: one reader per family of formats, chosen by the file's own bytes."""
