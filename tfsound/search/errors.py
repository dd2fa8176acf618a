"""What cannot be searched."""


class SearchError(ValueError):
    """An index, a query or a backend that cannot be used; the message says why and what to do."""
