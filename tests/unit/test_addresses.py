"""Where images come from, and who is told the token: Label Studio only. A real HTTP server on loopback."""

import base64
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from contract.errors import (
    ImageForbidden,
    ImageNotFound,
    ImageTooLarge,
    ImageUnavailable,
    ImageUnreadable,
    LabelStudioAway,
)
from contract.settings import read_settings
from worker.addresses import Fetcher

TOKEN = {"Authorization": "Bearer secret"}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.seen.append((self.path, self.headers.get("Authorization")))
        path = self.path.partition("?")[0]
        if path.startswith("/status/"):
            self.send_error(int(path.rsplit("/", 1)[1]))
        elif path in ("/drip", "/flood"):
            self.send_response(200)
            self.end_headers()
            self.send_for_ever(b"x" if path == "/drip" else b"x" * 600)
        elif path == "/elsewhere":
            self.send_response(302)
            self.send_header("Location", self.server.elsewhere)
            self.end_headers()
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"image bytes")

    def send_for_ever(self, piece):
        with suppress(OSError):  # the reader has gone
            while not self.server.stopped.wait(0.02):
                self.wfile.write(piece)

    def log_message(self, *args):
        pass


@pytest.fixture
def serve():
    servers = []

    def start():
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.seen, server.stopped, server.elsewhere = [], threading.Event(), ""
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stopped.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def label_studio(serve):
    return serve()


def fetcher(label_studio=None, *, authorize=lambda: TOKEN, **settings):
    url = {"LABEL_STUDIO_URL": label_studio.url} if label_studio else {}
    loopback = {"IMAGE_PRIVATE_HOSTS": "127.0.0.1 localhost"}
    return Fetcher(read_settings({**url, **loopback, "IMAGE_LIMIT_BYTES": "2000", **settings}), authorize)


def test_an_upload_is_fetched_from_label_studio_with_its_token(label_studio):
    assert fetcher(label_studio).fetch("/data/upload/1/a_%E5%9B%BE.png") == b"image bytes"
    assert label_studio.seen == [("/data/upload/1/a_%E5%9B%BE.png", "Bearer secret")]


def test_another_host_never_sees_the_token(label_studio, serve):
    other = serve()
    assert fetcher(label_studio).fetch(f"{other.url}/a.png") == b"image bytes"
    assert other.seen == [("/a.png", None)]


def test_a_redirect_to_another_host_does_not_carry_the_token(label_studio, serve):
    other = serve()
    label_studio.elsewhere = other.url.replace("127.0.0.1", "localhost") + "/b.png"
    assert fetcher(label_studio).fetch(f"{label_studio.url}/elsewhere") == b"image bytes"
    assert other.seen == [("/b.png", None)]


def test_cloud_objects_are_resolved_by_label_studio(label_studio):
    fetcher(label_studio).fetch("s3://bucket/图.png", task_id=7)
    encoded = base64.urlsafe_b64encode("s3://bucket/图.png".encode()).decode()
    assert label_studio.seen == [(f"/tasks/7/resolve/?fileuri={encoded}", "Bearer secret")]


@pytest.mark.parametrize(
    ("status", "error"),
    [(401, ImageForbidden), (403, ImageForbidden), (404, ImageNotFound), (410, ImageNotFound),
     (400, ImageForbidden), (429, LabelStudioAway), (500, ImageUnavailable), (502, LabelStudioAway),
     (503, LabelStudioAway), (504, LabelStudioAway)],
)  # fmt: skip
def test_each_refusal_has_its_error(label_studio, serve, status, error):
    with pytest.raises(error, match=str(status)) as raised:
        fetcher(label_studio).fetch(f"/status/{status}")
    assert type(raised.value) is error
    assert raised.value.retry == issubclass(error, ImageUnavailable)
    assert "secret" not in str(raised.value)

    # of another server it is never said that Label Studio is away
    with pytest.raises(ImageUnavailable if raised.value.retry else error) as raised:
        fetcher(label_studio).fetch(f"{serve().url}/status/{status}")
    assert type(raised.value) is not LabelStudioAway


def test_a_server_that_drips_is_given_up(label_studio):
    with pytest.raises(ImageUnavailable, match="IMAGE_TIMEOUT_S"):
        fetcher(label_studio, IMAGE_TIMEOUT_S="0.3", IMAGE_LIMIT_BYTES="100000").fetch("/drip")


def test_a_body_over_the_limit_is_cut_off(label_studio):
    with pytest.raises(ImageTooLarge, match="IMAGE_LIMIT_BYTES=1024"):
        fetcher(label_studio, IMAGE_LIMIT_BYTES="1024").fetch("/flood")


def test_a_server_that_is_away_is_worth_a_retry():
    with pytest.raises(ImageUnavailable) as raised:
        fetcher().fetch("http://127.0.0.1:1/a.png")
    assert type(raised.value) is ImageUnavailable


def test_a_label_studio_that_is_away_is_told_from_other_servers():
    with pytest.raises(LabelStudioAway, match="ConnectError"):
        fetcher(LABEL_STUDIO_URL="http://127.0.0.1:1").fetch("/data/upload/1/a.png")


def test_data_uris_are_decoded():
    assert fetcher().fetch("data:image/png;base64," + base64.b64encode(b"png").decode()) == b"png"
    assert fetcher().fetch("data:text/plain,a%20b") == b"a b"
    with pytest.raises(ImageUnreadable, match="base64"):
        fetcher().fetch("data:image/png;base64,@@@")
    with pytest.raises(ImageTooLarge):
        fetcher().fetch("data:," + "x" * 3000)


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://h/a.png", "gopher://h/", "a.png", "", "//evil/a.png"])
def test_other_addresses_are_forbidden(address):
    with pytest.raises(ImageForbidden):
        fetcher().fetch(address)


def test_an_upload_without_a_token_says_which_setting_is_missing(label_studio):
    with pytest.raises(ImageForbidden, match="LABEL_STUDIO_API_KEY"):
        fetcher(label_studio, authorize=dict).fetch("/data/upload/1/a.png")
    with pytest.raises(ImageForbidden, match="LABEL_STUDIO_URL"):
        fetcher(authorize=dict).fetch("/data/upload/1/a.png")


def test_local_files_are_read_from_disk_where_their_root_is_configured(tmp_path, label_studio):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.png").write_bytes(b"local")
    local = fetcher(label_studio, LOCAL_FILES_ROOT=str(tmp_path))
    assert local.fetch("/data/local-files/?d=sub/a.png") == b"local"
    assert local.fetch(f"{label_studio.url}/data/local-files/?d=sub/a.png") == b"local"
    with pytest.raises(ImageNotFound):
        local.fetch("/data/local-files/?d=sub/b.png")


def test_uploads_are_read_from_label_studios_own_directory(tmp_path):
    (tmp_path / "media/upload/1").mkdir(parents=True)
    (tmp_path / "media/upload/1/a 图.png").write_bytes(b"upload")
    local = fetcher(authorize=dict, LABEL_STUDIO_DATA_DIR=str(tmp_path))
    assert local.fetch("/data/upload/1/a%20%E5%9B%BE.png") == b"upload"


@pytest.mark.parametrize("path", ["../secret", "sub/../../secret", "link", "", "%2e%2e/secret"])
def test_no_path_leads_out_of_the_root(tmp_path, path):
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(b"secret")
    (root / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ImageForbidden):
        fetcher(LOCAL_FILES_ROOT=str(root)).fetch(f"/data/local-files/?d={path}")
