"""What cannot be made of the windows that there are."""


class ImpossibleError(ValueError):
    """The clips cannot give the triplets or pairs that were asked for; the message says why."""


def require_at_most(most: float, count: int, what: str, holding: str, *, allow_repeats: bool) -> None:
    """Raises: ImpossibleError where more is asked for than can be made of what the clips are holding."""
    if count and (not most or (count > most and not allow_repeats)):
        remedy = "lower the count, add recordings, or pass --allow-repeats" if most else "add recordings"
        raise ImpossibleError(
            f"{holding}, of which {most:,} {what} can be made at most, and {count:,} were asked for; "
            f"{remedy}."
        )
