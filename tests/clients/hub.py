"""A hub for pulling: one repository on loopback, whose files come as slowly as a test wants."""

import hashlib
import json
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def gguf(name, padding):
    """A GGUF file with a header and one tensor of so many bytes: enough to be listed and shown."""
    text = lambda s: struct.pack("<Q", len(s)) + s.encode()
    pairs = [
        ("general.architecture", struct.pack("<I", 8) + text("llama")),
        ("general.name", struct.pack("<I", 8) + text(name)),
        ("general.license", struct.pack("<I", 8) + text("mit")),
        ("llama.block_count", struct.pack("<II", 4, 1)),
        ("llama.context_length", struct.pack("<II", 4, 2048)),
    ]
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, len(pairs))
    header += b"".join(text(key) + value for key, value in pairs)
    header += text("output_norm.weight") + struct.pack("<IQIQ", 1, padding // 4, 0, 0)
    return header + bytes(-len(header) % 32) + bytes(i * 7 % 251 for i in range(4096)) * (padding // 4096)


class Hub:
    """Serves `owner/NAME` for every file given, as `NAME.gguf`."""

    def __init__(self, files):
        self.files = files
        self.pause = {}  # seconds between parts of 64 KiB, by name
        self.ranges = []  # (name, first byte asked for)
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                parts = self.path.split("?")[0].strip("/").split("/")
                name = parts[3] if parts[0] == "api" else parts[1]
                if name not in hub.files:
                    self.send_error(404)
                elif parts[0] == "api":
                    hub.listing(self, name)
                else:
                    hub.file(self, name)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = "http://127.0.0.1:%d" % self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def listing(self, request, name):
        data = self.files[name]
        digest = hashlib.sha256(data).hexdigest()
        lfs = {"sha256": digest, "size": len(data), "pointerSize": 130}
        file = {"rfilename": name + ".gguf", "size": len(data), "blobId": "0" * 40, "lfs": lfs}
        body = json.dumps({"id": "owner/" + name, "sha": COMMIT, "siblings": [file]}).encode()
        request.send_response(200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def file(self, request, name):
        data = self.files[name]
        start = int((request.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
        self.ranges.append((name, start))
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        request.send_header("ETag", '"v1"')
        request.send_header("Content-Length", str(len(data) - start))
        request.end_headers()
        try:
            for at in range(start, len(data), 65536):
                request.wfile.write(data[at : at + 65536])
                time.sleep(self.pause.get(name, 0))
        except OSError:
            pass  # the client has left

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
