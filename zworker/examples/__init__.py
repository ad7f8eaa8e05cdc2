"""Workers to read and to run as they are, installed with the package so that `zbroker demo` finds them."""
