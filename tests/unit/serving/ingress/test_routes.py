"""Every endpoint, as its callers know it."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING

import pytest

from serving.errors import UnknownRoute
from serving.ingress.routes import find_target
from serving.routing.split import lot
from serving.routing.table import Split
from tests.fakes import FakeClock

if TYPE_CHECKING:
    from tests.unit.serving.ingress.conftest import Site

X = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
INFER = json.dumps({"inputs": [X]}).encode()


async def test_the_servers_own_metadata(clock: FakeClock, site: Site) -> None:
    response = await site.ask("GET", "/v2")
    assert (response.status, response.json["name"], response.json["version"]) == (200, "holdfast", "1.2.3")
    assert "binary_tensor_data" in response.json["extensions"]


async def test_it_lives_before_it_is_ready(clock: FakeClock, site: Site) -> None:
    for path, status, body in [
        ("/v2/health/live", 200, {"live": True}),
        ("/v2/health/ready", 503, {"ready": False}),
        ("/v2/holdfast/accepting", 503, {"accepting": False, "system": "here"}),
    ]:
        response = await site.ask("GET", path)
        assert (response.status, response.json) == (status, body)
    await site.start()
    for path, body in [
        ("/v2/health/ready", {"ready": True}),
        ("/v2/holdfast/accepting", {"accepting": True, "system": "here"}),
    ]:
        response = await site.ask("GET", path)
        assert (response.status, response.json) == (200, body)
    site.gateway.draining = True
    assert (await site.ask("GET", "/v2/health/live")).status == 200
    assert (await site.ask("GET", "/v2/health/ready")).status == 503
    assert (await site.ask("GET", "/v2/holdfast/accepting")).status == 503
    await site.gateway.close()


async def test_models_and_their_metadata(clock: FakeClock, site: Site) -> None:
    await site.start()
    assert (await site.ask("GET", "/v2/models")).json == {"models": ["m", "n"]}
    model = (await site.ask("GET", "/v2/models/m")).json
    assert (model["name"], model["versions"], model["platform"]) == ("m", ["v1", "v2"], "onnxruntime_onnx")
    assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    assert (await site.ask("GET", "/v2/models/m/versions/v2")).json["versions"] == ["v2"]
    config = (await site.ask("GET", "/v2/models/m/config")).json
    assert (config["max_batch_size"], config["input"][0]["dims"]) == (32, [2])
    assert (await site.ask("GET", "/v2/models/m/versions/v2/config")).status == 200
    await site.gateway.close()


async def test_a_model_is_ready_as_long_as_its_version_can_answer(clock: FakeClock, site: Site) -> None:
    await site.start()
    assert (await site.ask("GET", "/v2/models/m/ready")).json == {"name": "m", "ready": True}
    site.links["m@v1"].replicas = 0
    response = await site.ask("GET", "/v2/models/m/ready")
    assert (response.status, response.json) == (503, {"name": "m", "ready": False})
    assert (await site.ask("GET", "/v2/models/m/versions/v2/ready")).status == 200
    await site.gateway.close()


@pytest.mark.parametrize(("path", "version"), [("/v2/models/m/infer", "v1"), ("/v2/models/m/versions/v2/infer", "v2")])
async def test_an_inference_says_who_answered(clock: FakeClock, site: Site, path: str, version: str) -> None:
    await site.start()
    response = await site.ask("POST", path, INFER)
    assert (response.status, response.headers["holdfast-version"]) == (200, f"m@{version}")
    assert (response.json["model_version"], response.json["outputs"][0]["data"]) == (version, [2, 4])
    assert [key for key, tally in site.recorder.collect().items() if tally.outcomes["ok"]] == [("m", version)]
    await site.gateway.close()


async def test_tensors_travel_in_binary_both_ways(clock: FakeClock, site: Site) -> None:
    await site.start()
    raw = b"\0\0\x80?\0\0\0@"
    entry = {**X, "parameters": {"binary_data_size": 8}}
    del entry["data"]
    head = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    response = await site.ask(
        "POST", "/v2/models/m/infer", head + raw, {"Inference-Header-Content-Length": str(len(head))}
    )
    assert response.headers["content-type"] == "application/octet-stream"
    length = int(response.headers["inference-header-content-length"])
    assert json.loads(response.body[:length])["outputs"][0]["parameters"] == {"binary_data_size": 8}
    assert response.body[length:] == b"\0\0\0@\0\0\x80@"
    await site.gateway.close()


async def test_bodies_are_inflated_and_deflated_as_the_headers_say(clock: FakeClock, site: Site) -> None:
    await site.start()
    body = json.dumps({"inputs": [{**X, "shape": [200, 2], "data": [1.25] * 400}]}).encode()
    headers = {"Content-Encoding": "gzip", "Accept-Encoding": "gzip"}
    response = await site.ask("POST", "/v2/models/m/infer", gzip.compress(body), headers)
    assert response.headers["content-encoding"] == "gzip"
    assert json.loads(gzip.decompress(response.body))["outputs"][0]["data"] == [2.5] * 400
    await site.gateway.close()


async def test_the_header_of_a_stickiness_key_decides_who_answers(clock: FakeClock, site: Site) -> None:
    await site.start()
    split = Split(version="v2", weight=0.5, epoch="r1")
    await site.gateway.apply(site.gateway.table.with_split("m", split))
    for key in (f"user {number}" for number in range(8)):
        response = await site.ask("POST", "/v2/models/m/infer", INFER, {"X-Sticky-Key": key})
        version = "v2" if lot(key.encode(), "r1") < 0.5 else "v1"
        assert response.headers["holdfast-version"] == f"m@{version}"
    await site.gateway.close()


async def test_statistics_count_what_happened(clock: FakeClock, site: Site) -> None:
    await site.start()
    await site.ask("POST", "/v2/models/m/infer", INFER)
    stats = (await site.ask("GET", "/v2/models/m/stats")).json["model_stats"]
    assert [(each["version"], each["inference_count"]) for each in stats] == [("v1", 1), ("v2", 0)]
    assert stats[0]["inference_stats"]["success"]["count"] == 1
    assert len((await site.ask("GET", "/v2/models/stats")).json["model_stats"]) == 3
    assert len((await site.ask("GET", "/v2/models/m/versions/v2/stats")).json["model_stats"]) == 1
    await site.gateway.close()


async def test_the_index_shows_the_store_and_why_something_is_not_served(clock: FakeClock, site: Site) -> None:
    await site.start()
    site.links["n@v1"].replicas = 0
    index = {
        f"{each['name']}@{each['version']}": each for each in (await site.ask("POST", "/v2/repository/index")).json
    }
    assert {name: each["state"] for name, each in index.items()} == {
        "m@v1": "READY",
        "m@v2": "READY",
        "m@v3": "UNAVAILABLE",
        "n@v1": "UNAVAILABLE",
    }
    assert (index["m@v3"]["reason"], index["n@v1"]["reason"]) == ("it is rotten", "no replica can take work now")
    ready = (await site.ask("POST", "/v2/repository/index", b'{"ready": true}')).json
    assert [each["version"] for each in ready] == ["v1", "v2"]
    await site.gateway.close()


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"ready": 1}', b"\xff", b'{"x": ' + b"[" * 3000])
async def test_a_wrong_index_request_is_the_callers_fault(clock: FakeClock, site: Site, body: bytes) -> None:
    response = await site.ask("POST", "/v2/repository/index", body)
    assert (response.status, response.json["error"][:10]) == (400, "the body: ")


async def test_metrics_are_text(clock: FakeClock, site: Site) -> None:
    response = await site.ask("GET", "/metrics")
    assert (response.status, response.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert response.body == b"holdfast_requests_total 1\n"


class TestWrongRequests:
    @pytest.mark.parametrize(
        ("method", "path", "allow"),
        [
            ("POST", "/v2", "GET, HEAD"),
            ("DELETE", "/v2/models/m", "GET, HEAD"),
            ("PUT", "/v2/health/ready", "GET, HEAD"),
            ("GET", "/v2/models/m/infer", "POST"),
            ("HEAD", "/v2/models/m/infer", "POST"),
            ("OPTIONS", "/v2/models/m/versions/v1/infer", "POST"),
            ("GET", "/v2/repository/index", "POST"),
            ("GET", "/v2/repository/models/m/load", "POST"),
            ("POST", "/metrics", "GET, HEAD"),
        ],
    )
    async def test_another_method_hears_which_are_allowed(
        self, clock: FakeClock, site: Site, method: str, path: str, allow: str
    ) -> None:
        response = await site.ask(method, path)
        assert (response.status, response.headers["allow"]) == (405, allow)
        if method != "HEAD":
            assert response.json["error"] == f"{path} takes {allow}, not {method}"

    @pytest.mark.parametrize(
        "path",
        [
            "",
            "/",
            "/v1",
            "/v2/",
            "/v2/model",
            "/v2/models/",
            "/v2/models//infer",
            "/v2/models/m/",
            "/v2/models/m/explain",
            "/v2/models/m/infer/",
            "/v2/models/m/versions",
            "/v2/models/m/versions/",
            "/v2/models/m/versions//infer",
            "/v2/models/m/versions/v1/versions/v2",
            "/v2/repository/models/m",
            "/v2/repository/models//load",
            "/v2/repository/models/m/delete",
            "/v2/models/m/infer\0",
            "/v2/" + "x" * 10_000,
        ],
    )
    async def test_another_path_is_not_found(self, clock: FakeClock, site: Site, path: str) -> None:
        with pytest.raises(UnknownRoute):
            find_target(path)
        response = await site.ask("GET", path)
        assert response.status == 404
        assert response.json["error"].startswith("no such path: ")
        assert len(response.body) < 500

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", "/v2/models/x"),
            ("GET", "/v2/models/x/ready"),
            ("GET", "/v2/models/x/config"),
            ("GET", "/v2/models/x/stats"),
            ("GET", "/v2/models/m/versions/v9"),
            ("GET", "/v2/models/m/versions/v9/ready"),
            ("GET", "/v2/models/m/versions/v9/stats"),
            ("POST", "/v2/models/x/infer"),
            ("POST", "/v2/models/m/versions/v3/infer"),
        ],
    )
    async def test_an_unknown_model_is_not_found(self, clock: FakeClock, site: Site, method: str, path: str) -> None:
        await site.start()
        response = await site.ask(method, path, INFER)
        assert response.status == 404
        assert response.json["error"].startswith("model '")
        await site.gateway.close()

    @pytest.mark.parametrize(
        ("headers", "status", "text"),
        [
            ({"Inference-Header-Content-Length": "ten"}, 400, "header Inference-Header-Content-Length: 'ten'"),
            ({"Inference-Header-Content-Length": "-1"}, 400, "header Inference-Header-Content-Length: '-1'"),
            ({"Inference-Header-Content-Length": "9" * 13}, 400, "header Inference-Header-Content-Length: '999"),
            ({"Content-Encoding": "br"}, 415, "Content-Encoding: 'br' isn't supported"),
            ({"Content-Encoding": "gzip"}, 400, ""),
            ({"X-Request-Timeout-Us": "soon"}, 400, "header x-request-timeout-us: 'soon'"),
            ({"X-Sticky-Key": "a" * 257}, 400, "header x-sticky-key: it has 257 bytes, more than 256"),
        ],
    )
    async def test_a_wrong_header_is_named(
        self, clock: FakeClock, site: Site, headers: dict[str, str], status: int, text: str
    ) -> None:
        await site.start()
        response = await site.ask("POST", "/v2/models/m/infer", INFER, headers)
        assert (response.status, response.json["error"][: len(text)]) == (status, text)
        await site.gateway.close()

    async def test_a_body_that_inflates_beyond_the_bound_is_too_large(self, clock: FakeClock, site: Site) -> None:
        await site.start()
        bomb = gzip.compress(bytes(1 << 20))
        for path in ("/v2/models/m/infer", "/v2/repository/models/m/load"):
            assert (await site.ask("POST", path, bomb, {"Content-Encoding": "gzip"})).status == 413
        await site.gateway.close()

    async def test_a_deadline_that_passes_is_a_timeout(self, clock: FakeClock, site: Site) -> None:
        await site.start()
        site.links["m@v1"].gate.clear()
        response = await site.ask("POST", "/v2/models/m/infer", INFER, {"X-Request-Timeout-Us": "20000"})
        assert response.status == 504
        await site.gateway.close()

    async def test_no_replica_is_no_service(self, clock: FakeClock, site: Site) -> None:
        await site.start()
        site.links["m@v1"].replicas = 0
        response = await site.ask("POST", "/v2/models/m/infer", INFER)
        assert (response.status, response.json["error"]) == (503, "no replica of m@v1 can take work now")
        await site.gateway.close()

    async def test_a_defect_of_ours_shows_nothing_of_itself(self, clock: FakeClock, site: Site) -> None:
        await site.start()
        site.routes._information._gateway = None  # type: ignore[assignment]
        response = await site.ask("GET", "/v2/models/m")
        assert (response.status, response.json["error"]) == (500, "internal error; the server's log has the details")
        await site.gateway.close()
