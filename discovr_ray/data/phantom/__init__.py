"""The synthetic patient: who it is, how its heart moves, what a scanner shows of it, and the file it is stored in."""
