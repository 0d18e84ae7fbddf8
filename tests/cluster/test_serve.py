"""The endpoint over HTTP: the same sound as the pipeline's, and a clean word for all that is wrong."""

import asyncio
import contextlib
import http.client
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import bulk_corpus
import fsspec
import httpx
import numpy as np
import pytest
import ray
import soundfile
import torch
from bulk_corpus import job_state, records
from music import jingle
from ray.serve.exceptions import BackPressureError, RayServeException
from s3_server import free_port
from serving import pids, samples, until
from torch import nn
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from enhance_ray import audio
from enhance_ray.client import Client, EndpointError
from enhance_ray.cluster.bulk import BulkConfig
from enhance_ray.cluster.bulk import run as run_bulk
from enhance_ray.cluster.serve import build, models, reading
from enhance_ray.cluster.serve.refusals import RequestError
from enhance_ray.cluster.serve.restoring import LIVE, is_lost_replica
from enhance_ray.cluster.serve.settings import TOKENS_VARIABLE, ServeConfig
from enhance_ray.engine.analysis import Analysis
from enhance_ray.engine.batching import Batcher
from enhance_ray.engine.synthesis import Synthesis
from enhance_ray.enhancer import Enhancer
from enhance_ray.errors import ConfigError
from enhance_ray.files import enhance_files, plan_jobs
from enhance_ray.settings.options import EnhanceOptions

SAMPLE = Path(__file__).parents[2] / "samples" / "noisy" / "kathleen_helicopter.flac"
ARGS = {
    "denoiser": {"cpus": 0.5},
    "enhancer": {"cpus": 0.5},
    "ingress_cpus": 0.25,
    "limits": {
        "body_megabytes": 8,
        "seconds": 60,
        "requests_per_client": 6,
        "requests": 8,
        "idle_seconds": 3,
    },
    "jobs": {"folder": "s3://tests/jobs", "prefixes": ["s3://tests/shows/"], "recordings": 3, "cpus": 0.1},
    "origins": ["https://studio.example"],
}


@pytest.fixture(scope="module")
def url(ray_cluster):
    from ray import serve

    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port, "request_timeout_s": 120})
    serve.run(build(ARGS), name="enhance", route_prefix="/")
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


@pytest.fixture(scope="module")
def client(url):
    with Client(url, tries=1) as client:
        yield client


@pytest.mark.parametrize(
    ("mode", "options"), [("denoise", {}), ("enhance", {}), ("enhance", {"guard": True})]
)
def test_an_answer_is_what_the_pipeline_gives(client, mode, options):
    waveform, rate = soundfile.read(SAMPLE, dtype="float32")
    local = Enhancer.load(denoiser_only=mode == "denoise")
    expected, _ = getattr(local, mode)(waveform, rate, EnhanceOptions(**options))

    answer, info = samples(getattr(client, mode)(SAMPLE, **options))

    assert info.codec == "flac"
    assert answer.shape[1] == len(expected) == info.frames
    # 16 bits; and convolutions that are summed in another order.
    assert np.abs(answer[0] - expected).max() < 1e-2


def test_formats_options_and_forms(url, tmp_path):
    content = SAMPLE.read_bytes()
    with httpx.Client(base_url=url, timeout=60) as http:
        by_accept = http.post("/v1/denoise", content=content, headers={"Accept": "audio/wav"})
        by_form = http.post("/v1/denoise", files={"file": content}, data={"format": "wav", "strength": "1"})
        dry = http.post("/v1/denoise", params={"format": "wav", "strength": "0"}, content=content)
        assert by_accept.headers["content-type"] == "audio/wav"
        assert by_accept.content == by_form.content
        assert dry.content != by_accept.content
        assert float(by_accept.headers["X-Audio-Seconds"]) == pytest.approx(audio.probe(str(SAMPLE)).seconds)
        assert float(by_accept.headers["X-RTF"]) > 0
        for wanted, codec in (("mp3", "mp3"), ("opus", "opus"), ("flac", "flac")):
            answer = http.post("/v1/denoise", params={"format": wanted}, content=content)
            assert samples(answer.content)[1].codec == codec
        with Client(url) as client:
            client.denoise(SAMPLE, tmp_path / "clean.wav", format="wav")
        assert (tmp_path / "clean.wav").read_bytes() == by_accept.content


