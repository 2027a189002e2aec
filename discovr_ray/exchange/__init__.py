"""The encoder on its way in and out: the authors' released weights, and formats of other programs."""
