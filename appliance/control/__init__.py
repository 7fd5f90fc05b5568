"""The control socket: how the command line, a console or a script speaks to a running gateway (docs/control.md)."""
