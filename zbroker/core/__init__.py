"""The pure core of the broker: messages and time in, rows and sends out. No socket, no file, no clock, no thread."""
