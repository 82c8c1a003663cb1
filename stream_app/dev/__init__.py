"""What runs only on a developer's machine: simulator, local Kafka, demo."""
