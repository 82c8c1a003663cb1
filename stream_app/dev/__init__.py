"""Development tools: the simulator, a local Kafka, and the demo.

Nothing in production imports them.
"""
