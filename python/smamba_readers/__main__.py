"""python -m smamba_readers --column NAME PATH: sends one column of a data set to standard output."""
import argparse
import os
import sys

from .datasets import arrays
from .frames import NULL, OVERSIZED, FrameWriter, Refusal

FRAME_BYTES = 64 << 20  # a frame's content, unless one row is longer
MAX_ROW_BYTES = 1 << 30


def _pieces(array, lengths, unit):
    """`array` in slices of at most FRAME_BYTES, given the `lengths` of its rows in units of so many bytes."""
    import pyarrow.compute as pc

    if len(array) > 1 and (pc.sum(lengths).as_py() or 0) * unit > FRAME_BYTES:
        half = len(array) // 2
        yield from _pieces(array[:half], lengths[:half], unit)
        yield from _pieces(array[half:], lengths[half:], unit)
    else:
        yield array, lengths


def _packed(codes):
    return b"".join(c.to_bytes(8, "little") for c in codes)


def _send_texts(array, out, max_bytes):
    import pyarrow as pa
    import pyarrow.compute as pc

    text = pa.types.is_string(array.type) or pa.types.is_large_string(array.type) or pa.types.is_string_view(array.type)
    whole = array.cast(pa.large_string() if text else pa.large_binary())
    for binary, lengths in _pieces(whole, pc.binary_length(whole), 1):
        longest = pc.max(lengths).as_py() or 0
        if binary.null_count == 0 and longest <= max_bytes:
            offsets = memoryview(binary.buffers()[1]).cast("B").cast("q")
            begin, end = offsets[binary.offset], offsets[binary.offset + len(binary)]
            lengths_buffer = memoryview(lengths.buffers()[1]).cast("B")[lengths.offset * 8 : (lengths.offset + len(lengths)) * 8]
            content = binary.buffers()[2]
            out.texts(lengths_buffer, [memoryview(content).cast("B")[begin:end]] if content else [])
            continue
        codes, parts = [], []
        for value, length in zip(binary, lengths.to_pylist()):
            codes.append(NULL if length is None else OVERSIZED if length > max_bytes else length)
            if codes[-1] == length:
                parts.append(value.as_buffer())
        out.texts(_packed(codes), parts)


def _ids(array):
    """The little-endian 32-bit token ids of an array of integers."""
    import pyarrow as pa

    if array.null_count:
        raise Refusal("expected token ids, found a null")
    ids = array.cast(pa.int32())
    return memoryview(ids.buffers()[1]).cast("B")[ids.offset * 4 : (ids.offset + len(ids)) * 4] if len(ids) else b""


def _send_token_lists(array, out):
    import pyarrow.compute as pc

    for lists, lengths in _pieces(array, pc.list_value_length(array), 4):
        longest = pc.max(lengths).as_py() or 0
        if longest * 4 > MAX_ROW_BYTES:
            raise Refusal(f"expected at most {MAX_ROW_BYTES // 4} token ids in a row, found {longest}")
        out.token_lists(_packed(NULL if n is None else n for n in lengths.to_pylist()), [_ids(lists.flatten())])


def _is_list_of_integers(kind):
    import pyarrow as pa

    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in lists) and pa.types.is_integer(kind.value_type)


def _send(options, out):
    import pyarrow as pa

    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary, pa.types.is_string_view)
    for array in arrays(options.path, options.column, options.split, options.start_row):
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        kind = array.type
        if len(array) == 0:
            continue
        if pa.types.is_integer(kind):
            out.tokens(_ids(array))
        elif _is_list_of_integers(kind):
            _send_token_lists(array, out)
        elif any(test(kind) for test in texts):
            _send_texts(array, out, options.max_bytes)
        else:
            raise Refusal(f'column "{options.column}": expected strings or lists of token ids (documents) or integers (token ids), found {kind}')


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
