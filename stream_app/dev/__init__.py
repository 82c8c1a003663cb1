"""Development tools: the simulator, local Kafka and Redis, and the demo. Nothing in production imports them."""
