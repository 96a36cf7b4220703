"""The one exception for a mistake in what the user gave: a key, a file, a store."""


class SDAError(ValueError):
    """Names the key or file, what was found there, and the remedy.

    The command line prints its text without a traceback; everything else that is raised is a fault
    of the program and keeps its traceback.
    """
