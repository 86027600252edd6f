"""Tokens and text while they are generated: iterators over a loop that runs in a thread of its own.

Closing an iterator, leaving its ``with`` block, or forgetting it ends the loop within one step. What the loop raises is
raised where the iterator is read.
"""

from __future__ import annotations

import asyncio
import atexit
import queue
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Any, Generic, TypeVar

from precast.runtime.backends.base import Array
from precast.runtime.errors import InputError
from precast.runtime.generation.api import prepare
from precast.runtime.generation.call import Call, GenerativeModel
from precast.runtime.generation.detokenizer import Detokenizer
from precast.runtime.generation.results import GenerateOutput

__all__ = ["AsyncStream", "Stream", "astream_text", "astream_tokens", "stream_text", "stream_tokens"]

Piece = TypeVar("Piece")
Decode = Callable[[list[int]], str]


class _Tokens:
    """Hands tokens on as they are."""

    def push(self, token: int) -> list[int]:
        return [token]

    def finish(self) -> list[int]:
        return []


class _Text:
    """Hands on pieces of text that break no character; none is empty."""

    def __init__(self, decode: Decode) -> None:
        self._detokenizer = Detokenizer(decode)

    def push(self, token: int) -> list[str]:
        piece = self._detokenizer.push([token])
        return [piece] if piece else []

    def finish(self) -> list[str]:
        piece = self._detokenizer.finish()
        return [piece] if piece else []


class _Done:
    """The last thing delivered: how the loop ended."""

    def __init__(self, output: GenerateOutput | None, error: BaseException | None) -> None:
        self.output, self.error = output, error


class _Worker:
    """The thread of one loop; it knows nothing of the iterator it delivers to, so that one can be forgotten."""

    def __init__(self, call: Call, pieces: Any, deliver: Callable[[Any], None]) -> None:
        self._call, self._pieces, self._deliver = call, pieces, deliver
        self.cancelled = threading.Event()
        # A daemon, for a program that ends does not wait for an answer nobody reads; `_stop_all` ends it in order.
        self._thread = threading.Thread(target=self._work, name="precast-generate", daemon=True)

    def start(self) -> None:
        _WORKERS.add(self)
        self._thread.start()

    def join(self) -> None:
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def _work(self) -> None:
        try:
            output = self._call.execute(emit=self._emit, cancelled=self.cancelled)
            for piece in self._pieces.finish():
                self._deliver(piece)
            done = _Done(output, None)
        except BaseException as error:
            done = _Done(None, error)
        self._deliver(done)

    def _emit(self, tokens: Array) -> None:
        for piece in self._pieces.push(int(tokens[0])):
            self._deliver(piece)


_WORKERS: weakref.WeakSet[_Worker] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    workers = list(_WORKERS)
    for worker in workers:
        worker.cancelled.set()
    for worker in workers:
        worker.join()


class Stream(Generic[Piece]):
    """Pieces as they are generated; the loop runs from the moment this is made."""

    output: GenerateOutput | None = None
    """The whole result, once the stream has come to its end (or was closed)."""

    def __init__(self, call: Call, pieces: Any) -> None:
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._over = False
        self._worker = _Worker(call, pieces, self._queue.put)
        self._worker.start()

    def __iter__(self) -> Iterator[Piece]:
        return self

    def __next__(self) -> Piece:
        if self._over:
            raise StopIteration
        try:
            piece = self._queue.get()
        except BaseException:  # the reader was interrupted, and will not come back
            self._worker.cancelled.set()
            raise
        if isinstance(piece, _Done):
            self._over = True
            self.output = piece.output
            if piece.error is not None:
                raise piece.error
            raise StopIteration
        read: Piece = piece
        return read

    def close(self) -> None:
        """End the loop within one step, and wait for that; pieces not read are dropped."""
        self._worker.cancelled.set()
        self._worker.join()
        while not self._over:
            piece = self._queue.get()
            if isinstance(piece, _Done):
                self._over, self.output = True, piece.output

    def __enter__(self) -> Stream[Piece]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        worker = getattr(self, "_worker", None)
        if worker is not None:
            worker.cancelled.set()


