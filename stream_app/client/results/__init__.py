"""What became of leads: export the results, and ask the board about one lead or one import."""
