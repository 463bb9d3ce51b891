"""Data sets written by the real libraries (pyarrow, pylance) come back exactly from smamba_readers.

Run by ctest with the built program in SMAMBA_PROGRAM, so that `smamba data prepare` is held to them too; alone with a Python that
has both packages (scripts/setup --columnar makes one):

    .venv-columnar/bin/python tests/data/readers_test.py
"""
import io
import json
import os
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

try:
    import lance
    import pyarrow as pa
except ImportError as error:
    sys.exit(f"{error}; `scripts/setup --columnar` installs what this test needs")
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet

PYTHON = Path(__file__).resolve().parents[2] / "python"
sys.path.insert(0, str(PYTHON))
from smamba_readers.__main__ import run  # noqa: E402

TEXTS = [f"document {i}: caf\u00e9 \u4e2d \U0001f600 " + "word " * (i * 7 % 50) for i in range(3000)]
NULL, OVERSIZED = 2**64 - 1, 2**64 - 2


def read(path, *options):
    """What the reader sends: ("texts", list), ("tokens", list), ("lists", list) or ("error", code, message)."""
    stream = io.BytesIO()
    run([*options, str(path)], stream)
    return parse(stream.getvalue())


def parse(sent):
    stream = io.BytesIO(sent)
    assert stream.read(8) == b"SMREAD1\n", sent
    kind, out = None, []
    while True:
        letter = stream.read(1)
        (size,) = struct.unpack("<Q", stream.read(8))
        payload = stream.read(size)
        assert len(payload) == size
        if letter == b"Z":
            assert stream.read() == b""
            return kind, out
        if letter == b"E":
            return "error", payload[0], payload[1:].decode()
        if letter == b"T":
            kind = "tokens"
            out += [v for (v,) in struct.iter_unpack("<i", payload)]
        elif letter == b"L":
            kind = "lists"
            (count,) = struct.unpack_from("<Q", payload)
            at = 8 + 8 * count
            for n in struct.unpack_from(f"<{count}Q", payload, 8):
                out.append(n if n == NULL else list(struct.unpack_from(f"<{n}i", payload, at)))
                at += 0 if n == NULL else 4 * n
            assert at == size
        else:
            kind = "texts"
            (count,) = struct.unpack_from("<Q", payload)
            lengths = struct.unpack_from(f"<{count}Q", payload, 8)
            at = 8 + 8 * count
            for n in lengths:
                if n in (NULL, OVERSIZED):
                    out.append(n)
                else:
                    out.append(payload[at : at + n].decode())
                    at += n
            assert at == size


