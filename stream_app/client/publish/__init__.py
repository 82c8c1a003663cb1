"""Leads of files: read their rows, check them, say what they cost, and publish them."""
