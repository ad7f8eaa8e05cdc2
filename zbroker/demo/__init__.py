"""`zbroker demo`: a broker and workers, in processes of their own, do real work while they are killed.

`stage` owns the processes, `play` what happens on it and when, `verdict` what came of it, `screen` how that looks. The
work is a task module of `zworker`, which workers run by its name: nothing here imports it.
"""

from zbroker.demo.play import run_demo

__all__ = ["run_demo"]
