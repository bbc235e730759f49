"""What reflection tells a client that has no protos: `buf curl` asks for v1 of it and takes v1alpha instead."""

import asyncio
import json
import pathlib
import sys

from dermserve.gateway.service import SERVICE
from tests.gateway.gateways import MODEL

BUF = pathlib.Path(sys.executable).with_name("buf")


async def test_a_client_without_protos_finds_the_methods_and_prints_json_names(running, tmp_path):
    async with running(reflection=True) as world:

        async def curl(path: str, *arguments: str) -> str:
            options = ("curl", "--http2-prior-knowledge", "--protocol", "grpc", "--reflect", *arguments)
            command = (BUF, *options, f"http://{world.gateway.address}{path}")
            child = await asyncio.create_subprocess_exec(*command, cwd=tmp_path, stdout=-1, stderr=-1)
            output, errors = await asyncio.wait_for(child.communicate(), 60)
            assert not child.returncode, errors
            return output.decode()

        methods = (await curl("", "--list-methods")).split()
        assert {f"{SERVICE}/Classify", f"{SERVICE}/ClassifyStream", "grpc.health.v1.Health/Check"} <= {*methods}
        answer = json.loads(await curl(f"/{SERVICE}/GetModel", "--data", json.dumps({"name": MODEL})))
    assert answer["model"]["versions"][0]["card"]["schemaVersion"]
