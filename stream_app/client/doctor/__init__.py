"""Examine a set-up: its checks, its gateways, one test lead, and what to set up outside."""