class Readers(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name)
        self.table = pa.table({"id": range(len(TEXTS)), "text": TEXTS})

    def tearDown(self):
        self.folder.cleanup()

    def check(self, path, column="text", texts=TEXTS, split="train"):
        for start in (0, 1, 999, 1000, 1024, 2999, 3000, 4000):
            kind, got = read(path, "--column", column, "--split", split, "--start-row", str(start))
            self.assertEqual(got, texts[start:], f"{path.name} from row {start}")

    def test_process(self):
        pa.parquet.write_table(self.table, self.path / "a.parquet")
        command = [sys.executable, "-m", "smamba_readers", "--column", "text", str(self.path / "a.parquet")]
        done = subprocess.run(command, env=dict(os.environ, PYTHONPATH=str(PYTHON)), capture_output=True, timeout=300)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(parse(done.stdout), ("texts", TEXTS))

    def test_parquet(self):
        pa.parquet.write_table(self.table, self.path / "a.parquet", row_group_size=1000)
        self.check(self.path / "a.parquet")

    def test_parquet_types_of_text(self):
        for kind in (pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.binary(), pa.large_binary(), pa.string_view()):
            array = pa.array(TEXTS[:500]).cast(pa.binary() if kind in (pa.binary(), pa.large_binary()) else pa.string())
            array = array.dictionary_encode() if pa.types.is_dictionary(kind) else array.cast(kind)
            with self.subTest(kind=kind), pa.ipc.new_file(self.path / "a.arrow", pa.schema([("text", array.type)])) as writer:
                writer.write_table(pa.table({"text": array}))
            self.assertEqual(read(self.path / "a.arrow", "--column", "text"), ("texts", TEXTS[:500]))

    def test_arrow_file_stream_and_feather(self):
        with pa.ipc.new_file(self.path / "file.arrow", self.table.schema) as writer:
            writer.write_table(self.table, max_chunksize=700)
        with pa.ipc.new_stream(self.path / "stream.arrow", self.table.schema) as writer:
            writer.write_table(self.table, max_chunksize=700)
        pa.feather.write_feather(self.table, self.path / "a.feather")
        for name in ("file.arrow", "stream.arrow", "a.feather"):
            self.check(self.path / name)

    def hugging_face(self, folder, indices=None):
        """As datasets.Dataset.save_to_disk lays it out."""
        folder.mkdir(parents=True)
        names = []
        for i, part in enumerate((self.table[:1000], self.table[1000:1001], self.table[1001:])):
            names.append(f"data-{i:05d}-of-00003.arrow")
            with pa.ipc.new_stream(folder / names[-1], part.schema) as writer:
                writer.write_table(part, max_chunksize=300)
        (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": n} for n in names], "_indices_files": indices}))
        (folder / "dataset_info.json").write_text("{}")

    def test_hugging_face_folders(self):
        self.hugging_face(self.path / "one")
        self.check(self.path / "one")
        self.hugging_face(self.path / "dict" / "train")
        (self.path / "dict" / "dataset_dict.json").write_text('{"splits": ["train"]}')
        self.check(self.path / "dict")
        self.assertEqual(read(self.path / "dict", "--column", "text", "--split", "test")[0], "error")
        self.hugging_face(self.path / "shuffled", indices=[{"filename": "indices.arrow"}])
        self.assertIn("flatten_indices", read(self.path / "shuffled", "--column", "text")[2])

    def test_lance(self):
        lance.write_dataset(self.table, self.path / "a.lance", max_rows_per_file=1000, max_rows_per_group=256)
        self.check(self.path / "a.lance")

    def test_lance_token_column(self):
        # As the published training code writes it: one long column "value" of token ids.
        ids = [(i * 37) % 256 for i in range(3000)]
        lance.write_dataset(pa.table({"value": pa.array(ids, pa.int64())}), self.path / "t.lance")
        self.check(self.path / "t.lance", "value", ids)
        self.assertEqual(read(self.path / "t.lance", "--column", "value"), ("tokens", ids))

    def test_token_lists(self):
        rows = [[(i * j) % 50000 for j in range(i % 40)] for i in range(3000)]
        for kind in (pa.list_(pa.int64()), pa.large_list(pa.int32()), pa.list_(pa.uint16())):
            pa.parquet.write_table(pa.table({"input_ids": pa.array(rows, kind)}), self.path / "l.parquet", row_group_size=1000)
            for start in (0, 1, 1000, 2999, 3000):
                self.assertEqual(read(self.path / "l.parquet", "--column", "input_ids", "--start-row", str(start))[1], rows[start:])
        lance.write_dataset(pa.table({"value": pa.array(rows, pa.list_(pa.int32()))}), self.path / "l.lance")
        self.assertEqual(read(self.path / "l.lance", "--column", "value"), ("lists", rows))
        fixed = [[i, i + 1, i + 2] for i in range(2000)]
        lance.write_dataset(pa.table({"value": pa.array(fixed, pa.list_(pa.int32(), 3))}), self.path / "f.lance")
        self.assertEqual(read(self.path / "f.lance", "--column", "value", "--start-row", "7"), ("lists", fixed[7:]))
        pa.parquet.write_table(pa.table({"x": pa.array([[1, 2], None, [], [3]])}), self.path / "n.parquet")
        self.assertEqual(read(self.path / "n.parquet", "--column", "x"), ("lists", [[1, 2], NULL, [], [3]]))
        pa.parquet.write_table(pa.table({"x": pa.array([[1, None]])}), self.path / "n.parquet")
        self.assertEqual(read(self.path / "n.parquet", "--column", "x"), ("error", 65, "expected token ids, found a null"))

    def test_frames_stay_small(self):
        texts = ["x" * (i << 20) for i in range(1, 16)]  # 120 MiB in one batch of rows
        pa.parquet.write_table(pa.table({"text": texts}), self.path / "long.parquet")
        stream = io.BytesIO()
        run(["--column", "text", str(self.path / "long.parquet")], stream)
        self.assertEqual(parse(stream.getvalue()), ("texts", texts))
        sizes, at = [], 8
        while at < len(stream.getvalue()):
            (size,) = struct.unpack_from("<Q", stream.getvalue(), at + 1)
            sizes.append(size)
            at += 9 + size
        self.assertLess(max(sizes), 65 << 20)

    def test_nulls_and_long_texts(self):
        pa.parquet.write_table(pa.table({"text": ["a", None, "x" * 100, "", "b"]}), self.path / "a.parquet")
        self.assertEqual(read(self.path / "a.parquet", "--column", "text", "--max-bytes", "50"), ("texts", ["a", NULL, OVERSIZED, "", "b"]))

    def test_refusals(self):
        pa.parquet.write_table(self.table, self.path / "a.parquet")
        whole = (self.path / "a.parquet").read_bytes()
        self.assertEqual(read(self.path / "a.parquet", "--column", "body"), ("error", 65, 'expected a column "body", found id, text'))
        (self.path / "cut.parquet").write_bytes(whole[:-100])
        (self.path / "empty.parquet").write_bytes(b"")
        (self.path / "noise.arrow").write_bytes(b"\x00\x01nonsense" * 50)
        (self.path / "empty.arrow").write_bytes(b"")
        for name in ("cut.parquet", "empty.parquet", "noise.arrow", "empty.arrow"):
            got = read(self.path / name, "--column", "text")
            self.assertEqual(got[:2], ("error", 65), (name, got))
        self.assertEqual(read(self.path / "absent.parquet", "--column", "text")[:2], ("error", 74))
        pa.parquet.write_table(pa.table({"x": [1.5]}), self.path / "f.parquet")
        self.assertIn("double", read(self.path / "f.parquet", "--column", "x")[2])
        pa.parquet.write_table(pa.table({"x": pa.array([2**40])}), self.path / "big.parquet")
        self.assertEqual(read(self.path / "big.parquet", "--column", "x")[:2], ("error", 65))

    @unittest.skipUnless("SMAMBA_PROGRAM" in os.environ, "needs the built program in SMAMBA_PROGRAM, as ctest gives it")
    def test_program(self):
        lance.write_dataset(self.table, self.path / "a.lance")
        pa.parquet.write_table(self.table, self.path / "a.parquet")
        self.hugging_face(self.path / "hf")
        with pa.ipc.new_file(self.path / "a.arrow", self.table.schema) as writer:
            writer.write_table(self.table)
        (self.path / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
        ids = [list(t.encode()) for t in TEXTS]
        lance.write_dataset(pa.table({"value": pa.array([i for d in ids for i in d + [256]], pa.int64())}), self.path / "long.lance")
        lance.write_dataset(pa.table({"value": pa.array(ids, pa.list_(pa.int32()))}), self.path / "lists.lance")
        expected = self.prepare("a.jsonl", "text")
        for name in ("a.lance", "a.parquet", "hf", "a.arrow"):
            self.assertEqual(self.prepare(name, "text"), expected, name)
        for name in ("long.lance", "lists.lance"):
            self.assertEqual(self.prepare(name, "value"), expected, name)

    def prepare(self, name, column):
        """The bytes of the store that the program makes."""
        out = self.path / (name + ".store")
        command = [os.environ["SMAMBA_PROGRAM"], "data", "prepare", self.path / name, "-o", out, "--column", column, "--reader-python", sys.executable]
        done = subprocess.run(command, env=dict(os.environ, SMAMBA_READERS=str(PYTHON)), capture_output=True, timeout=300)
        self.assertEqual(done.returncode, 0, done.stderr)
        return out.read_bytes()


if __name__ == "__main__":
    unittest.main()
