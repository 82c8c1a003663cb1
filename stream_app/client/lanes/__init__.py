"""The state of each lane as its worker wrote it, and commands to lanes."""
