"""The synthetic patient: who (patient), how the heart moves (heart, motion), what a scanner shows of it (tissue, render)."""
