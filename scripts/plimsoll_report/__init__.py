"""Reads plimsoll run directories and writes one self-contained report about their attention sinks."""
