"""Errors that lockgate raises for its users and its add-ons. All derive from `LockgateError`.

A message is one readable sentence that names the thing at fault and, where there is one, the remedy: it is shown to
people as it is.
"""

from __future__ import annotations


class LockgateError(Exception):
    """Base class: anything that is wrong with what we were given, as against a fault in the gateway."""


class OptionsError(LockgateError):
    """An option is unknown, ill-typed or has a value that cannot work; `configure` hooks raise it to refuse one."""


class UnknownOption(OptionsError, KeyError):
    """There is no option of this name. Scripts catch it as the KeyError that it is in mitmproxy."""

    __str__ = Exception.__str__  # a KeyError's would be quoted


class IllTypedOption(OptionsError, TypeError):
    """A value is of another type than its option. Scripts catch it as the TypeError that it is in mitmproxy."""


class AddonManagerError(LockgateError):
    """An add-on cannot be added, found or removed."""


class AddonHalt(LockgateError):
    """Raised by a hook: the add-ons further down the chain do not see this event."""


class ControlException(LockgateError):
    """An operation is not possible in the flow's present state (for example killing what has ended)."""


class CommandError(LockgateError):
    """A command is unknown, was called with wrong arguments, or failed."""


class FlowReadException(LockgateError):
    """A flow file is truncated, corrupt or of an unknown version."""


class ModeError(LockgateError):
    """A mode specification cannot be read, or its listener cannot be bound."""


class CertificateError(LockgateError):
    """A certificate, key or CA file is missing, unreadable, of the wrong kind or unsafe to use."""


MitmproxyException = LockgateError
"""The base class under the name that scripts catch."""