def test_sound_is_denoised_while_it_arrives(url):
    waveform, rate = soundfile.read(SAMPLE, dtype="float32")
    waveform = waveform[: 4 * rate]
    address = f"{url.replace('http', 'ws')}/v1/stream?sample_rate={rate}&encoding=f32"
    with connect(address) as socket:
        socket.send(waveform[: 2 * rate].tobytes())
        early = np.frombuffer(socket.recv(timeout=30), np.float32)  # before the rest was sent
        socket.send(waveform[2 * rate :].tobytes())
        socket.send("end")
        answer = np.concatenate([early, *(np.frombuffer(data, np.float32) for data in socket)])

    enhancer = Enhancer.load(denoiser_only=True)
    analysis = Analysis(enhancer.framing, rate, 1, LIVE, name="the sound", live=True)
    results = Batcher(enhancer, LIVE, 1).results(None, analysis.pieces([torch.from_numpy(waveform)[None]]))
    blocks = Synthesis(enhancer.framing, LIVE, name="the sound").blocks(results)
    expected = torch.cat(list(blocks), dim=-1)[0].numpy()
    assert len(early) >= 0.7 * 44_100
    assert len(answer) == len(expected)
    assert np.abs(answer - expected).max() < 2e-3


@pytest.mark.parametrize("wrong", ["sample_rate=7", "sample_rate=x", "encoding=mp3"])
def test_a_stream_that_makes_no_sense_is_refused(url, wrong):
    with pytest.raises(InvalidStatus), connect(f"{url.replace('http', 'ws')}/v1/stream?{wrong}"):
        pass


