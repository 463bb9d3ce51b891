"""The frames on standard output: docs/formats/reader_protocol.md."""
import struct

GREETING = b"SMREAD1\n"
OVERSIZED = 2**64 - 2  # in a length: the text is longer than allowed and is not sent
NULL = 2**64 - 1  # in a length: no text


class Refusal(Exception):
    """The input is not what it should be: one line for the person, and smamba's exit code."""

    def __init__(self, message, code=65):
        super().__init__(message)
        self.code = code


class FrameWriter:
    def __init__(self, stream):
        self.stream = stream
        stream.write(GREETING)

    def _header(self, kind, size):
        self.stream.write(kind + struct.pack("<Q", size))

    def _rows(self, kind, lengths, parts):
        lengths = memoryview(lengths).cast("B")
        parts = [memoryview(p).cast("B") for p in parts]
        self._header(kind, 8 + len(lengths) + sum(map(len, parts)))
        self.stream.write(struct.pack("<Q", len(lengths) // 8))
        self.stream.write(lengths)
        for part in parts:
            self.stream.write(part)

    def texts(self, lengths, parts):
        """`lengths`: bytes-like of little-endian 64-bit lengths; `parts`: buffers that together are the texts."""
        self._rows(b"B", lengths, parts)

    def tokens(self, ids):
        """`ids`: bytes-like of little-endian 32-bit token ids."""
        ids = memoryview(ids).cast("B")
        self._header(b"T", len(ids))
        self.stream.write(ids)

    def token_lists(self, lengths, parts):
        """As texts(), in 32-bit token ids: `lengths` count ids, `parts` hold them."""
        self._rows(b"L", lengths, parts)

    def error(self, message, code):
        payload = bytes([code]) + " ".join(str(message).split()).encode("utf-8", "replace")
        self._header(b"E", len(payload))
        self.stream.write(payload)
        self.stream.flush()

    def end(self):
        self._header(b"Z", 0)
        self.stream.flush()
