"""The KV cache's bookkeeping: which block of which sequence lies where, and which prompt beginnings are kept.

A block holds the keys and values of BLOCK_SIZE consecutive tokens in every layer. Full blocks are remembered under the
chain of tokens that leads to them, so that a later prompt with the same beginning uses them again (the automatic prefix
caching of vLLM, with exact keys in place of hashes: a key names its parent entry and its own tokens, so two different
beginnings can never be taken for each other). This module knows no torch.
"""

from collections import OrderedDict

from engine.memory import BLOCK_TOKENS
from engine.runtime.sequence import Sequence

BLOCK_SIZE = BLOCK_TOKENS

# Where a chain begins: the salt of its requests. Only those with the same one share blocks.
_Parent = int | str
_Key = tuple[_Parent, tuple[int, ...]]


class OutOfBlocks(Exception):
    """No block is free; somebody has to give way."""


class BlockPool:
    """Hands out `count` blocks and keeps the finished ones for reuse, the least recently used going first."""

    def __init__(self, count: int, *, prefix_caching: bool = True) -> None:
        self.count = count
        self._prefix_caching = prefix_caching
        self._references = [0] * count
        # Unreferenced blocks, the next victim first; those that still hold a remembered beginning lie at the end.
        self._free: OrderedDict[int, None] = OrderedDict((block, None) for block in range(count))
        self._entry_of_key: dict[_Key, tuple[int, int]] = {}  # key → (entry id, block)
        self._key_of_block: dict[int, _Key] = {}
        self._last_entry = 0

    @property
    def free(self) -> int:
        """How many blocks no running sequence holds."""
        return len(self._free)

    @property
    def used_share(self) -> float:
        return 1 - self.free / self.count

    @staticmethod
    def blocks_for(tokens: int) -> int:
        return -(-tokens // BLOCK_SIZE)

    def adopt_prefix(self, sequence: Sequence) -> None:
        """Give a sequence that has no blocks the remembered ones of its beginning.

        At least one token is left to compute, since the logits after the last one are needed.
        """
        if not self._prefix_caching or sequence.embeds:  # an embedding takes the hidden states of all tokens
            return
        entry: _Parent = sequence.request.cache_salt
        for start in range(0, len(sequence.tokens) - BLOCK_SIZE, BLOCK_SIZE):
            found = self._entry_of_key.get((entry, tuple(sequence.tokens[start : start + BLOCK_SIZE])))
            if found is None:
                break
            entry, block = found
            self._reference(block)
            sequence.blocks.append(block)
        sequence.prefix_entry = entry
        sequence.committed_blocks = len(sequence.blocks)
        sequence.computed = len(sequence.blocks) * BLOCK_SIZE

    def extend(self, sequence: Sequence, tokens: int) -> None:
        """Make sure that the sequence's first `tokens` tokens have blocks. Raises OutOfBlocks, having taken none."""
        missing = self.blocks_for(tokens) - len(sequence.blocks)
        if missing > len(self._free):
            raise OutOfBlocks
        for _ in range(missing):
            block, _ = self._free.popitem(last=False)
            self._forget(block)
            self._references[block] = 1
            sequence.blocks.append(block)

    def commit(self, sequence: Sequence) -> None:
        """Remember the sequence's full blocks once their keys and values are computed."""
        if not self._prefix_caching:
            return
        while (sequence.committed_blocks + 1) * BLOCK_SIZE <= sequence.computed:
            index = sequence.committed_blocks
            block = sequence.blocks[index]
            key = (sequence.prefix_entry, tuple(sequence.tokens[index * BLOCK_SIZE : (index + 1) * BLOCK_SIZE]))
            found = self._entry_of_key.get(key)
            if found is None:
                self._last_entry += 1
                found = (self._last_entry, block)
                self._entry_of_key[key] = found
                self._key_of_block[block] = key
            sequence.prefix_entry = found[0]
            sequence.committed_blocks += 1

    def release(self, sequence: Sequence) -> None:
        """Take a sequence's blocks back; the end of a chain is given away before its beginning."""
        for block in reversed(sequence.blocks):
            self._references[block] -= 1
            if self._references[block] == 0:
                self._free[block] = None
                if block not in self._key_of_block:
                    self._free.move_to_end(block, last=False)
        sequence.blocks = []
        sequence.computed = 0
        sequence.committed_blocks = 0
        sequence.prefix_entry = sequence.request.cache_salt

    def _reference(self, block: int) -> None:
        if self._references[block] == 0:
            del self._free[block]
        self._references[block] += 1

    def _forget(self, block: int) -> None:
        key = self._key_of_block.pop(block, None)
        if key is not None:
            del self._entry_of_key[key]
