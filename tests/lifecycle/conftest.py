import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from tests.lifecycle.versions_at_hand import MODEL

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}

# One request at a time: moto's own server has threads, and two conditional puts at once then both succeed in it.
_S3 = """
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple
run_simple("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app))
"""


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Two pairs, NAME.key and NAME.pub, and one of a curve that the library does not know."""
    folder = tmp_path_factory.mktemp("keys")
    for name, curve in (("ours", "prime256v1"), ("theirs", "prime256v1"), ("strange", "secp112r1")):
        made = ["openssl", "ecparam", "-name", curve, "-genkey", "-noout", "-out", f"{folder}/{name}.key"]
        subprocess.run(made, check=True, capture_output=True)
        public = ["openssl", "ec", "-in", f"{folder}/{name}.key", "-pubout", "-out", f"{folder}/{name}.pub"]
        subprocess.run(public, check=True, capture_output=True)
    (folder / "junk.pub").write_text("junk")
    return folder


@pytest.fixture
def fresh_store(small_store: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A store of one's own, with version 1 of the smaller model, whose files may be changed."""
    target = tmp_path / "store"
    shutil.copytree(small_store / MODEL / "1", target / MODEL / "1")
    return target


@pytest.fixture(scope="session")
def s3() -> Iterator[None]:
    """A local S3 server in a process of its own, which this process and its children use."""
    with subprocess.Popen(
        [sys.executable, "-c", _S3], stderr=subprocess.PIPE, text=True, env={**os.environ, **CREDENTIALS}
    ) as process:
        assert process.stderr is not None
        address = next(found[0] for line in process.stderr if (found := re.search(r"http://127\S+:\d+", line)))
        drain = threading.Thread(target=process.stderr.read)  # a full pipe would stop it
        drain.start()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": address}.items():
                patch.setenv(name, value)
            yield
        process.terminate()
        drain.join()


@pytest.fixture
def bucket(s3: None, request: pytest.FixtureRequest) -> str:
    import boto3  # noqa: PLC0415 - half a second that one fixture needs

    name = re.sub(r"[^a-z0-9]+", "-", f"b-{request.node.name.lower()}-{os.urandom(3).hex()}")[-60:].strip("-")
    client = boto3.client("s3")
    client.create_bucket(Bucket=name)
    client.close()
    return f"s3://{name}/models"
