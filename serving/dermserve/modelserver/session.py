"""One loaded SavedModel: TF Serving's loader and session, and what its signatures are."""

import threading
from collections.abc import Mapping, Sequence
from ctypes import POINTER, byref, c_char_p, c_void_p, cast, string_at
from pathlib import Path
from typing import Any

from dermserve.modelserver._library import Buffer, Output, Status, buffer_of, library
from dermserve.modelserver._protos import config_pb2, meta_graph_pb2
from dermserve.modelserver.errors import ServingError, invalid_argument
from dermserve.modelserver.tensors import Tensor, Value


class Session:
    """A SavedModel in memory. Any number of threads may `run` it; `close` comes after the last of them."""

    def __init__(self, path: Path, *, tags: Sequence[str], config: Any) -> None:
        """Load the meta graph with these tags, restore its variables and run its initialisation.

        Raises:
            ServingError: with the code and the message of TensorFlow's loader.
        """
        self._graph = c_void_p(library().TF_NewGraph())
        try:
            self._session, meta_graph = _load(path, tags=tags, config=config, graph=self._graph)
        except ServingError:
            library().TF_DeleteGraph(self._graph)
            raise
        self.signatures: Mapping[str, Any] = dict(meta_graph.signature_def)
        self._outputs: dict[str, Output] = {}
        self._lock = threading.Lock()

    def run(self, feeds: Mapping[str, Tensor], *, fetches: Sequence[str], timeout_ms: int = 0) -> list[Value]:
        """Feed tensors by name and fetch others, in the order asked. A timeout of 0 waits for ever.

        Raises:
            ServingError: with the code and the message of TensorFlow's session.
        """
        inputs = (Output * len(feeds))(*[self._output(name) for name in feeds])
        tensors = (c_void_p * len(feeds))(*[tensor.handle for tensor in feeds.values()])
        outputs = (Output * len(fetches))(*[self._output(name) for name in fetches])
        results = (c_void_p * len(fetches))()
        options = config_pb2.RunOptions(timeout_in_ms=timeout_ms).SerializeToString()
        with Status() as status:
            library().TF_SessionRun(
                *(self._session, byref(buffer_of(options)), inputs, tensors, len(feeds)),
                *(outputs, results, len(fetches), None, 0, None, status),
            )
        return [Tensor(handle).value() for handle in results if handle is not None]

    def close(self) -> None:
        """Free the session and its graph."""
        with Status() as status:
            library().TF_CloseSession(self._session, status)
        with Status() as status:
            library().TF_DeleteSession(self._session, status)
        library().TF_DeleteGraph(self._graph)

    def _output(self, name: str) -> Output:
        with self._lock:
            if name not in self._outputs:
                self._outputs[name] = _resolve(self._graph, name)
            return self._outputs[name]


def _load(path: Path, *, tags: Sequence[str], config: Any, graph: c_void_p) -> tuple[c_void_p, Any]:
    tf = library()
    names = (c_char_p * len(tags))(*[tag.encode() for tag in tags])
    serialized = config.SerializeToString()
    options, meta_graph = c_void_p(tf.TF_NewSessionOptions()), tf.TF_NewBuffer()
    try:
        with Status() as status:
            tf.TF_SetConfig(options, serialized, len(serialized), status)
        where = str(path).encode()
        with Status() as status:
            session = tf.TF_LoadSessionFromSavedModel(options, None, where, names, len(tags), graph, meta_graph, status)
        return c_void_p(session), _signatures(meta_graph)
    finally:
        tf.TF_DeleteBuffer(meta_graph)
        tf.TF_DeleteSessionOptions(options)


def _signatures(buffer: Any) -> Any:
    content = cast(buffer, POINTER(Buffer)).contents
    whole = meta_graph_pb2.MetaGraphDef.FromString(string_at(content.data, content.length))
    # Only the signatures are kept: the graph in it is as large as the model.
    return meta_graph_pb2.MetaGraphDef(signature_def=whole.signature_def)


def _resolve(graph: c_void_p, name: str) -> Output:
    operation, _, index = name.rpartition(":")
    if not operation or not index.isdecimal():
        operation, index = name, "0"
    found = library().TF_GraphOperationByName(graph, operation.encode())
    if found is None:
        where = "specified in either feed_devices or fetch_devices was not found in the Graph"
        raise invalid_argument(f"Tensor {operation}:{index}, {where}")
    count = library().TF_OperationNumOutputs(found)
    if count == 0:
        raise invalid_argument(
            f"Tried to fetch data for '{name}', which produces no output.  To run to a node but not fetch any data, "
            f"pass '{name}' as an argument to the 'target_node_names' argument of the Session::Run API."
        )
    if int(index) >= count:
        raise invalid_argument(f"FetchOutputs {name}: output index too large, must be < {count}")
    return Output(found, int(index))
