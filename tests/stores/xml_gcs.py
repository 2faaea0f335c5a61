"""The part of GCS's XML API that obstore speaks, in front of a fake-gcs-server that knows only the JSON API.

Conditions are handed on as they come (x-goog-if-generation-match -> ifGenerationMatch): the server behind decides.
Reads pass through, because that server answers them. What is translated: put, upload in parts, list, delete.
"""

from __future__ import annotations

import http.client
import json
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape


class XmlGcs:
    def __init__(self, behind: str):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(urlsplit(behind).netloc))
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> XmlGcs:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.shutdown()
        self.server.server_close()


def _handler(behind: str) -> type[BaseHTTPRequestHandler]:
    uploads: dict[str, dict[int, bytes]] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            bucket, key, query = self.asked()
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if "uploadId" in query:
                uploads[query["uploadId"]][int(query["partNumber"])] = body
                self.answer(200, headers={"ETag": f'"part-{query["partNumber"]}"'})
                return
            self.write(bucket, key, body, self.headers.get("x-goog-if-generation-match"))

        def do_POST(self) -> None:
            bucket, key, query = self.asked()
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if "uploads" in query:
                name = uuid.uuid4().hex
                uploads[name] = {}
                self.answer(
                    200, f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId></InitiateMultipartUploadResult>"
                )
                return
            parts = uploads.pop(query["uploadId"])
            self.write(bucket, key, b"".join(parts[number] for number in sorted(parts)), None, completes=True)

        def do_GET(self) -> None:
            bucket, key, query = self.asked()
            if key:
                self.read(bucket, key)
                return
            wanted = {name: query[name] for name in ("prefix", "delimiter") if query.get(name)}
            asked = "&".join(f"{name}={quote(value, safe='')}" for name, value in wanted.items())
            _, _, data = self.ask("GET", f"/storage/v1/b/{bucket}/o?{asked}")
            found = json.loads(data)
            listed = "".join(
                f"<Contents><Key>{escape(item['name'])}</Key><Size>{item['size']}</Size>"
                f"<LastModified>{item['updated']}</LastModified><ETag>{escape(item['etag'])}</ETag></Contents>"
                for item in found.get("items", [])
            )
            listed += "".join(
                f"<CommonPrefixes><Prefix>{escape(prefix)}</Prefix></CommonPrefixes>"
                for prefix in found.get("prefixes", [])
            )
            self.answer(200, f"<ListBucketResult>{listed}</ListBucketResult>")

        def do_HEAD(self) -> None:
            bucket, key, _ = self.asked()
            self.read(bucket, key)

        def do_DELETE(self) -> None:
            bucket, key, _ = self.asked()
            status, _, _ = self.ask("DELETE", f"/storage/v1/b/{bucket}/o/{quote(key, safe='')}")
            self.answer(204 if status == 200 else status)

        def read(self, bucket: str, key: str) -> None:
            status, _, about = self.ask("GET", f"/storage/v1/b/{bucket}/o/{quote(key, safe='')}")
            if status != 200:
                self.answer(status)
                return
            headers = {"Range": self.headers["Range"]} if self.headers.get("Range") else {}
            path = f"/storage/v1/b/{bucket}/o/{quote(key, safe='')}?alt=media"
            status, sent, data = self.ask("GET", path, headers=headers)
            known = json.loads(about)
            kept = {name: value for name, value in sent.items() if name in ("Content-Range", "Last-Modified")}
            kept.setdefault("Last-Modified", _http_date(known["updated"]))
            kept |= {"ETag": f'"{known["etag"]}"', "x-goog-generation": str(known["generation"])}
            self.answer(status, data, kept)

        def write(self, bucket: str, key: str, body: bytes, generation: str | None, completes: bool = False) -> None:
            # In the one form of upload whose conditions that server looks at.
            path = f"/upload/storage/v1/b/{bucket}/o?uploadType=multipart"
            path += f"&ifGenerationMatch={generation}" if generation is not None else ""
            line = uuid.uuid4().hex
            head = f"--{line}\r\nContent-Type: application/json\r\n\r\n{json.dumps({'name': key})}\r\n"
            head += f"--{line}\r\nContent-Type: application/octet-stream\r\n\r\n"
            related = head.encode() + body + f"\r\n--{line}--\r\n".encode()
            headers = {"Content-Type": f"multipart/related; boundary={line}"}
            status, _, data = self.ask("POST", path, related, headers)
            if status != 200:
                self.answer(status, data)
                return
            known = json.loads(data)
            done = f"<CompleteMultipartUploadResult><ETag>{known['etag']}</ETag></CompleteMultipartUploadResult>"
            headers = {"ETag": f'"{known["etag"]}"', "x-goog-generation": str(known["generation"])}
            self.answer(200, done if completes else b"", headers)

        def asked(self) -> tuple[str, str, dict[str, str]]:
            split = urlsplit(self.path)
            bucket, _, key = split.path.lstrip("/").partition("/")
            query = {name: values[0] for name, values in parse_qs(split.query, keep_blank_values=True).items()}
            return bucket, unquote(key), query

        def ask(
            self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
        ) -> tuple[int, Any, bytes]:
            connection = http.client.HTTPConnection(behind, timeout=30)
            try:
                connection.request(method, path, body, headers or {})
                response = connection.getresponse()
                return response.status, response.headers, response.read()
            finally:
                connection.close()

        def answer(self, status: int, body: bytes | str = b"", headers: dict[str, str] | None = None) -> None:
            data = body.encode() if isinstance(body, str) else body
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


def _http_date(when: str) -> str:
    from datetime import datetime, timezone
    from email.utils import format_datetime

    return format_datetime(datetime.fromisoformat(when[:19]).replace(tzinfo=timezone.utc), usegmt=True)
