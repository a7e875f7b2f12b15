"""What the world can do wrong. Our own bugs are assertions, never these."""

from __future__ import annotations


class UserError(Exception):
    """A mistake of the user's, as one line that names the file, the key and what is allowed.

    The command line prints the line and exits with status 2; a traceback would be our bug.
    """
