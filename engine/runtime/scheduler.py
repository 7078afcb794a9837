"""Who runs in the next step. Knows no torch."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from engine.messages import BACKGROUND_PRIORITY
from engine.runtime.blocks import BlockPool, OutOfBlocks
from engine.runtime.sequence import Sequence

# Of five steps, one is for background sequences too while others run: they go on, and slow the others by little.
BACKGROUND_TURN = 5
# Of five sequences admitted while both wait, one is from a lower priority: premium goes ahead, standard is not starved.
LOWER_PRIORITY_TURN = 5


@dataclass(frozen=True, slots=True)
class Chunk:
    """The tokens [start, start + count) of a sequence, to be run in one step; `samples` if a token is to follow."""

    sequence: Sequence
    start: int
    count: int
    samples: bool


def is_background(priority: int) -> bool:
    return priority <= BACKGROUND_PRIORITY


class WaitingQueue:
    """Sequences by priority, first come first served within one; every fifth turn goes to the lowest that waits.

    Those in the background wait until nobody else does.
    """

    def __init__(self) -> None:
        self._queues: dict[int, deque[Sequence]] = {}
        self._turn = 0

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def push(self, sequence: Sequence) -> None:
        self._queues.setdefault(sequence.priority, deque()).append(sequence)

    def push_front(self, sequence: Sequence) -> None:
        self._queues.setdefault(sequence.priority, deque()).appendleft(sequence)

    def peek(self) -> Sequence | None:
        queue = self._next_queue()
        return queue[0] if queue else None

    def pop(self) -> Sequence:
        queue = self._next_queue()
        if queue is None:
            raise IndexError("nothing waits")
        contended = sum(1 for priority, other in self._queues.items() if other and not is_background(priority)) > 1
        self._turn = (self._turn + 1) % LOWER_PRIORITY_TURN if contended else 0
        return queue.popleft()

    def remove(self, sequence: Sequence) -> None:
        self._queues[sequence.priority].remove(sequence)

    def __iter__(self) -> Iterator[Sequence]:
        return chain.from_iterable(self._queues.values())

    @property
    def has_foreground(self) -> bool:
        """Whether anything waits that background sequences give way to."""
        return any(queue for priority, queue in self._queues.items() if not is_background(priority))

    def _next_queue(self) -> deque[Sequence] | None:
        waiting = sorted(priority for priority, queue in self._queues.items() if queue)
        waiting = [priority for priority in waiting if not is_background(priority)] or waiting
        if not waiting:
            return None
        return self._queues[waiting[0] if self._turn == LOWER_PRIORITY_TURN - 1 else waiting[-1]]


class Scheduler:
    """Chooses the tokens of each step: every running decode, then as much prefill as keeps the decodes flowing.

    `prefill_chunk`: prompt tokens in a step with nobody decoding. `mixed_chunk`: prompt tokens in a step that others
    decode in; small, so that a long prompt delays their next token by little (Sarathi-Serve, Agrawal et al. 2024).
    When the KV cache is full, the youngest sequence of the lowest priority gives way and is computed anew later.
    Background sequences rest while others run or wait, but for one step of BACKGROUND_TURN, and give way to those that
    would not find a place.
    """

    def __init__(self, pool: BlockPool, *, max_sequences: int, prefill_chunk: int, mixed_chunk: int) -> None:
        self.pool = pool
        self.waiting = WaitingQueue()
        self.running: list[Sequence] = []
        self._background_turn = 0
        self._made_way = False  # in this step, for one that was let in
        self._max_sequences = max_sequences
        self._prefill_chunk = prefill_chunk
        self._mixed_chunk = min(mixed_chunk, prefill_chunk)

    @property
    def idle(self) -> bool:
        return not self.running and not len(self.waiting)

    def add(self, sequence: Sequence) -> None:
        self.waiting.push(sequence)

    def schedule(self, now: float) -> list[Chunk]:
        """The next step's chunks; those that decode come first."""
        chunks: list[Chunk] = []
        rests = self._background_rests()
        taking_part = [s for s in self.running if not (rests and is_background(s.priority))]
        for sequence in [s for s in taking_part if s.decoding]:
            if sequence in self.running and self._make_room(sequence, sequence.computed + 1):
                chunks.append(Chunk(sequence, sequence.computed, 1, samples=True))
        chunks = [chunk for chunk in chunks if chunk.sequence in self.running]
        budget = self._mixed_chunk if chunks else self._prefill_chunk
        for sequence in [s for s in taking_part if not s.decoding and s in self.running]:
            budget -= self._prefill(sequence, budget, chunks)
        self._made_way = False
        while budget > 0 and self._admit(now, background=not rests and not self._made_way):
            budget -= self._prefill(self.running[-1], budget, chunks)
        return [chunk for chunk in chunks if chunk.sequence.blocks] if self._made_way else chunks

    def complete(self, chunks: list[Chunk]) -> None:
        """Note that the chunks' keys and values are in the cache now."""
        for chunk in chunks:
            chunk.sequence.computed = chunk.start + chunk.count
            self.pool.commit(chunk.sequence)

    def finish(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is, and free its blocks."""
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
        self.pool.release(sequence)

    def find(self, request_id: str) -> Sequence | None:
        return next((s for s in chain(self.running, self.waiting) if s.request_id == request_id), None)

    def _prefill(self, sequence: Sequence, budget: int, chunks: list[Chunk]) -> int:
        count = min(budget, sequence.remaining)
        if count <= 0:
            return 0
        samples = count == sequence.remaining and not sequence.embeds
        chunks.append(Chunk(sequence, sequence.computed, count, samples=samples))
        return count

    def _background_rests(self) -> bool:
        """Whether this step is for the others alone."""
        others = self.waiting.has_foreground or any(not is_background(s.priority) for s in self.running)
        self._background_turn = (self._background_turn + 1) % BACKGROUND_TURN if others else 0
        return self._background_turn != 0

    def _admit(self, now: float, *, background: bool) -> bool:
        """Let the next sequence in, if there is room, or room can be made; `background`: also one of these."""
        sequence = self.waiting.peek()
        if sequence is None or (is_background(sequence.priority) and not background):
            return False
        while not self._enter(sequence, now):
            victims = [s for s in self.running if is_background(s.priority)]
            if is_background(sequence.priority) or not victims:
                return False
            self._made_way = True
            self._preempt(max(victims, key=lambda s: s.arrived))
        return True

    def _enter(self, sequence: Sequence, now: float) -> bool:
        if len(self.running) >= self._max_sequences:
            return False
        self.pool.adopt_prefix(sequence)
        missing = self.pool.blocks_for(len(sequence.tokens)) - len(sequence.blocks)
        # One spare block for each running sequence keeps a new one from forcing another out at once.
        if self.running and missing > self.pool.free - len(self.running):
            self.pool.release(sequence)
            return False
        self.pool.extend(sequence, len(sequence.tokens))
        self.waiting.pop()
        if sequence.started is None:
            sequence.started = now
            sequence.cached_tokens = sequence.computed
        self.running.append(sequence)
        return True

    def _make_room(self, sequence: Sequence, tokens: int) -> bool:
        """Get the block for the next token, others giving way if need be; False if it gave way itself."""
        while True:
            try:
                self.pool.extend(sequence, tokens)
            except OutOfBlocks:
                victim = min(self.running, key=lambda s: (s.priority, -s.arrived))
                self._preempt(victim)
                if victim is sequence:
                    return False
            else:
                return True

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.pool.release(sequence)
        self.waiting.push_front(sequence)