class AsyncStream(Generic[Piece]):
    """As `Stream`, for ``async for``; the loop starts with the first piece asked for."""

    output: GenerateOutput | None = None
    """The whole result, once the stream has come to its end (or was closed)."""

    def __init__(self, call: Call, pieces: Any) -> None:
        self._call, self._pieces = call, pieces
        self._over = False
        self._worker: _Worker | None = None
        self._queue: asyncio.Queue[Any] | None = None

    def __aiter__(self) -> AsyncIterator[Piece]:
        return self

    async def __anext__(self) -> Piece:
        if self._over:
            raise StopAsyncIteration
        if self._queue is None:
            self._queue = self._started()
        try:
            piece = await self._queue.get()
        except BaseException:  # the reading task was cancelled, and will not come back
            if self._worker is not None:
                self._worker.cancelled.set()
            raise
        if isinstance(piece, _Done):
            self._over = True
            self.output = piece.output
            if piece.error is not None:
                raise piece.error
            raise StopAsyncIteration
        read: Piece = piece
        return read

    async def aclose(self) -> None:
        """End the loop within one step, and wait for that; pieces not read are dropped."""
        if self._worker is None or self._queue is None:
            self._over = True
            return
        self._worker.cancelled.set()
        while not self._over:
            piece = await self._queue.get()
            if isinstance(piece, _Done):
                self._over, self.output = True, piece.output

    async def __aenter__(self) -> AsyncStream[Piece]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        worker = getattr(self, "_worker", None)
        if worker is not None:
            worker.cancelled.set()

    def _started(self) -> asyncio.Queue[Any]:
        pieces: asyncio.Queue[Any] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def deliver(piece: Any) -> None:
            try:
                loop.call_soon_threadsafe(pieces.put_nowait, piece)
            except RuntimeError:  # the event loop is closed: nobody reads any more
                worker.cancelled.set()

        worker = self._worker = _Worker(self._call, self._pieces, deliver)
        worker.start()
        return pieces


def stream_tokens(model: GenerativeModel, inputs: Any = None, **arguments: Any) -> Stream[int]:
    """The generated ids of one prompt, end token included; arguments as `generate`.

    Raises:
        InputError: as `generate`, at once; or the call has several rows or beams.
    """
    return Stream(_single(model, inputs, arguments), _Tokens())


def stream_text(
    model: GenerativeModel, inputs: Any = None, *, decode: Decode | None = None, **arguments: Any
) -> Stream[str]:
    """The generated text of one prompt, in pieces that break no character; arguments as `generate`.

    Args:
        decode: the text of ids; by default the model's tokenizer, special tokens left out.

    Raises:
        InputError: as `generate`, at once; or the call has several rows or beams.
    """
    return Stream(_single(model, inputs, arguments), _Text(_decoder(model, decode)))


def astream_tokens(model: GenerativeModel, inputs: Any = None, **arguments: Any) -> AsyncStream[int]:
    """`stream_tokens` for ``async for``."""
    return AsyncStream(_single(model, inputs, arguments), _Tokens())


def astream_text(
    model: GenerativeModel, inputs: Any = None, *, decode: Decode | None = None, **arguments: Any
) -> AsyncStream[str]:
    """`stream_text` for ``async for``."""
    return AsyncStream(_single(model, inputs, arguments), _Text(_decoder(model, decode)))


def _single(model: GenerativeModel, inputs: Any, arguments: dict[str, Any]) -> Call:
    call = prepare(model, inputs, **arguments)
    rows, beams, returns = len(call.prompts.rows), call.beams, call.returns
    if rows > 1 or beams > 1 or returns > 1:
        raise InputError(
            f"A stream is one row, decoded without beams; received {rows} prompts, num_beams={beams}, "
            f"num_return_sequences={returns}. For a batch, pass streamer= to generate()."
        )
    return call


def _decoder(model: GenerativeModel, decode: Decode | None) -> Decode:
    if decode is not None:
        return decode
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise InputError("The model has no tokenizer to make text with. Pass decode, or stream tokens.")

    def decoded(ids: list[int]) -> str:
        text: str = tokenizer.decode(ids, skip_special_tokens=True)
        return text

    return decoded
