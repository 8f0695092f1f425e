"""Messages between a session and its keeper: a length (4 bytes), and that many bytes of JSON."""

import json
import struct
from typing import Any


def pack_frame(message: dict[str, Any]) -> bytes:
    """A message as bytes."""
    data = json.dumps(message).encode()
    return struct.pack("=I", len(data)) + data


class FrameReader:
    """Takes bytes as they come, gives messages as they are whole."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The messages that are whole with these bytes."""
        self._data += data
        messages = []
        while len(self._data) >= 4:
            length = struct.unpack("=I", self._data[:4])[0]
            if len(self._data) < 4 + length:
                break
            messages.append(json.loads(self._data[4 : 4 + length]))
            del self._data[: 4 + length]
        return messages
