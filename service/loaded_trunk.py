"""The policy's trunk as the service loaded it: what adapters change, whatever serves meanwhile.

as loaded ──────── the policy's own tensors, held once more: no memory
an adapter serves  they are still the policy's, but for the layers that the adapter changes
full weights serve let go, or a model would be held twice; read again where an adapter comes
"""

from __future__ import annotations

import structlog

from hintwise import weights
from hintwise.errors import HintwiseError, Unavailable
from hintwise.language_model import LanguageModel, load_language_model
from hintwise.lora import TRUNK
from hintwise.weights import StateDict

log = structlog.get_logger("service")


class LoadedTrunk:
    """Gives the tensors of a language model as it was loaded; nobody may write to them.

    Args:
        language_model: As it was loaded. Its parameters may be given other tensors afterwards, as
            `hintwise.weights.exchange` does on a CPU; elsewhere they are overwritten, so nothing is held there.
    """

    def __init__(self, language_model: LanguageModel) -> None:
        self._name, self.sha256 = language_model.name, language_model.sha256
        self._held = _tensors(language_model) if language_model.device.type == "cpu" else None

    def tensors(self) -> StateDict:
        """Returns them on the CPU, under the policy's names. Where none are held it reads the model, which takes long.

        Raises:
            Unavailable: The model can be read no more, or is another one by now.
        """
        held = self._held  # another thread may let go of them now
        return self._read_again() if held is None else held

    def hold(self, tensors: StateDict | None) -> None:
        """Keeps what `tensors` returned, where an adapter serves now; None lets go, where whole weights do."""
        self._held = tensors

    def _read_again(self) -> StateDict:
        log.info("reading the model again, for an adapter changes it as it was loaded", model=self._name)
        try:
            model = load_language_model(self._name)
        except HintwiseError as error:
            raise Unavailable(f"an adapter needs the model as it was loaded, and {error.detail}") from error
        if model.sha256 != self.sha256:
            raise Unavailable(
                f"an adapter needs the model as it was loaded, and {self._name!r} has changed since: its digest was "
                f"{self.sha256} and is {model.sha256}; put the old files back, or push full weights"
            )
        return _tensors(model)


def _tensors(language_model: LanguageModel) -> StateDict:
    """Returns the tensors that a model has now; those it is given later are others."""
    return {f"{TRUNK}{name}": tensor for name, tensor in weights.state_of(language_model.model).items()}
