"""What an encoder has learned: features of videos, and functions of features and labels. No Ray."""
