"""One foreign library each, behind the ports that the line declares."""
