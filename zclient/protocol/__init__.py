"""The native protocol: messages, their frames, their limits. It imports msgpack and nothing else of the project."""
