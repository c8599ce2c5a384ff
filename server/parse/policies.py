"""Which policies requests may name. A name is a folder that the server opens, so the server's settings decide."""

from functools import cache

from unmask import weights
from unmask.server.errors import BadRequestError, show
from unmask.server.settings import ServeSettings

ANY = "*"


@cache  # a package does not change while it runs
def shipped_policies() -> tuple[str, ...]:
    """The names of the policies that come with the package, sorted."""
    return tuple(sorted(folder.name for folder in (weights.HERE / "policies").iterdir() if folder.is_dir()))


def check_policy(asked: object, param: str, settings: ServeSettings) -> None:
    """Raise BadRequestError, about the field `param`, for a text that is neither a shipped policy nor allowed.

    The error does not reveal which folders exist. A value that is not a text passes: the scheduler refuses it.
    """
    if not isinstance(asked, str) or ANY in settings.allow_policy:
        return
    shipped = shipped_policies()
    if asked not in (*shipped, *settings.allow_policy):
        raise BadRequestError(
            f"option 'policy' may not be {show(asked)} on this server; name one of {', '.join(shipped)}, or start the "
            "server with --allow-policy FOLDER",
            param,
            "policy_not_allowed",
        )