class Counting(nn.Module):
    """A denoiser that takes nothing away, and tells how many rows came at once."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def forward(self, rows):
        self.rows.append(len(rows))
        return rows


def test_requests_that_differ_in_their_outputs_alone_share_a_batch():
    denoiser = Counting()
    load = lambda settings, denoiser_only: Enhancer(denoiser, device="cpu", precision="fp32")  # noqa: E731
    model = models._Model(ServeConfig(), load, denoiser_only=True)
    rows = np.zeros((1, model._enhancer.framing.row_length(44_100)), np.float32)
    asked = [
        EnhanceOptions(format="flac"),
        EnhanceOptions(loudness=-16, rate=16_000),
        EnhanceOptions(mode="enhance", nfe=8),
    ]
    works = [models.Work(rows + i, 0, options, np.zeros(1, np.float32)) for i, options in enumerate(asked)]
    denoiser.rows.clear()
    answers = asyncio.run(model.run(works))
    assert denoiser.rows == [3]
    assert [answer[0, 0] for answer in answers] == [0, 1, 2]


def test_tokens_are_taken_without_blanks_and_an_empty_secret_opens_no_door(monkeypatch):
    settings = ServeConfig(tokens=("first",))
    monkeypatch.setenv(TOKENS_VARIABLE, " second ,third\n")
    for token in ("first", "second", "third"):
        assert reading.check_token(settings, {"authorization": f"Bearer {token}"}) == token
    with pytest.raises(RequestError, match="send a token"):
        reading.check_token(settings, {"authorization": "Bearer fourth"})
    monkeypatch.setenv(TOKENS_VARIABLE, " , ")
    with pytest.raises(ConfigError, match=f"{TOKENS_VARIABLE}: it is set and holds no token"):
        reading.check_token(settings, {"authorization": "Bearer "})


def test_the_page_needs_nobody_else(url):
    page = httpx.get(f"{url}/")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for name in re.findall(r'(?:src|href)="([^"#]+)"', page.text):
        assert name.startswith(("web/", "data:"))
        if name.startswith("web/"):
            assert httpx.get(f"{url}/{name}").status_code == 200
    for name in ("wavesurfer", "spectrogram", "record"):
        assert httpx.get(f"{url}/web/vendor/{name}.esm.js").status_code == 200


@pytest.fixture
def chromium():
    """A headless browser whose microphone hears a tone."""
    playwright = pytest.importorskip("playwright.sync_api")
    if not (path := shutil.which("chromium")):
        pytest.skip("there is no chromium")
    microphone = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox", *microphone])
        yield browser
        browser.close()


@pytest.fixture(params=[(1200, "light"), (390, "dark")], ids=["wide", "narrow"])
def page(request, url, chromium):
    """The page, on a desktop and on a phone: it may not fail, ask others, or be wider than its window."""
    width, scheme = request.param
    page = chromium.new_page(
        viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True
    )
    problems, hosts = [], set()
    page.on("console", lambda message: message.type == "error" and problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    page.goto(f"{url}/")
    yield page
    # A recording that is refused is an error to the browser's console, too.
    assert [text for text in problems if "422" not in text] == []
    assert hosts - {""} == {urlsplit(url).netloc}  # blob: and data: have none
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def take_picture(page, tmp_path, name):
    folder = os.environ.get("SCREENSHOTS", tmp_path)
    page.screenshot(path=f"{folder}/page-{name}-{page.viewport_size['width']}.png", full_page=True)


def finish(page):
    page.click("#go")
    page.wait_for_selector("#status:text-matches('^Done')")


@pytest.mark.drill
def test_the_page_restores_and_records_and_lets_hear_before_and_after(url, page, tmp_path):
    page.wait_for_selector("#limits:text-matches('At most 60 seconds, 8 MB and 2 channels')")
    page.set_input_files("#file", SAMPLE)
    page.check("input[value=enhance]")
    finish(page)
    page.click("#play")
    page.wait_for_timeout(600)
    page.click("#switch")
    assert page.text_content("#switch") == "Hear: before"
    page.wait_for_timeout(500)
    take_picture(page, tmp_path, "one")
    with page.expect_download() as download:
        page.click("#files li a")
    answer = httpx.post(f"{url}/v1/enhance?strength=1&format=wav", content=SAMPLE.read_bytes(), timeout=60)
    assert Path(download.value.path()).read_bytes() == answer.content

    page.click("#record")
    page.wait_for_timeout(1500)
    page.click("#record")
    page.wait_for_selector("#files li:nth-child(2):has-text('recording.webm')")
    page.check("input[value=denoise]")
    finish(page)
    assert page.text_content("#heard-name") == "recording.webm"


@pytest.mark.drill
def test_one_recording_of_several_that_fails_on_the_page_costs_the_others_nothing(page, tmp_path):
    (tmp_path / "text.mp3").write_text("no sound")
    (tmp_path / "other.wav").write_bytes(wave(2, rate=16_000))
    page.set_input_files("#file", [SAMPLE, tmp_path / "text.mp3", tmp_path / "other.wav"])
    page.select_option("#loudness", "-23")
    page.select_option("#channels", "mono")
    page.click("#go")
    page.wait_for_selector("#status.bad:text-matches('1 recording could not be restored, 2 done')")
    assert "audio" in page.text_content("#files li:nth-child(2) .words")
    assert page.is_hidden("#files li:nth-child(2) a")
    assert page.text_content("#heard-name") == "other.wav"
    take_picture(page, tmp_path, "several")
    names = []
    page.on("download", lambda download: names.append(download.suggested_filename))
    page.click("#all")
    page.wait_for_timeout(2500)
    assert names == ["kathleen_helicopter-denoised.wav", "other-denoised.wav"]

    # What is heard goes with its row; all of it can be done with the keyboard.
    page.focus("#files li:nth-child(3) button:has-text('Remove')")
    page.keyboard.press("Enter")
    assert page.is_hidden("#result")
    assert page.locator("#files li").count() == 2


def wave(seconds, channels=1, rate=8000):
    file = io.BytesIO()
    soundfile.write(file, np.zeros((int(seconds * rate), channels)) + 0.01, rate, format="WAV")
    return file.getvalue()


@pytest.mark.parametrize(
    ("path", "parameters", "body", "status", "code"),
    [
        ("/v1/denoise", {}, b"", 400, "empty"),
        ("/v1/denoise", {}, b"no sound", 422, "audio_unreadable"),
        ("/v1/denoise", {"strength": "7"}, wave(1), 400, "config_invalid"),
        ("/v1/denoise", {"format": "m4a"}, wave(1), 415, "format_unknown"),
        ("/v1/denoise", {"format": "ogg"}, wave(1), 415, "format_unknown"),
        ("/v1/denoise", {"colour": "red"}, wave(1), 400, "config_invalid"),
        ("/v1/enhance", {"nfe": "1000"}, wave(1), 400, "config_invalid"),
        ("/v1/denoise", {"mode": "enhance"}, wave(1), 400, "config_invalid"),
        ("/v1/denoise", {}, wave(61), 413, "too_large"),
        ("/v1/denoise", {}, wave(1, channels=3), 413, "too_large"),
        ("/v1/denoise", {}, bytes(8_000_001), 413, "too_large"),
        ("/v1/nothing", {}, b"x", 404, "not_found"),
    ],
    ids=lambda value: f"{len(value)} bytes" if isinstance(value, bytes) else None,
)
def test_what_is_wrong_is_said(url, path, parameters, body, status, code):
    response = httpx.post(url + path, params=parameters, content=body, timeout=60)

    assert (response.status_code, response.json()["error"]) == (status, code)
    assert set(response.json()) == {"error", "reason"}
    assert "/tmp" not in response.text
    assert "Traceback" not in response.text


def test_damaged_uploads_never_upset_the_endpoint(url):
    with httpx.Client(base_url=url, timeout=60) as http:
        for number in range(24):
            content = bulk_corpus.damaged(number, SAMPLE.read_bytes())[1]
            assert http.post("/v1/denoise", content=content).status_code in (400, 422)


def test_one_client_cannot_take_all_places(url):
    statuses = []

    def post(_):
        response = httpx.post(f"{url}/v1/denoise", content=wave(12, rate=16000), timeout=120)
        statuses.append((response.status_code, response.headers.get("Retry-After")))

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(post, range(12)))

    assert {status for status, _ in statuses} <= {200, 429, 503}
    assert all(after for status, after in statuses if status != 200)
    assert sum(status == 200 for status, _ in statuses) >= 6


@pytest.mark.drill
def test_five_hundred_damaged_uploads(url):
    good = [
        SAMPLE.read_bytes(),
        wave(2, channels=2),
        audio_file("mp3"),
        audio_file("opus"),
        audio_file("m4a"),
    ]
    tally = Counter()
    draw = random.Random(0)
    with httpx.Client(base_url=url, timeout=60) as http:
        for number in range(500):
            content = bytearray(good[number % len(good)])
            for _ in range(draw.choice([1, 4, 64])):  # bytes that are others
                content[draw.randrange(len(content) // draw.choice([1, 1, 50]))] = draw.randrange(256)
            if draw.random() < 0.5:
                del content[draw.randrange(len(content)) :]
            answer = http.post(
                f"/v1/{draw.choice(['denoise', 'denoise', 'enhance'])}", content=bytes(content)
            )
            tally[answer.status_code] += 1
            if answer.status_code != 200:
                assert set(answer.json()) == {"error", "reason"}
                assert not re.search(r"/tmp|\.py|Traceback|0x[0-9a-f]{6}", answer.text), answer.text
    print(f"\nanswers {dict(tally)}")
    assert set(tally) <= {200, 400, 413, 422}
    assert tally[422] > 100


def audio_file(kind):
    waveform, rate = soundfile.read(SAMPLE, dtype="float32")
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/recording.{kind}"
        info = audio.probe(str(SAMPLE))
        target = audio.output_format(info, kind)
        with audio.encode(path, sample_rate=rate, channels=1, target=target) as encoder:
            encoder.write(waveform[None])
        return Path(path).read_bytes()


@pytest.mark.drill
@pytest.mark.timeout(900)
def test_the_description_holds_for_whatever_is_sent(url):
    pytest.importorskip("schemathesis")
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"),
        "--checks=not_a_server_error,status_code_conformance,content_type_conformance,"
        "response_schema_conformance,response_headers_conformance,unsupported_method",
        *("--max-examples", "100", "--seed", "1", "--no-color", "--continue-on-failure"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout[-6000:])
    assert done.returncode == 0


def open_requests(url):
    return float(re.search(r"^enhance_ray_open_requests (\S+)$", httpx.get(f"{url}/metrics").text, re.M)[1])


def test_a_client_that_hangs_up_leaves_nothing_behind(url):
    for read_first in (False, True):
        parts = urlsplit(url)
        body = wave(25, rate=44_100)
        with socket.create_connection((parts.hostname, parts.port)) as connection:
            head = f"POST /v1/enhance HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            until(lambda: open_requests(url) == 1)
            if read_first:
                connection.recv(100)
        until(lambda: open_requests(url) == 0)


def test_a_request_outlives_the_replica_that_works_on_it(url):
    body = wave(50, rate=44_100)
    expected = httpx.post(f"{url}/v1/denoise", content=body, timeout=60)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(httpx.post, f"{url}/v1/denoise", content=body, timeout=60)
        until(lambda: open_requests(url) == 1)
        (replica,) = pids("DenoiserDeployment")
        os.kill(replica, signal.SIGKILL)
        answer = asked.result()
    assert replica not in pids("DenoiserDeployment")
    assert answer.status_code == expected.status_code == 200
    np.testing.assert_allclose(samples(answer.content)[0], samples(expected.content)[0], atol=1e-3)


def test_uploads_that_stall_keep_nobody_out_and_are_ended(url):
    parts = urlsplit(url)
    with contextlib.ExitStack() as stack:
        stalled = []
        for _ in range(7):  # more than the requests that a client may have under way
            connection = socket.create_connection((parts.hostname, parts.port), timeout=30)
            stalled.append(stack.enter_context(connection))
            connection.sendall(b"POST /v1/denoise HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\nRIFF")
        time.sleep(0.5)

        assert httpx.post(f"{url}/v1/denoise", content=wave(1), timeout=60).status_code == 200

        for connection in stalled:
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            assert (answer.status, "too_slow" in answer.read().decode()) == (408, True)


def test_other_origins_are_let_in_by_name(url):
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    for origin, allowed in (("https://studio.example", True), ("https://other.example", False)):
        answer = httpx.options(f"{url}/v1/denoise", headers={"Origin": origin, **asked})
        assert (answer.headers.get("access-control-allow-origin") == origin) == allowed


def pair(name, source="s3://tests/shows/"):
    return {"input": f"{source}{name}", "output": f"s3://tests/shows/out/{name}"}


def order(*names, **more):
    return {"recordings": [pair(name) for name in names], **more}


@pytest.fixture(scope="module")
def shows(url):
    filesystem = fsspec.filesystem("s3")
    filesystem.pipe_file("tests/shows/long.flac", flac(70))
    filesystem.pipe_file("tests/shows/short.wav", wave(2))
    filesystem.pipe_file("tests/shows/broken.mp3", b"no sound")
    return filesystem


def flac(seconds):
    """A recording that is longer than a request may be."""
    waveform, rate = soundfile.read(SAMPLE, dtype="float32")
    file = io.BytesIO()
    soundfile.write(file, np.resize(waveform, seconds * rate), rate, format="FLAC")
    return file.getvalue()


def test_a_job_goes_from_storage_to_storage(client, shows, tmp_path):
    job = client.submit(**order("long.flac", "short.wav", "broken.mp3"), options={"strength": 0.9})
    seen = []
    done = client.wait(job["id"], progress=lambda state: seen.append(state["progress"]), poll_seconds=0.2)

    assert [recording["status"] for recording in done["recordings"]] == ["done", "done", "failed"]
    assert done["recordings"][2]["error"] == "audio_unreadable"
    assert done["status"] == "failed"
    assert done["recordings"][0]["seconds"] == pytest.approx(70, abs=0.01)
    assert seen == sorted(seen)
    assert any(0 < progress < 1 for progress in seen)
    shows.get_file("tests/shows/long.flac", tmp_path / "long.flac")
    enhancer = Enhancer.load(denoiser_only=True)
    jobs = plan_jobs(str(tmp_path / "long.flac"), str(tmp_path / "clean.flac"))
    list(enhance_files(jobs, enhancer, EnhanceOptions(strength=0.9)))
    shows.invalidate_cache()
    expected, _ = samples((tmp_path / "clean.flac").read_bytes())
    answer, info = samples(shows.cat_file("tests/shows/out/long.flac"))
    assert info.codec == "flac"
    np.testing.assert_allclose(answer, expected, atol=1e-2)
    client.delete(job["id"])
    with pytest.raises(EndpointError, match="no such job"):
        client.job(job["id"])


def test_a_loudness_that_is_missed_is_told_alike_by_files_requests_jobs_and_bulk(
    url, client, shows, tmp_path
):
    shows.put_file(str(SAMPLE), "tests/shows/loud.flac")
    options = EnhanceOptions(loudness=-1)
    jobs = plan_jobs(str(SAMPLE), str(tmp_path / "loud.flac"))
    (record,) = enhance_files(jobs, Enhancer.load(denoiser_only=True), options)
    answer = httpx.post(f"{url}/v1/denoise", params={"loudness": -1}, content=SAMPLE.read_bytes(), timeout=60)
    job = client.submit(**order("loud.flac"), options={"loudness": -1})
    (recording,) = client.wait(job["id"], poll_seconds=0.2)["recordings"]
    bulk = BulkConfig(
        input="s3://tests/shows/loud.flac", output="s3://tests/bulk", options=options, cpus_per_actor=0.5
    )
    run_bulk(bulk)
    (row,) = records(job_state(bulk.output))

    assert "a limiter would have to take more than 12 dB" in record.warning
    assert answer.headers["X-Warning"] == recording["warning"] == row["warning"] == record.warning
    assert record.peak_reduction >= 12
    for level in ("peak_in", "peak_out", "peak_reduction", "loudness_in", "loudness_out"):
        assert recording[level] == pytest.approx(getattr(record, level), abs=0.01)
        assert row[level] == pytest.approx(getattr(record, level), abs=0.01)
    shows.invalidate_cache()
    expected, _ = samples((tmp_path / "loud.flac").read_bytes())
    stored = [shows.cat_file(f"tests/{path}/loud.flac") for path in ("shows/out", "bulk")]
    for content in (answer.content, *stored):
        np.testing.assert_allclose(samples(content)[0], expected, atol=1e-2)


def test_what_a_guard_kept_is_told_of_all_segments(url, tmp_path):
    """Speech, and after the first segment music."""
    speech, rate = soundfile.read(SAMPLE, dtype="float32")
    show = np.concatenate([np.resize(speech, 32 * rate), jingle(8).numpy()])
    soundfile.write(tmp_path / "show.flac", show, rate)
    jobs = plan_jobs(str(tmp_path / "show.flac"), str(tmp_path / "out.flac"))
    (record,) = enhance_files(jobs, Enhancer.load(denoiser_only=True), EnhanceOptions(guard=True))

    content = (tmp_path / "show.flac").read_bytes()
    answer = httpx.post(f"{url}/v1/denoise", params={"guard": "true"}, content=content, timeout=60)

    assert any(span["stop"] > 39 and span["kept"] == "original" for span in record.guard)
    assert json.loads(answer.headers["X-Guard"]) == record.guard
    expected, _ = samples((tmp_path / "out.flac").read_bytes())
    np.testing.assert_allclose(samples(answer.content)[0], expected, atol=1e-2)


@pytest.mark.drill("the jobs' process")
def test_a_job_outlives_the_process_that_works_on_it(client, shows):
    job = client.submit(**order("long.flac", replace=True))
    until(lambda: client.job(job["id"])["progress"] > 0)
    os.kill(pids("JobsDeployment")[0], signal.SIGKILL)

    assert client.wait(job["id"], poll_seconds=0.5)["status"] == "done"


def test_a_job_is_stopped_by_deleting_it(client, shows):
    shows.pipe_file("tests/shows/stopped.flac", flac(130))
    job = client.submit(**order("stopped.flac"))
    until(lambda: client.job(job["id"])["status"] == "running")
    client.delete(job["id"])

    with pytest.raises(EndpointError) as refused:
        client.job(job["id"])
    assert refused.value.status == 404
    shows.invalidate_cache()
    time.sleep(3)
    assert not shows.exists("tests/shows/out/stopped.flac")


@pytest.mark.parametrize(
    ("wrong", "status", "code"),
    [
        ({"recordings": []}, 422, "request_invalid"),
        ({"colour": "red"}, 422, "request_invalid"),
        ({"recordings": [pair("passwd", "file:///etc/")]}, 422, "uri_refused"),
        ({"recordings": [pair("x", "http://127.0.0.1/")]}, 422, "uri_refused"),
        (order("a/../../secret.wav"), 422, "uri_refused"),
        (order("x::file:///etc/passwd"), 422, "uri_refused"),
        ({"recordings": [pair("x.wav", "s3://tests/shows-of-others/")]}, 422, "uri_refused"),
        (order("a.wav", "b.wav", "c.wav", "d.wav"), 413, "too_many"),
        (order("a.wav", "a.wav"), 409, "output_clash"),
        (order("a.wav", options={"nfe": 0}), 400, "config_invalid"),
        (order("there.wav"), 409, "output_exists"),
    ],
)  # fmt: skip
def test_jobs_that_are_refused(url, shows, wrong, status, code):
    shows.pipe_file("tests/shows/out/there.wav", b"x")
    response = httpx.post(f"{url}/v1/jobs", json=order("short.wav") | wrong)

    assert (response.status_code, response.json()["error"]) == (status, code)


def test_the_guide_s_client_runs_as_written(url, tmp_path, monkeypatch):
    root = Path(__file__).parents[2]
    [code] = re.findall(r"```python\n(.*?)```", (root / "docs" / "endpoint.md").read_text(), re.DOTALL)
    (tmp_path / "samples").symlink_to(root / "samples")
    monkeypatch.chdir(tmp_path)

    exec(code.replace("http://127.0.0.1:8000", url), {})

    assert audio.probe("clean.wav").codec == "pcm"


def test_health_and_models(url, client):
    assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}
    assert httpx.get(f"{url}/readyz").json() == {"status": "ready"}
    assert {model["mode"] for model in client.models()} == {"denoise", "enhance"}
    client.denoise(SAMPLE)
    metrics = httpx.get(f"{url}/metrics").text
    assert 'enhance_ray_requests_total{mode="denoise",status="200"}' in metrics
    with pytest.raises(EndpointError, match="not audio"):
        client.denoise(b"not audio at all, but text")


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="did you mean 'denoiser'"):
        build({"denoisr": {}})


def test_a_death_is_seen_through_what_is_wrapped_around_it():
    died = ray.exceptions.ActorDiedError()
    in_task = ray.exceptions.RayTaskError("forward", "", died)
    by_serve = RayServeException("upstream")
    by_serve.__context__ = in_task
    bug = ray.exceptions.RayTaskError("forward", "", ValueError())

    assert all(map(is_lost_replica, (died, in_task, by_serve)))
    assert not any(map(is_lost_replica, (bug, RayServeException("else"), BackPressureError(1, 1))))
