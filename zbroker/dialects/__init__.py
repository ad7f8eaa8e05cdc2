"""The ways in over the one ROUTER socket. Each turns frames into the core's messages and back, and knows nothing else."""
