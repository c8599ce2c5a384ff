"""What parsing needs in addition to a body."""

from dataclasses import dataclass

from unmask.models.loading import Model
from unmask.server.settings import ServeSettings


@dataclass(frozen=True)
class Context:
    """The model, the server's settings, and the client: the names by which its requests take turns.

    adapter   the place of the adapter that it asks for; None for the model alone
    deadline  when it must have its answer, in seconds on the monotonic clock; None for at no time
    """

    model: Model
    settings: ServeSettings
    client: tuple[str, ...]
    adapter: int | None = None
    deadline: float | None = None

    @property
    def default_length(self) -> int:
        """Tokens to generate for a request that does not say how many."""
        return self.settings.default_max_tokens or self.model.usual_length
