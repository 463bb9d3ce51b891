"""Reads columnar data sets for `smamba data prepare` in a process of its own (docs/formats/reader_protocol.md)."""
