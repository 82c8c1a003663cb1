"""Leads go in on Kafka, each reaches Clay once, and every step comes out on Kafka."""

__version__ = "0.1.0"
