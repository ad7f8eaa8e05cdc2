"""The ways in over the one ROUTER socket: each turns frames into messages to the core, and the core's into frames.

The first frame of a message tells the dialect. A dialect knows no socket, no store, and nothing of the other dialects.
"""
