"""No task makes a worker reach what only this machine can reach. Real sockets; DNS is the only thing made up.

Run by: pytest. Must not import: backend, groundcrew.
Example: pytest tests/unit/test_hosts.py
"""

from __future__ import annotations

import ipaddress
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from contract.errors import ImageError, ImageForbidden, ImageTooLarge, ImageUnavailable, ImageUnreadable, SettingsError
from contract.settings import read_settings
from worker.addresses import Fetcher
from worker.hosts import HostRules, Place, is_public

LINES = (Path(__file__).resolve().parents[1] / "data" / "hostile_urls.txt").read_text(encoding="utf-8").splitlines()
HOSTILE = [line.split(" | ", 1)[1] for line in LINES if line and not line.startswith("#")]
TOKEN = {"Authorization": "Bearer secret"}
PUBLIC_IP = "93.184.215.14"


def rules(**settings: str) -> HostRules:
    return HostRules.of(read_settings(settings))


def fetcher(**settings: str) -> Fetcher:
    return Fetcher(read_settings({"IMAGE_TIMEOUT_S": "60", **settings}), lambda: TOKEN)


class Server(ThreadingHTTPServer):
    """Answers every path in the way that the test gives it, and remembers what it was asked."""

    def __init__(self, answer: Callable[[BaseHTTPRequestHandler], None]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.seen, self.stopped = answer, [], threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers["Host"], self.headers["Authorization"]))
        self.server.answer(self)

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


