"""Which version of zbroker this is, as HELLO and `stats` tell it. That of the protocol stands in ``limits``."""

VERSION = "0.1.0"
"""As in pyproject.toml; ``tests/test_docs.py`` holds the one to the other."""
