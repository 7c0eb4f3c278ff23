import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from eval.data import open_data
from eval.data.download import BASE_URL, LICENCE, MANIFEST, download, is_official, urls
from eval.tasks.lamp_2m import TASK as MOVIES
from eval.tasks.lamp_2n import TASK as NEWS
from eval.tasks.lamp_3 import TASK as RATING
from eval.tasks.lamp_6 import TASK as EMAIL
from program.errors import ConfigError, DataError
from program.task import FREE_TEXT

QUESTIONS = json.dumps(
    [
        {
            "id": "1",
            "input": f"{RATING.lead}Good rope.",
            "profile": [{"id": "10", "text": "x" * 5000, "score": "5"}],
        }
    ]
).encode()
OUTPUTS = b'{"task": "LaMP_3", "golds": [{"id": "1", "output": "5"}]}'
HTML = b"<!DOCTYPE html><html><body>Not here, but 200.</body></html>"
Q, GOLD = "/LaMP_3/dev/dev_questions.json", "/LaMP_3/dev/dev_outputs.json"


class Loopback(ThreadingHTTPServer):
    """Serves `files`; `break_after` truncates one response, `refuse` counts responses with status 503,
    `range_status` is the status of the next range request, `range_shift` misplaces its answer."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = {Q: QUESTIONS, GOLD: OUTPUTS}
        self.etag = '"v1"'
        self.content_type = "application/json"
        self.break_after = {}
        self.range_status = None
        self.range_shift = 0
        self.refuse = 0
        self.requests = []

    @property
    def base(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"

    def do_GET(self):
        server = self.server
        byte_range = self.headers.get("Range")
        server.requests.append((self.path, byte_range))
        if server.refuse:
            server.refuse -= 1
            self.send_error(503)
            return
        body = server.files.get(self.path)
        if body is None:
            self.send_error(404)
            return
        start = 0
        if byte_range and self.headers.get("If-Range") == server.etag:
            start = int(byte_range.removeprefix("bytes=").removesuffix("-"))
            if server.range_status:
                self.send_error(server.range_status)
                server.range_status = None
                return
        self.send_response(206 if start else 200)
        if start:
            self.send_header(
                "Content-Range", f"bytes {start + server.range_shift}-{len(body) - 1}/{len(body)}"
            )
        self.send_header("Content-Length", str(len(body) - start))
        self.send_header("Content-Type", server.content_type)
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        self.wfile.write(body[start : server.break_after.pop(self.path, len(body))])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    loopback = Loopback()
    thread = threading.Thread(target=loopback.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield loopback
    loopback.shutdown()
    thread.join()
    loopback.server_close()


def fetch(server, folder, **changes):
    return download(RATING, folder, lambda licence: True, **({"base": server.base, "wait": 0.0} | changes))


def test_downloads_and_records_files(server, tmp_path):
    questions, outputs = fetch(server, tmp_path)
    assert (tmp_path / "dev_questions.json").read_bytes() == QUESTIONS
    assert (tmp_path / "dev_outputs.json").read_bytes() == OUTPUTS
    assert questions.sha256 == hashlib.sha256(QUESTIONS).hexdigest()
    assert outputs.bytes == len(OUTPUTS)
    recorded = json.loads((tmp_path / MANIFEST).read_text())["files"]["dev_questions.json"]
    assert recorded["url"] == server.base + Q
    assert recorded["sha256"] == questions.sha256
    assert recorded["licence"] == LICENCE
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "dev_outputs.json",
        "dev_questions.json",
        MANIFEST,
    ]


def test_downloaded_files_can_be_opened(server, tmp_path):
    fetch(server, tmp_path)
    assert open_data(tmp_path, RATING).manifest["queries"] == 1


def test_only_unchanged_downloads_from_lamp_are_official(server, tmp_path):
    fetch(server, tmp_path)

    def official(path=tmp_path, base=server.base):
        return is_official(path, open_data(tmp_path, RATING).manifest["files"], base)

    assert official()
    assert official(tmp_path / "dev_questions.json")
    assert not official(base=BASE_URL)
    questions = tmp_path / "dev_questions.json"
    questions.write_bytes(QUESTIONS.replace(b"Good rope", b"Fine rope"))
    assert not official()
    (tmp_path / MANIFEST).unlink()
    assert not official()


def test_complete_files_are_not_downloaded_again(server, tmp_path):
    first = fetch(server, tmp_path)
    server.requests.clear()
    assert fetch(server, tmp_path) == first
    assert server.requests == []


def test_changed_file_is_downloaded_again(server, tmp_path):
    fetch(server, tmp_path)
    (tmp_path / "dev_questions.json").write_bytes(QUESTIONS[:-9])
    fetch(server, tmp_path)
    assert (tmp_path / "dev_questions.json").read_bytes() == QUESTIONS


def test_rejects_html_with_status_200_and_leaves_no_file(server, tmp_path):
    server.files[Q] = HTML
    with pytest.raises(DataError, match=r"dev_questions\.json: .* is an HTML page"):
        fetch(server, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert len(server.requests) == 1


def test_rejects_html_content_type_before_the_body(server, tmp_path):
    server.content_type = "text/html; charset=UTF-8"
    with pytest.raises(DataError, match="the answer is an HTML page"):
        fetch(server, tmp_path)


def test_rejects_html_instead_of_outputs(server, tmp_path):
    server.files[GOLD] = HTML
    with pytest.raises(DataError, match=r"dev_outputs\.json: .* is not JSON"):
        fetch(server, tmp_path)
    assert not (tmp_path / "dev_outputs.json").exists()


@pytest.mark.parametrize("body", [QUESTIONS[:-1], QUESTIONS[: len(QUESTIONS) // 2], b"[]", b""])
def test_rejects_content_that_is_not_a_questions_file(server, tmp_path, body):
    server.files[Q] = body
    with pytest.raises(DataError, match=r"dev_questions\.json"):
        fetch(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_rejects_outputs_of_another_task(server, tmp_path):
    server.files[GOLD] = OUTPUTS.replace(b"LaMP_3", b"LaMP_4")
    with pytest.raises(DataError, match="field `task` is 'LaMP_4'"):
        fetch(server, tmp_path)


def test_resumes_an_interrupted_transfer(server, tmp_path):
    server.break_after[Q] = 1000
    fetch(server, tmp_path)
    assert server.requests[:2] == [(Q, None), (Q, "bytes=1000-")]
    assert (tmp_path / "dev_questions.json").read_bytes() == QUESTIONS


def test_next_run_resumes_the_partial_download(server, tmp_path):
    server.break_after[Q] = 1000
    with pytest.raises(DataError, match="1000 bytes are kept, run the command again"):
        fetch(server, tmp_path, attempts=1)
    assert not (tmp_path / "dev_questions.json").exists()
    server.requests.clear()
    fetch(server, tmp_path)
    assert server.requests[0] == (Q, "bytes=1000-")
    assert (tmp_path / "dev_questions.json").read_bytes() == QUESTIONS


def test_partial_download_of_another_version_restarts(server, tmp_path):
    server.break_after[Q] = 1000
    with pytest.raises(DataError):
        fetch(server, tmp_path, attempts=1)
    server.etag = '"v2"'
    server.files[Q] = QUESTIONS.replace(b"xxxx", b"yyyy")
    fetch(server, tmp_path)
    assert (tmp_path / "dev_questions.json").read_bytes() == server.files[Q]


def test_partial_download_without_etag_restarts(server, tmp_path):
    server.etag = ""
    server.break_after[Q] = 1000
    fetch(server, tmp_path)
    assert server.requests[:2] == [(Q, None), (Q, None)]
    assert (tmp_path / "dev_questions.json").read_bytes() == QUESTIONS


def test_retries_a_busy_server(server, tmp_path):
    server.refuse = 2
    fetch(server, tmp_path)
    assert [path for path, _ in server.requests] == [Q, Q, Q, GOLD]


def test_busy_server_fails_after_the_last_attempt(server, tmp_path):
    server.refuse = 9
    with pytest.raises(DataError, match="answered 503"):
        fetch(server, tmp_path, attempts=3)
    assert len(server.requests) == 3


def test_missing_file_is_not_retried(server, tmp_path):
    del server.files[Q]
    with pytest.raises(DataError, match="answered 404; check the task"):
        fetch(server, tmp_path)
    assert len(server.requests) == 1


def test_unreachable_server_error_names_the_url(tmp_path):
    with pytest.raises(DataError, match=r"http://127\.0\.0\.1:9/LaMP_3"):
        download(RATING, tmp_path, lambda licence: True, base="http://127.0.0.1:9", attempts=1)


def test_refused_licence_sends_no_request(server, tmp_path):
    licences = []
    with pytest.raises(ConfigError, match="licence was not accepted"):
        download(RATING, tmp_path, lambda text: bool(licences.append(text)), base=server.base)
    assert licences == [LICENCE]
    assert server.requests == []


def test_test_split_has_no_outputs(server, tmp_path):
    server.files["/LaMP_3/test/test_questions.json"] = QUESTIONS
    assert [file.name for file in fetch(server, tmp_path, split="test")] == ["test_questions.json"]


@pytest.mark.parametrize(
    ("task", "by", "folder"),
    [
        (RATING, "user", "LaMP_3/dev"),
        (MOVIES, "user", "LaMP_2/new/dev"),
        (NEWS, "user", "LaMP_2/dev"),
        (RATING, "time", "time/LaMP_3/dev"),
        (MOVIES, "time", "time/LaMP_2/new/dev"),
    ],
)
def test_urls_are_the_official_ones(task, by, folder):
    base = "https://ciir.cs.umass.edu/downloads/LaMP"
    assert urls(task, by=by) == [f"{base}/{folder}/dev_questions.json", f"{base}/{folder}/dev_outputs.json"]


@pytest.mark.parametrize(
    ("task", "split", "message"),
    [
        (EMAIL, "dev", "LDC2015T03"),
        (FREE_TEXT, "dev", "not one of LaMP's tasks"),
        (RATING, "validation", "got 'validation'"),
    ],
)
def test_rejects_tasks_and_splits_without_downloads(task, split, message):
    with pytest.raises(ConfigError, match=message):
        urls(task, split)


def test_part_that_is_too_long_for_the_server_is_removed(server, tmp_path):
    server.break_after[Q] = 1000
    server.range_status = 416
    fetch(server, tmp_path)
    assert server.requests[:3] == [(Q, None), (Q, "bytes=1000-"), (Q, None)]
    assert (tmp_path / "dev_questions.json").read_bytes() == QUESTIONS


def test_server_that_resumes_at_another_position_is_restarted(server, tmp_path):
    server.break_after[Q] = 1000
    server.range_shift = 5
    fetch(server, tmp_path)
    assert server.requests[:3] == [(Q, None), (Q, "bytes=1000-"), (Q, None)]
    assert (tmp_path / "dev_questions.json").read_bytes() == QUESTIONS


@pytest.mark.parametrize("content", ["", "{", "[]", '{"files": []}', '{"files": {}}'])
def test_unreadable_manifest_means_nothing_is_downloaded(server, tmp_path, content):
    fetch(server, tmp_path)
    (tmp_path / MANIFEST).write_text(content)
    assert not is_official(tmp_path, open_data(tmp_path, RATING).manifest["files"], server.base)
    fetch(server, tmp_path)
    assert is_official(tmp_path, open_data(tmp_path, RATING).manifest["files"], server.base)


def test_no_files_are_not_official(server, tmp_path):
    fetch(server, tmp_path)
    assert not is_official(tmp_path, [], server.base)


def test_files_of_another_server_are_downloaded_again(server, tmp_path):
    fetch(server, tmp_path)
    server.requests.clear()
    other = server.base.replace("127.0.0.1", "localhost")
    assert [file.url for file in fetch(server, tmp_path, base=other)] == [other + Q, other + GOLD]
    assert len(server.requests) == 2


def test_failed_second_file_keeps_the_first(server, tmp_path):
    server.files[GOLD] = HTML
    with pytest.raises(DataError, match="dev_outputs"):
        fetch(server, tmp_path)
    server.files[GOLD] = OUTPUTS
    server.requests.clear()
    fetch(server, tmp_path)
    assert server.requests == [(GOLD, None)]


def test_base_may_end_with_a_slash():
    assert urls(RATING, base=f"{BASE_URL}/") == urls(RATING)


def test_train_split_has_questions_and_outputs():
    assert [url.rsplit("/", 1)[1] for url in urls(RATING, "train")] == [
        "train_questions.json",
        "train_outputs.json",
    ]