def body(content: bytes = b"image", **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def redirect(to: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", to)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(answer: Callable[[BaseHTTPRequestHandler], None]) -> Server:
        servers.append(Server(answer))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.stopped.set()
        server.shutdown()
        server.server_close()


def test_there_are_enough_hostile_addresses() -> None:
    assert len(set(HOSTILE)) >= 60


@pytest.mark.parametrize("address", HOSTILE)
def test_a_hostile_address_is_refused_and_nothing_is_connected(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a system whose every connection would be noticed
    connected: list[object] = []
    monkeypatch.setattr(socket, "create_connection", lambda *where, **_: connected.append(where))
    monkeypatch.setattr(socket.socket, "connect", lambda _, where: connected.append(where))

    # when / then
    with pytest.raises(ImageForbidden):
        fetcher(LABEL_STUDIO_URL="").fetch(address)
    assert connected == []


@pytest.mark.parametrize(
    "address", ["8.8.8.8", PUBLIC_IP, "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "64:ff9b::808:808", "::ffff:8.8.8.8"]
)
def test_public_addresses_are_public(address: str) -> None:
    rules().check_addresses(Place("example.org", 443), [address])


@pytest.mark.parametrize("answers", [["10.0.0.1"], [PUBLIC_IP, "169.254.169.254"], ["::1", PUBLIC_IP]])
def test_a_name_that_dns_leads_inside_is_refused(answers: list[str]) -> None:
    with pytest.raises(ImageForbidden, match=r"IMAGE_PRIVATE_HOSTS=images\.example\.org:443"):
        rules().check_addresses(Place("images.example.org", 443), answers)


def test_dns_is_asked_once_so_its_second_answer_cannot_matter(serve, monkeypatch) -> None:
    # given a name that is allowed, and whose second answer would be another machine
    server, asked = serve(body()), []

    def rebinding(host: str, port: int, **_: object) -> list:
        asked.append(host)
        address = "127.0.0.1" if len(asked) == 1 else "127.0.0.2"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, port, *rest, **more: (
        rebinding(host, port) if host == "rebind.test" else real(host, port, *rest, **more)))  # fmt: skip

    # when
    data = fetcher(IMAGE_PRIVATE_HOSTS="127.0.0.1/32").fetch(f"http://rebind.test:{server.server_port}/a.png")

    # then the checked address was connected to, with the name in the request
    assert (data, asked) == (b"image", ["rebind.test"])
    assert server.seen == [("/a.png", f"rebind.test:{server.server_port}", None)]


@pytest.mark.parametrize(
    "target",
    ["http://127.0.0.2/b.png", "http://169.254.169.254/", "//[::1]/b.png", "file:///etc/passwd", "gopher://h/",
     "http://u:p@example.org/", "http://2130706433/"],
)  # fmt: skip
def test_every_redirect_is_checked_again(serve, target: str) -> None:
    server = serve(redirect(target))
    with pytest.raises(ImageForbidden):
        fetcher(IMAGE_PRIVATE_HOSTS=f"127.0.0.1:{server.server_port}").fetch(f"{server.url}/a.png")
    assert len(server.seen) == 1


def test_redirects_end(serve) -> None:
    server = serve(redirect("/again.png"))
    with pytest.raises(ImageForbidden, match="redirects more than 5 times"):
        fetcher(IMAGE_PRIVATE_HOSTS="127.0.0.1").fetch(f"{server.url}/a.png")
    assert len(server.seen) == 6


def test_nobody_redirects_into_label_studio(serve) -> None:
    label_studio = serve(body())
    elsewhere = serve(redirect(f"http://localhost:{label_studio.server_port}/data/upload/1/a.png"))
    settings = {"LABEL_STUDIO_URL": f"http://localhost:{label_studio.server_port}", "IMAGE_PRIVATE_HOSTS": "127.0.0.1"}
    with pytest.raises(ImageForbidden, match="redirects into Label Studio"):
        fetcher(**settings).fetch(f"{elsewhere.url}/a.png")
    assert label_studio.seen == []


def test_label_studio_itself_may_be_private_and_gets_its_token(serve) -> None:
    label_studio = serve(body())
    assert fetcher(LABEL_STUDIO_URL=label_studio.url).fetch(f"{label_studio.url}/data/upload/1/a.png") == b"image"
    assert label_studio.seen[0][2] == "Bearer secret"


@pytest.mark.parametrize("path", ["/api/users", "/user/logout", "/data/../api/users", "/data/%2e%2e/api/users"])
def test_the_token_goes_with_files_only(serve, path: str) -> None:
    label_studio = serve(body())
    fetcher(LABEL_STUDIO_URL=label_studio.url).fetch(label_studio.url + path)
    assert label_studio.seen[0][2] is None


def test_another_port_of_label_studios_machine_is_private(serve) -> None:
    label_studio, neighbour = serve(body()), serve(body())
    with pytest.raises(ImageForbidden, match="private address"):
        fetcher(LABEL_STUDIO_URL=label_studio.url).fetch(f"{neighbour.url}/a.png")
    assert neighbour.seen == []


@pytest.mark.parametrize(
    ("settings", "url", "allowed"),
    [
        ({"IMAGE_HOSTS": "images.example.org"}, "https://images.example.org/a.png", True),
        ({"IMAGE_HOSTS": "images.example.org"}, "https://IMAGES.example.org./a.png", True),
        ({"IMAGE_HOSTS": "images.example.org"}, "https://evil.org/a.png", False),
        ({"IMAGE_HOSTS": "images.example.org"}, "https://images.example.org.evil.org/a.png", False),
        ({"IMAGE_HOSTS": "*.example.org"}, "https://a.b.example.org/a.png", True),
        ({"IMAGE_HOSTS": "*.example.org"}, "https://evilexample.org/a.png", False),
        ({"IMAGE_HOSTS": "*.example.org", "IMAGE_PRIVATE_HOSTS": "minio:9000"}, "http://minio:9000/a.png", True),
        ({"IMAGE_HOSTS": "*.example.org", "IMAGE_PRIVATE_HOSTS": "minio:9000"}, "http://minio:9001/a.png", False),
        ({"IMAGE_HOSTS": "*.example.org", "IMAGE_PRIVATE_HOSTS": "10.0.0.0/8"}, "http://10.1.2.3/a.png", True),
        ({"IMAGE_HOSTS": "*.example.org", "LABEL_STUDIO_URL": "http://ls:8080"}, "http://ls:8080/data/a.png", True),
    ],
)
def test_the_allow_list_of_hosts(settings: dict[str, str], url: str, allowed: bool) -> None:
    if allowed:
        rules(**settings).check_url(httpx.URL(url))
    else:
        with pytest.raises(ImageForbidden, match="IMAGE_HOSTS"):
            rules(**settings).check_url(httpx.URL(url))


@pytest.mark.parametrize(
    ("entry", "where", "address"),
    [("10.1.0.0/16", ("a.corp", 80), "10.1.2.3"), ("minio:9000", ("minio", 9000), "172.18.0.4"),
     ("[fd12::1]:9000", ("fd12::1", 9000), "fd12::1"), ("fd12::/16", ("a.corp", 443), "fd12::7")],
)  # fmt: skip
def test_an_operator_may_allow_private_hosts(entry: str, where: tuple[str, int], address: str) -> None:
    rules(IMAGE_PRIVATE_HOSTS=entry).check_addresses(Place(*where), [address])
    with pytest.raises(ImageForbidden):
        rules(IMAGE_PRIVATE_HOSTS=entry).check_addresses(Place("other", 1234), ["192.168.7.7"])


def test_a_setting_that_cannot_be_read_is_named() -> None:
    with pytest.raises(SettingsError, match="IMAGE_PRIVATE_HOSTS: 'http://minio' is no host"):
        rules(IMAGE_PRIVATE_HOSTS="http://minio")


def test_schemes_can_be_narrowed() -> None:
    with pytest.raises(ImageForbidden, match="IMAGE_SCHEMES"):
        fetcher(IMAGE_SCHEMES="https").fetch("data:,x")


# -- servers that lie or dawdle ----------------------------------------------------------------------------------------


def local(server: Server, **settings: str) -> bytes:
    return fetcher(IMAGE_PRIVATE_HOSTS="127.0.0.1", IMAGE_LIMIT_BYTES="2000", **settings).fetch(f"{server.url}/a.png")


def test_a_length_over_the_limit_is_believed(serve) -> None:
    with pytest.raises(ImageTooLarge):
        local(serve(body(b"", Content_Length="2001")))


def test_a_length_that_promises_too_much_is_worth_a_retry(serve) -> None:
    with pytest.raises(ImageUnavailable):
        local(serve(body(b"x" * 10, Content_Length="1000")))


def test_a_length_that_promises_too_little_cuts_the_body(serve) -> None:
    assert local(serve(body(b"x" * 5000, Content_Length="10"))) == b"x" * 10


def test_a_compressed_body_is_refused_because_it_could_grow_a_thousandfold(serve) -> None:
    with pytest.raises(ImageUnreadable, match="Content-Encoding"):
        local(serve(body(b"x", Content_Encoding="gzip")))


@pytest.mark.parametrize("dripped", ["headers", "body"])
def test_a_server_that_drips_is_left_when_the_time_is_over(serve, dripped: str) -> None:
    # given a server that sends a byte now and then, each well within a read's own timeout
    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + (b"" if dripped == "headers" else b"\r\n"))
        while not handler.server.stopped.wait(0.05):
            try:
                handler.wfile.write(b"x")
            except OSError:
                return

    # when / then
    began_s = time.monotonic()
    with pytest.raises(ImageUnavailable, match=r"IMAGE_TIMEOUT_S=0\.4"):
        local(serve(drip), IMAGE_TIMEOUT_S="0.4")
    assert time.monotonic() - began_s < 30


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../secret", "a/../../secret", "link", "folder-link/secret", "/etc/passwd",
                                  "..%2fsecret", "a\0b", "pipe", ".", "x" * 5000])  # fmt: skip
