"""Exports results straight from Kafka, for `stream-app results` and for Python programs."""

from stream_app.results.export import Export, Joined, ResultFilter, export, results_of

__all__ = ["Export", "Joined", "ResultFilter", "export", "results_of"]
