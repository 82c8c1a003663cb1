"""Results, exported straight from Kafka: what `stream-app results` does, for Python users."""

from stream_app.results.export import Export, Joined, Wanted, export

__all__ = ["Export", "Joined", "Wanted", "export"]
