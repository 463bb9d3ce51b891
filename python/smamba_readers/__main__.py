"""python -m smamba_readers --column NAME PATH: sends one column of a data set to standard output."""
import argparse
import os
import sys

from .datasets import arrays
from .frames import NULL, OVERSIZED, FrameWriter, Refusal


def _send_texts(array, out, max_bytes):
    import pyarrow as pa
    import pyarrow.compute as pc

    binary = array.cast(pa.large_string() if pa.types.is_string(array.type) or pa.types.is_large_string(array.type) else pa.large_binary())
    lengths = pc.binary_length(binary)
    longest = pc.max(lengths).as_py() or 0
    if binary.null_count == 0 and longest <= max_bytes:
        offsets = memoryview(binary.buffers()[1]).cast("B").cast("q")
        begin, end = offsets[binary.offset], offsets[binary.offset + len(binary)]
        lengths_buffer = memoryview(lengths.buffers()[1]).cast("B")[lengths.offset * 8 : (lengths.offset + len(lengths)) * 8]
        content = binary.buffers()[2]
        out.texts(lengths_buffer, [memoryview(content).cast("B")[begin:end]] if content else [])
        return
    codes, parts = [], []
    for value, length in zip(binary, lengths.to_pylist()):
        codes.append(NULL if length is None else OVERSIZED if length > max_bytes else length)
        if codes[-1] == length:
            parts.append(value.as_buffer())
    out.texts(b"".join(c.to_bytes(8, "little") for c in codes), parts)


def _send_tokens(array, out):
    import pyarrow as pa

    if array.null_count:
        raise Refusal("expected token ids, found a null")
    ids = array.cast(pa.int32())
    out.tokens(memoryview(ids.buffers()[1]).cast("B")[ids.offset * 4 : (ids.offset + len(ids)) * 4])


def _send(options, out):
    for array in arrays(options.path, options.column, options.split, options.start_row):
        import pyarrow as pa

        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        kind = array.type
        if len(array) == 0:
            continue
        if pa.types.is_integer(kind):
            _send_tokens(array, out)
        elif any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary, pa.types.is_string_view)):
            _send_texts(array.cast(pa.large_string()) if pa.types.is_string_view(kind) else array, out, options.max_bytes)
        else:
            raise Refusal(f'column "{options.column}": expected strings (documents) or integers (token ids), found {kind}')


def run(arguments, stream):
    """Sends what the command line `arguments` asks for to `stream`, refusals included."""
    parser = argparse.ArgumentParser(prog="smamba_readers")
    parser.add_argument("--column", required=True)
    parser.add_argument("--split", default="train")
    parser.add_argument("--start-row", type=int, default=0)
    parser.add_argument("--max-bytes", type=int, default=64 << 20)
    parser.add_argument("path")
    options = parser.parse_args(arguments)
    out = FrameWriter(stream)
    try:
        _send(options, out)
        out.end()
    except BrokenPipeError:
        raise
    except Refusal as refusal:
        out.error(refusal, refusal.code)
    except OSError as error:
        out.error(error, 74 if error.errno else 65)  # pyarrow reports damaged files as OSError without a number
    except Exception as error:  # what the libraries raise on damaged files has no common type
        out.error(f"{type(error).__name__}: {error}", 65)


def main():
    stream = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=1 << 20)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nothing that a library prints may get between the frames
    try:
        run(sys.argv[1:], stream)
    except BrokenPipeError:
        os._exit(1)  # nobody listens any more


if __name__ == "__main__":
    main()
