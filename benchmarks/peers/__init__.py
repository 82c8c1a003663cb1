"""Other systems on the same work, leads from Kafka to an HTTP API with a rate limit, each as its
users write it.
"""
