"""The calls about weights: the part of `Client` and of `AsyncClient` that looks, pushes, fetches and rolls back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from os import PathLike

from hintwise.client_core import Call, T, Wire
from hintwise.schemas import WeightsInfo


class WeightCalls(ABC):
    """What `Client` asks about weights."""

    _wire: Wire

    @abstractmethod
    def _run(self, call: Call[T]) -> T:
        """Does what `call` yields until it returns."""

    def weights(self) -> WeightsInfo:
        """Returns which weights answer `act` now.

        Raises:
            HintwiseError: As every call.
        """
        return self._run(self._wire.weights())

    def put_weights(self, data: bytes, *, if_match: int) -> WeightsInfo:
        """Makes `data` the weights that answer, and returns the version they got.

        Safe to retry: where an answer was lost and the next attempt meets a newer version, that
        version is taken as ours if its digest is. After any other failure the weights may have been
        swapped or not; `weights().sha256` tells.

        Args:
            data: A safetensors file, with the names, shapes and dtypes of the serving weights, or an adapter: see
                `hintwise.lora`.
            if_match: The version it replaces, as `weights` told it last.

        Raises:
            VersionConflict: Another version than `if_match` serves, and it is not `data`.
            WeightsRejected: They do not fit or were damaged on the way; the old ones serve on.
            HintwiseError: As every call.
        """
        return self._run(self._wire.put_weights(data, if_match=if_match))

    def put_weights_from(self, path: str | PathLike[str], *, if_match: int) -> WeightsInfo:
        """Makes a file on the service's own disk the weights that answer, and returns the version they got.

        The service copies it, so the file may change or go afterwards. Where an answer was lost, the
        next attempt may raise `VersionConflict` though the weights are ours; `weights().sha256` tells.

        Args:
            path: Absolute, over there: a safetensors file in a directory of the service's `--weights-path-dirs`.
            if_match: The version it replaces, as `weights` told it last.

        Raises:
            InvalidRequest: The service may not read `path`, or it is no regular file.
            VersionConflict: Another version than `if_match` serves.
            WeightsRejected: The weights do not fit; the old ones serve on.
            HintwiseError: As every call.
        """
        return self._run(self._wire.put_weights_from(path, if_match=if_match))

    def rollback(self, policy_version: int, *, if_match: int | None = None) -> WeightsInfo:
        """Makes a retained version answer again, under its own number; the next push gets a new one.

        Nothing happens where it serves already, so that it is safe to retry.

        Args:
            policy_version: One of `weights().retained_versions`.
            if_match: The version that must serve until then; None for whichever does.

        Raises:
            NotRetained: The version never was, or is kept no longer.
            VersionConflict: Another version than `if_match` serves.
            WeightsRejected: The kept file is damaged; the present version serves on.
            HintwiseError: As every call.
        """
        return self._run(self._wire.rollback(policy_version, if_match=if_match))

    def download_weights(self, policy_version: int, *, as_pushed: bool = False) -> bytes:
        """Returns a retained version as a safetensors file; `weights().retained_versions` lists them.

        Args:
            policy_version: One of them.
            as_pushed: Whether a version that was pushed as an adapter comes as that file, whose digest is the
                version's, and not as the whole weights that it stands for.

        Raises:
            NotRetained: The version never was, or is kept no longer.
            HintwiseError: As every call.
        """
        return self._run(self._wire.download_weights(policy_version, as_pushed=as_pushed))


class AsyncWeightCalls(ABC):
    """What `AsyncClient` asks about weights."""

    _wire: Wire

    @abstractmethod
    async def _run(self, call: Call[T]) -> T:
        """Does what `call` yields until it returns."""

    async def weights(self) -> WeightsInfo:
        """Returns which weights answer `act` now; see `Client.weights`."""
        return await self._run(self._wire.weights())

    async def put_weights(self, data: bytes, *, if_match: int) -> WeightsInfo:
        """Makes `data` the weights that answer; see `Client.put_weights`."""
        return await self._run(self._wire.put_weights(data, if_match=if_match))

    async def put_weights_from(self, path: str | PathLike[str], *, if_match: int) -> WeightsInfo:
        """Makes a file on the service's own disk the weights that answer; see `Client.put_weights_from`."""
        return await self._run(self._wire.put_weights_from(path, if_match=if_match))

    async def rollback(self, policy_version: int, *, if_match: int | None = None) -> WeightsInfo:
        """Makes a retained version answer again; see `Client.rollback`."""
        return await self._run(self._wire.rollback(policy_version, if_match=if_match))

    async def download_weights(self, policy_version: int, *, as_pushed: bool = False) -> bytes:
        """Returns a retained version as a safetensors file; see `Client.download_weights`."""
        return await self._run(self._wire.download_weights(policy_version, as_pushed=as_pushed))