def test_only_regular_files_below_the_root_are_read(tmp_path: Path, name: str) -> None:
    # given a root beside a secret, with links and a pipe in it
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(b"secret")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "folder-link").symlink_to(tmp_path)
    os.mkfifo(root / "pipe")

    # when / then
    with pytest.raises(ImageError):
        fetcher(LOCAL_FILES_ROOT=str(root)).fetch(f"/data/local-files/?d={name}")


@pytest.mark.parametrize(("size_bytes", "fits"), [(2000, True), (2001, False)])
def test_a_file_of_this_disk_has_the_same_limit(tmp_path: Path, size_bytes: int, fits: bool) -> None:
    (tmp_path / "a.png").write_bytes(b"x" * size_bytes)
    fetch = fetcher(LOCAL_FILES_ROOT=str(tmp_path), IMAGE_LIMIT_BYTES="2000").fetch
    if fits:
        assert len(fetch("/data/local-files/?d=a.png")) == size_bytes
    else:
        with pytest.raises(ImageTooLarge, match="IMAGE_LIMIT_BYTES=2000"):
            fetch("/data/local-files/?d=a.png")


def test_hidden_ipv4_is_looked_at_as_ipv4() -> None:
    assert not is_public(ipaddress.ip_address("2002:a00:1::"))
    assert is_public(ipaddress.ip_address("2002:808:808::"))
