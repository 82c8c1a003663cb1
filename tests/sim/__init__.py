"""The Clay simulator, over real HTTP on loopback."""
